import { isAbsolute } from 'node:path';
import { OCF, type OcfCode, OcfFailure } from './ocf.ts';
import { splitWords } from './words.ts';

/** What ocf-metadata.xml declares of one parameter; a test compares this table with that file. */
interface Declaration {
  readonly type: 'string' | 'integer' | 'boolean';
  readonly default?: string;
  readonly required?: true;
}

/**
 * The resource's parameters, by their OCF names. What each means is said once, in ocf-metadata.xml. A
 * parameter without a default is undefined unless it is set; one set to the empty text counts as not set.
 */
export interface Parameters {
  /** Absolute path of the domain XML file. Empty only beside a problem that says why. */
  readonly config: string;
  readonly hypervisor: string;
  readonly force_stop: boolean;
  readonly migration_transport: string | undefined;
  readonly migration_user: string | undefined;
  /** Milliseconds; 0 leaves libvirt's setting. */
  readonly migration_downtime: number;
  /** MiB/s; 0 leaves libvirt's setting. */
  readonly migration_speed: number;
  readonly migration_network_suffix: string | undefined;
  readonly migrateuri: string | undefined;
  /** Words for `virsh migrate`; a `--migrateuri` among them and `%n` are still as written. */
  readonly migrate_options: readonly string[];
  /** Programs, run without arguments. */
  readonly monitor_scripts: readonly string[];
  readonly autoset_utilization_cpu: boolean;
  readonly autoset_utilization_host_memory: boolean;
  readonly autoset_utilization_hv_memory: boolean;
  readonly unset_utilization_cpu: boolean;
  readonly unset_utilization_host_memory: boolean;
  readonly unset_utilization_hv_memory: boolean;
  readonly migrateport: number | undefined;
  readonly remoteuri: string | undefined;
  /** True also where sync_config_on_stop is. */
  readonly save_config_on_stop: boolean;
  readonly sync_config_on_stop: boolean;
  readonly snapshot: string | undefined;
  readonly backingfile: string | undefined;
  readonly stateless: boolean;
  readonly copyindirs: readonly string[];
  readonly shutdown_mode: string | undefined;
  readonly start_resources: boolean;
  readonly preserved_guest: 'keep' | 'dump' | 'destroy';
  readonly operator_pause: 'healthy' | 'failed';
  readonly guest_panic: 'fence' | 'preserve';
  readonly policy: string;
  readonly set_error_policy: boolean;
}

export type ParameterName = keyof Parameters;

/** Where the policy is looked for unless the parameter `policy` says otherwise; it may be missing there. */
export const DEFAULT_POLICY_PATH = '/etc/kvmha/policy.yaml';

export const DECLARATIONS = {
  config: { type: 'string', required: true },
  hypervisor: { type: 'string', default: 'qemu:///system' },
  force_stop: { type: 'boolean', default: 'false' },
  migration_transport: { type: 'string' },
  migration_user: { type: 'string' },
  migration_downtime: { type: 'integer', default: '0' },
  migration_speed: { type: 'integer', default: '0' },
  migration_network_suffix: { type: 'string' },
  migrateuri: { type: 'string' },
  migrate_options: { type: 'string' },
  monitor_scripts: { type: 'string' },
  autoset_utilization_cpu: { type: 'boolean', default: 'true' },
  autoset_utilization_host_memory: { type: 'boolean', default: 'true' },
  autoset_utilization_hv_memory: { type: 'boolean', default: 'true' },
  unset_utilization_cpu: { type: 'boolean', default: 'false' },
  unset_utilization_host_memory: { type: 'boolean', default: 'false' },
  unset_utilization_hv_memory: { type: 'boolean', default: 'false' },
  migrateport: { type: 'integer' },
  remoteuri: { type: 'string' },
  save_config_on_stop: { type: 'boolean', default: 'false' },
  sync_config_on_stop: { type: 'boolean', default: 'false' },
  snapshot: { type: 'string' },
  backingfile: { type: 'string' },
  stateless: { type: 'boolean', default: 'false' },
  copyindirs: { type: 'string' },
  shutdown_mode: { type: 'string' },
  start_resources: { type: 'boolean', default: 'false' },
  preserved_guest: { type: 'string', default: 'keep' },
  operator_pause: { type: 'string', default: 'healthy' },
  guest_panic: { type: 'string', default: 'fence' },
  policy: { type: 'string', default: DEFAULT_POLICY_PATH },
  set_error_policy: { type: 'boolean', default: 'true' },
} as const satisfies Record<ParameterName, Declaration>;

type NameOfType<Type extends Declaration['type']> = {
  [Name in ParameterName]: (typeof DECLARATIONS)[Name]['type'] extends Type ? Name : never;
}[ParameterName];

/** A value that cannot be used. Where it is a value's fault, the default stands in its place. */
export interface ParameterProblem {
  readonly parameter: ParameterName;
  /** ERR_CONFIGURED: wrong on any node. ERR_INSTALLED: something is missing on this node. */
  readonly code: OcfCode;
  /** One sentence that names the parameter and the value. */
  readonly reason: string;
}

export interface ReadParameters {
  readonly parameters: Parameters;
  readonly problems: readonly ParameterProblem[];
}

/** The words that ocf_is_true (ocf-shellfuncs) takes for true, and their opposites. */
const TRUE_WORDS = ['yes', 'true', '1', 'YES', 'TRUE', 'True', 'ja', 'on', 'ON'];
const FALSE_WORDS = ['no', 'false', '0', 'NO', 'FALSE', 'False', 'nein', 'off', 'OFF'];

/** QEMU's MAX_MIGRATE_DOWNTIME (migration/options.c): 2000 s. */
const MAX_DOWNTIME_MS = 2_000_000;
/** libvirt counts bandwidth in bytes in a signed 64-bit number (qemu_driver.c). */
const MAX_SPEED_MIB = 8_796_093_022_207;

/** libvirt's remote transports (src/remote/remote_sockets.c). */
const TRANSPORTS = ['ssh', 'libssh', 'libssh2', 'tls', 'tcp', 'unix', 'ext'] as const;
/** The modes of `virsh shutdown --mode` that the qemu driver implements. */
const SHUTDOWN_MODES = ['acpi', 'agent'] as const;

const LOCAL_HOSTS = ['', 'localhost', '127.0.0.1', '[::1]'];

/**
 * Reads the parameters from OCF_RESKEY_* variables. It looks at the values only, never at the machine (that
 * is `findLocalProblems`), and does not throw: a value that cannot be used becomes a problem, and its
 * default, which is always the more cautious choice, stands in its place.
 */
export function readParameters(env: Readonly<Record<string, string | undefined>>): ReadParameters {
  const problems: ParameterProblem[] = [];

  function refuse(parameter: ParameterName, reason: string): void {
    problems.push({ parameter, code: OCF.ERR_CONFIGURED, reason });
  }

  function given(name: ParameterName): string | undefined {
    const value = env[`OCF_RESKEY_${name}`];
    return value === undefined || value === '' ? undefined : value;
  }

  function defaultOf(name: ParameterName): string | undefined {
    const declaration: Declaration = DECLARATIONS[name];
    return declaration.default;
  }

  function boolean(name: NameOfType<'boolean'>): boolean {
    const value = given(name);
    if (value !== undefined && TRUE_WORDS.includes(value)) {
      return true;
    }
    if (value !== undefined && FALSE_WORDS.includes(value)) {
      return false;
    }
    if (value !== undefined) {
      refuse(name, `${name} is neither true nor false: ${quote(value)}`);
    }
    return defaultOf(name) === 'true';
  }

  function integer(name: NameOfType<'integer'>, least: number, most: number): number | undefined {
    const value = given(name);
    if (value !== undefined) {
      if (/^[0-9]{1,16}$/.test(value) && Number(value) >= least && Number(value) <= most) {
        return Number(value);
      }
      refuse(name, `${name} is not a whole number from ${least} to ${most}: ${quote(value)}`);
    }
    const fallback = defaultOf(name);
    return fallback === undefined ? undefined : Number(fallback);
  }

  /** A value that `accepts` has nothing against: it returns the rest of the sentence "NAME ...". */
  function text(
    name: NameOfType<'string'>,
    accepts: (value: string) => string | undefined,
  ): string | undefined {
    const value = given(name);
    if (value === undefined) {
      return defaultOf(name);
    }
    const objection = hasControlCharacter(value) ? 'has a control character' : accepts(value);
    if (objection !== undefined) {
      refuse(name, `${name} ${objection}: ${quote(value)}`);
      return defaultOf(name);
    }
    return value;
  }

  function oneOf<Word extends string>(
    name: NameOfType<'string'>,
    words: readonly Word[],
    fallback: Word,
  ): Word {
    const value = text(name, () => undefined);
    const word = words.find((candidate) => candidate === value);
    if (word === undefined && value !== undefined) {
      refuse(name, `${name} is none of ${words.join(', ')}: ${quote(value)}`);
    }
    return word ?? fallback;
  }

  function words(name: NameOfType<'string'>): readonly string[] {
    const value = given(name) ?? '';
    const list = splitWords(value);
    if (list === undefined) {
      refuse(name, `${name} has an unclosed quote or ends in a backslash: ${quote(value)}`);
      return [];
    }
    // Blanks separate, so a list may be spread over lines.
    if (list.some(hasControlCharacter)) {
      refuse(name, `${name} has a control character: ${quote(value)}`);
      return [];
    }
    if (list.includes('')) {
      refuse(name, `${name} has an empty word: ${quote(value)}`);
      return [];
    }
    return list;
  }

  const config = text('config', notAbsolute);
  if (given('config') === undefined) {
    refuse('config', 'config: required parameter not set');
  }
  const sync = boolean('sync_config_on_stop');
  const parameters: Parameters = {
    config: config ?? '',
    hypervisor: text('hypervisor', notLocalQemu) ?? DECLARATIONS.hypervisor.default,
    force_stop: boolean('force_stop'),
    migration_transport: text('migration_transport', (value) =>
      isOneOf(TRANSPORTS, value) ? undefined : `is none of ${TRANSPORTS.join(', ')}`,
    ),
    migration_user: text('migration_user', (value) =>
      /^[A-Za-z_][A-Za-z0-9_.-]*\$?$/.test(value) ? undefined : 'is not a user name',
    ),
    migration_downtime: integer('migration_downtime', 0, MAX_DOWNTIME_MS) ?? 0,
    migration_speed: integer('migration_speed', 0, MAX_SPEED_MIB) ?? 0,
    migration_network_suffix: text('migration_network_suffix', (value) =>
      /^[A-Za-z0-9._-]+$/.test(value) ? undefined : 'is not part of a host name',
    ),
    migrateuri: text('migrateuri', (value) =>
      /^[A-Za-z][A-Za-z0-9+.-]*:[^\s]+$/.test(value) ? undefined : 'is not a URI',
    ),
    migrate_options: words('migrate_options'),
    monitor_scripts: words('monitor_scripts'),
    autoset_utilization_cpu: boolean('autoset_utilization_cpu'),
    autoset_utilization_host_memory: boolean('autoset_utilization_host_memory'),
    autoset_utilization_hv_memory: boolean('autoset_utilization_hv_memory'),
    unset_utilization_cpu: boolean('unset_utilization_cpu'),
    unset_utilization_host_memory: boolean('unset_utilization_host_memory'),
    unset_utilization_hv_memory: boolean('unset_utilization_hv_memory'),
    migrateport: integer('migrateport', 1, 65_535),
    remoteuri: text('remoteuri', (value) =>
      /^qemu(?:\+[a-z0-9]+)?:\/\/[^\s]+$/.test(value) ? undefined : 'is not a URI of the qemu driver',
    ),
    save_config_on_stop: boolean('save_config_on_stop') || sync,
    sync_config_on_stop: sync,
    snapshot: text('snapshot', notAbsolute),
    backingfile: text('backingfile', notAbsolute),
    stateless: boolean('stateless'),
    copyindirs: words('copyindirs'),
    shutdown_mode: text('shutdown_mode', (value) =>
      value.split(',').every((mode) => isOneOf(SHUTDOWN_MODES, mode))
        ? undefined
        : `is not made of ${SHUTDOWN_MODES.join(' and ')}, which are the modes QEMU has`,
    ),
    start_resources: boolean('start_resources'),
    preserved_guest: oneOf('preserved_guest', ['keep', 'dump', 'destroy'], 'keep'),
    operator_pause: oneOf('operator_pause', ['healthy', 'failed'], 'healthy'),
    guest_panic: oneOf('guest_panic', ['fence', 'preserve'], 'fence'),
    policy: text('policy', notAbsolute) ?? DECLARATIONS.policy.default,
    set_error_policy: boolean('set_error_policy'),
  };

  if (parameters.force_stop && parameters.snapshot !== undefined) {
    refuse('force_stop', 'force_stop and snapshot cannot be combined');
  }
  if (parameters.stateless && given('backingfile') === undefined) {
    refuse('stateless', 'stateless needs backingfile');
  }
  return { parameters, problems };
}

/**
 * The problems that keep `action` from being carried out. A stop or a monitor of a guest that runs must not
 * fail for a setting it does not use: to them, only what identifies the guest matters.
 */
export function problemsForAction(
  action: string,
  problems: readonly ParameterProblem[],
): readonly ParameterProblem[] {
  switch (action) {
    case 'stop':
    case 'monitor':
    case 'status':
      return problems.filter(({ parameter }) => parameter === 'config' || parameter === 'hypervisor');
    default:
      return problems;
  }
}

/**
 * @throws OcfFailure with all reasons on one line, if there are any problems: ERR_CONFIGURED if one of them is
 *   wrong on any node, otherwise the first problem's code
 */
export function refuseProblems(problems: readonly ParameterProblem[]): void {
  const [first] = problems;
  if (first !== undefined) {
    const code = problems.some((problem) => problem.code === OCF.ERR_CONFIGURED)
      ? OCF.ERR_CONFIGURED
      : first.code;
    throw new OcfFailure(code, problems.map(({ reason }) => reason).join('; '));
  }
}

/** `value` in double quotes, on one line, cut where it is long; for messages. */
export function quote(value: string): string {
  const text = JSON.stringify(value.length > 200 ? `${value.slice(0, 200)}...` : value);
  // JSON leaves U+007F to U+009F as they are.
  return text.replace(
    /\p{Cc}/gu,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
}

function hasControlCharacter(value: string): boolean {
  return /\p{Cc}/u.test(value);
}

function isOneOf(words: readonly string[], value: string): boolean {
  return words.includes(value);
}

function notAbsolute(value: string): string | undefined {
  return isAbsolute(value) ? undefined : 'is not an absolute path';
}

/** https://libvirt.org/uri.html: driver[+transport]://[user@][host][:port]/path[?parameters] */
function notLocalQemu(value: string): string | undefined {
  const match = /^([a-z]+)(?:\+([a-z0-9]+))?:\/\/([^/?#]*)([^?#\s]*)(?:\?[^\s]*)?$/.exec(value);
  if (match === null) {
    return 'is not a libvirt connection URI';
  }
  const [, driver, transport, authority = '', path] = match;
  if (driver !== 'qemu') {
    return 'is not a URI of the qemu driver, the only one whose guests can be quiesced';
  }
  if (transport !== undefined && !isOneOf(TRANSPORTS, transport)) {
    return `has none of the transports ${TRANSPORTS.join(', ')}`;
  }
  if (path !== '/system' && path !== '/session') {
    return 'does not end in /system or /session';
  }
  const host = authority.replace(/^[^@]*@/, '').replace(/:[0-9]+$/, '');
  if (!LOCAL_HOSTS.includes(host)) {
    return 'names a host; the agent manages guests of the node it runs on';
  }
  return undefined;
}

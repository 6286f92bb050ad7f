import type { HostError, Severity } from '../../lib/host/host-error.ts';
import { DEFAULT_POLICY_PATH } from '../../lib/parameters.ts';
import { DEFAULT_POLICY, hyphenated, loadPolicy } from '../../lib/policy.ts';
import { isObject, type Json } from '../../lib/qemu/qmp.ts';
import { GUEST_STATES } from '../../lib/state/classify.ts';
import {
  type Explanation,
  explainEvent,
  explainHostError,
  explainState,
  type HostExplanation,
  isGuestState,
  type ResourceChoices,
  type Setting,
} from '../../lib/watch/explain.ts';
import { meaningOf } from '../../lib/watch/meaning.ts';
import { print } from '../output.ts';
import { plain } from './console.ts';
import { EXIT, type ExitCode, UsageError } from './exit.ts';
import { table } from './table.ts';

export interface JsonOption {
  readonly json?: true;
}

/** One value of a policy. */
interface Value {
  readonly key: string;
  readonly value: string;
  readonly default: boolean;
}

/**
 * `kvmha policy check`: reads a policy file and shows what applies.
 *
 * @throws KvmhaError as `loadPolicy`
 */
export async function checkPolicy(file: string | undefined, options: JsonOption): Promise<ExitCode> {
  const path = file ?? DEFAULT_POLICY_PATH;
  const policy = await loadPolicy(path);
  const defaults = new Map(flat(DEFAULT_POLICY));
  const values: Value[] = flat(policy).map(([key, value]) => ({
    key,
    value,
    default: defaults.get(key) === value,
  }));
  if (options.json) {
    print(`${JSON.stringify({ file: path, values }, null, 2)}\n`);
  } else {
    const rows = values.map(({ key, value, default: isDefault }) => [key, value, isDefault ? '' : 'changed']);
    print(`${plain(path)} has no errors. What applies:\n\n${table([['KEY', 'VALUE', ''], ...rows])}`);
  }
  return EXIT.DONE;
}

function flat(policy: object, prefix = ''): [key: string, value: string][] {
  return Object.entries(policy).flatMap(([name, value]): [string, string][] => {
    const key = `${prefix}${hyphenated(name)}`;
    return typeof value === 'object' && value !== null ? flat(value, `${key}.`) : [[key, String(value)]];
  });
}

export interface ExplainOptions extends JsonOption {
  readonly policy: string;
  readonly operatorPause: string;
  readonly guestPanic: string;
}

/**
 * `kvmha policy explain`: which verdict an event, a state, or an error of the host gets, and by which settings.
 *
 * @throws UsageError when the words name none of them; KvmhaError as `loadPolicy`
 */
export async function explainPolicy(
  word: string,
  fields: readonly string[],
  options: ExplainOptions,
): Promise<ExitCode> {
  const choices = choicesOf(options);
  if (word === HOST_ERROR) {
    const error = readHostError(fields);
    const explanation = explainHostError(error, await loadPolicy(options.policy));
    print(options.json ? `${JSON.stringify(explanation, null, 2)}\n` : renderHostExplanation(explanation));
    return EXIT.DONE;
  }
  const state = isGuestState(word) ? word : undefined;
  if (state !== undefined && fields.length > 0) {
    throw new UsageError(`"${word}" is a state of a guest, which has no fields`);
  }
  const event = state === undefined ? readEvent(word, fields) : undefined;
  const policy = await loadPolicy(options.policy);
  const explanation =
    event === undefined
      ? explainState(state ?? 'unknown', policy, choices)
      : explainEvent(meaningOf(event), policy, choices);
  print(
    options.json
      ? `${JSON.stringify({ event: event?.event ?? null, ...explanation }, null, 2)}\n`
      : renderExplanation(word.startsWith('{') ? (event?.event ?? word) : word, explanation),
  );
  return EXIT.DONE;
}

function choicesOf({ operatorPause, guestPanic }: ExplainOptions): ResourceChoices {
  if (operatorPause !== 'healthy' && operatorPause !== 'failed') {
    throw new UsageError('--operator-pause is healthy or failed');
  }
  if (guestPanic !== 'fence' && guestPanic !== 'preserve') {
    throw new UsageError('--guest-panic is fence or preserve');
  }
  return { operatorPause, guestPanic };
}

/**
 * A QMP event: as JSON, as QEMU sends it, or as its name and `FIELD=VALUE` words, where a field of `flags` is
 * `flags.FIELD`.
 *
 * @throws UsageError
 */
export function readEvent(
  word: string,
  fields: readonly string[],
): { event: string; data: { [key: string]: Json } } {
  if (word.trimStart().startsWith('{')) {
    return eventFromJson(word);
  }
  if (!/^[A-Z][A-Z0-9_]*$/.test(word)) {
    throw new UsageError(
      `"${word}" is neither a QMP event, like BLOCK_IO_ERROR, nor ${HOST_ERROR}, nor a state of a guest, which are ${GUEST_STATES.join(', ')}`,
    );
  }
  const data: { [key: string]: Json } = {};
  for (const field of fields) {
    const match = /^([a-z][a-z-]*)(?:\.([a-z][a-z-]*))?=(.*)$/s.exec(field);
    if (match === null) {
      throw new UsageError(`"${field}" is not FIELD=VALUE`);
    }
    const [, name = '', inner, text = ''] = match;
    const value: Json = text === 'true' ? true : text === 'false' ? false : text;
    if (inner === undefined) {
      data[name] = value;
    } else {
      const object = data[name];
      data[name] = { ...(isObject(object) ? object : {}), [inner]: value };
    }
  }
  return { event: word, data };
}

function eventFromJson(text: string): { event: string; data: { [key: string]: Json } } {
  let event: Json;
  try {
    event = JSON.parse(text) as Json;
  } catch {
    throw new UsageError('the event is not JSON');
  }
  const name = isObject(event) ? event['event'] : undefined;
  const data = isObject(event) ? (event['data'] ?? {}) : undefined;
  if (typeof name !== 'string' || !isObject(data)) {
    throw new UsageError('the JSON has no "event", or its "data" is no object');
  }
  return { event: name, data: { ...data } };
}

/** What stands for an error of the hardware, where an event or a state could stand. */
const HOST_ERROR = 'host-error';
const KINDS: readonly HostError['kind'][] = ['memory', 'page', 'pci', 'processor', 'storm', 'other'];
const SEVERITIES: readonly Severity[] = ['informational', 'corrected', 'uncorrected', 'fatal'];

/**
 * An error of the hardware by `FIELD=VALUE` words.
 *
 * @throws UsageError
 */
export function readHostError(fields: readonly string[]): HostError {
  const values = new Map<string, string>();
  for (const field of fields) {
    const [, name, value] = /^(kind|severity|count|component|guest)=(.+)$/s.exec(field) ?? [];
    if (name === undefined || value === undefined) {
      throw new UsageError(`"${field}" is none of kind=, severity=, count=, component= and guest=`);
    }
    values.set(name, value);
  }
  const oneOf = <T extends string>(name: string, choices: readonly T[], otherwise: T): T => {
    const value = values.get(name) ?? otherwise;
    const found = choices.find((each) => each === value);
    if (found === undefined) {
      throw new UsageError(`${name} is one of ${choices.join(', ')}`);
    }
    return found;
  };
  const kind = oneOf('kind', KINDS, 'other');
  const count = Number(values.get('count') ?? 1);
  if (!Number.isSafeInteger(count) || count < 1) {
    throw new UsageError('count is a whole number, at least 1');
  }
  return {
    kind,
    severity: oneOf('severity', SEVERITIES, 'uncorrected'),
    source: 'kvmha policy explain',
    count,
    component: values.get('component') ?? kind,
    message: kind === 'storm' ? 'as many guests were quiesced as quiesce.storm allows' : '',
    guest: values.get('guest'),
  };
}

function renderHostExplanation({ about, health, decidedBy, conditions }: HostExplanation): string {
  const lines = [
    `${HOST_ERROR}: ${about}`,
    health === null
      ? "  it is counted, and this node's health stays as it is"
      : `  this node's health becomes ${health}, unless it is as bad already`,
    `  ${reasonOf(decidedBy)}`,
    `  that it is heard of, and told to the cluster, depends on ${conditions.map(settingInWords).join(', ')}`,
    ...(health === null
      ? []
      : ["  what the cluster does then is its property node-health-strategy's to say"]),
  ];
  return lines.map((line) => `${/^ */.exec(line)?.[0] ?? ''}${plain(line)}\n`).join('');
}

const WATCHER: Readonly<Record<Explanation['watcher'], string>> = {
  ignore: 'does nothing',
  look: 'asks QEMU what state the guest is in, which decides',
  hold: 'leaves the guest as it is',
  degrade: 'lets the guest run, and keeps that it is degraded for the monitor',
  'fail-over': 'quiesces the guest, and tells the cluster as soon as that is proved',
};

/** The explanation for a terminal. */
export function renderExplanation(subject: string, explanation: Explanation): string {
  const lines = [
    explanation.about === subject ? subject : `${subject}: ${explanation.about}`,
    ...verdictLines(explanation, '  '),
    ...explanation.states.flatMap((state) => [`  if it is ${state.about}:`, ...verdictLines(state, '    ')]),
  ];
  return lines.map((line) => `${/^ */.exec(line)?.[0] ?? ''}${plain(line)}\n`).join('');
}

function verdictLines({ watcher, monitor, decidedBy, conditions }: Explanation, indent: string): string[] {
  return [
    `${indent}the watcher ${WATCHER[watcher]}`,
    ...(monitor === null ? [] : [`${indent}the recurring monitor ${monitor}`]),
    ...(watcher === 'look' ? [] : [`${indent}${reasonOf(decidedBy)}`]),
    ...(conditions.length === 0
      ? []
      : [`${indent}a quiesce depends on ${conditions.map(settingInWords).join(', ')}`]),
  ];
}

function reasonOf(decidedBy: readonly Setting[]): string {
  return decidedBy.length === 0
    ? 'the same under every policy'
    : `decided by ${decidedBy.map(settingInWords).join(', ')}`;
}

function settingInWords({ of, name, value }: Setting): string {
  return of === 'policy' ? `${name}: ${value}` : `the parameter ${name}=${value}`;
}

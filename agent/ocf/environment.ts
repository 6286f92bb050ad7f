import { OCF, OcfFailure } from '../../lib/ocf.ts';

/** What the cluster tells an agent beside the resource's own parameters, read once at start-up. */
export interface OcfEnvironment {
  /** The action's name as given; '' if none was. */
  readonly action: string;
  /** The resource's ID (OCF_RESOURCE_INSTANCE). */
  readonly instance: string;
  /** The operation's timeout in milliseconds. */
  readonly timeout: number;
  /** A recurring operation's interval in milliseconds, otherwise 0. */
  readonly interval: number;
  /** A monitor that asks what is there before the cluster does anything: ocf_is_probe of ocf-shellfuncs. */
  readonly isProbe: boolean;
  /**
   * A recurring monitor for role Stopped: it makes sure that the resource does not run on this node, and must
   * not treat a guest as its own.
   */
  readonly isMonitorOfStopped: boolean;
  /** Whether Pacemaker calls: it tells every agent its feature set. */
  readonly inCluster: boolean;
  /** OCF_CHECK_LEVEL: 0, 10 or 20; monitor's depth, or how much validate-all may look at. */
  readonly checkLevel: number;
  /** During migrate_to: the node the guest is to go to. */
  readonly migrateTarget: string | undefined;
  /** During migrate_from (and a stop that ends a migration): the node it came from. */
  readonly migrateSource: string | undefined;
  /** The node on which the operation runs, by its name in the cluster. */
  readonly node: string | undefined;
  /** What begins the line with the exit reason. */
  readonly exitReasonPrefix: string;
  readonly log: LogSettings;
}

/** Where ocf_log of ocf-shellfuncs would write. */
export interface LogSettings {
  /** The syslog facility, undefined if syslog is not wanted. */
  readonly facility: string | undefined;
  readonly file: string | undefined;
  readonly debugFile: string | undefined;
  readonly debug: boolean;
  /** What names the writer of a line. */
  readonly tag: string;
}

/** The agents in this binary, by the names of the links to it. */
export type AgentName = 'KvmGuest' | 'KvmWatch';

/** VirtualDomain's default, for calls from outside of a cluster. */
const DEFAULT_TIMEOUT_MS = 90_000;

/** Prefix of the environment variables that hold an operation's meta-attributes. */
const META = 'OCF_RESKEY_CRM_meta_';

/**
 * Reads the action's name from the program's arguments and the rest from the environment.
 *
 * @throws OcfFailure ERR_ARGS when the cluster does not say which resource it is about; as in ocf-shellfuncs,
 *   meta-data and calls from outside of a cluster (no OCF_RA_VERSION_MAJOR) get by without
 */
export function readEnvironment(
  args: readonly string[],
  env: Readonly<Record<string, string | undefined>>,
  agent: AgentName = 'KvmGuest',
): OcfEnvironment {
  function meta(name: string): string | undefined {
    return env[`${META}${name}`] || undefined;
  }

  const action = args[0] ?? env['__OCF_ACTION'] ?? '';
  const instance = env['OCF_RESOURCE_INSTANCE'] || defaultInstance(action, env['OCF_RA_VERSION_MAJOR']);
  // Without an interval, which is how Pacemaker schedules probes, it is 0.
  const interval = wholeNumber(meta('interval')) ?? 0;
  const timeout = wholeNumber(meta('timeout')) || DEFAULT_TIMEOUT_MS;
  const facility = env['HA_LOGFACILITY'];
  return {
    action,
    instance,
    timeout,
    interval,
    isProbe: action === 'monitor' && interval === 0,
    // Seen with crm_simulate of Pacemaker 2.1.5: the graph's attributes for an operation configured with
    // role="Stopped" are CRM_meta_role="Stopped" and CRM_meta_op_target_rc="7". The controller takes the
    // second away before it hands the operation on (construct_op in controld_execd.c), so that only the role
    // arrives here; it is spelt as in the configuration, where Pacemaker accepts any case.
    isMonitorOfStopped: action === 'monitor' && interval > 0 && meta('role')?.toLowerCase() === 'stopped',
    inCluster: env['OCF_RESKEY_crm_feature_set'] !== undefined,
    checkLevel: wholeNumber(env['OCF_CHECK_LEVEL'] ?? env['OCF_RESKEY_OCF_CHECK_LEVEL']) ?? 0,
    migrateTarget: meta('migrate_target'),
    migrateSource: meta('migrate_source'),
    node: meta('on_node'),
    exitReasonPrefix: env['OCF_EXIT_REASON_PREFIX'] || 'ocf-exit-reason:',
    log: {
      facility: facility === 'none' || facility === '' ? undefined : facility,
      file: env['HA_LOGFILE'] || undefined,
      debugFile: env['HA_DEBUGLOG'] || undefined,
      debug: !['', '0', undefined].includes(env['HA_debug']),
      tag: env['HA_LOGTAG'] || `${agent}(${instance})[${process.pid}]`,
    },
  };
}

function defaultInstance(action: string, version: string | undefined): string {
  if (action === 'meta-data') {
    return 'RESOURCE_ID';
  }
  if (!version) {
    return 'default';
  }
  throw new OcfFailure(OCF.ERR_ARGS, 'OCF_RESOURCE_INSTANCE is not set');
}

function wholeNumber(text: string | undefined): number | undefined {
  return text !== undefined && /^[0-9]{1,15}$/.test(text) ? Number(text) : undefined;
}

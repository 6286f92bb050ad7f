import type { LabNode } from '../../lab/client.ts';
import type { Resource } from '../../support/agent.ts';
import { spread } from '../failover/summary.ts';

/**
 * Runs its arguments as a command and prints what that has cost: wall, user and system time (s), the memory of the
 * largest process (KiB), and the bytes that it and its children have read with system calls. These are counted up
 * when a process has ended, so that they are read before it is reaped.
 */
const MEASURE = `
import os, sys, time
start = time.monotonic()
null = os.open(os.devnull, os.O_RDWR)
pid = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ,
    file_actions=[(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, null, 1), (os.POSIX_SPAWN_DUP2, null, 2)])
os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
wall = time.monotonic() - start
read = open(f'/proc/{pid}/io').readline().split()[1]
_, status, usage = os.wait4(pid, 0)
print(wall, usage.ru_utime, usage.ru_stime, usage.ru_maxrss, read, os.waitstatus_to_exitcode(status))
`;

/** What one call has cost, with its children. */
export interface Measurement {
  /** Milliseconds. */
  readonly wall: number;
  readonly user: number;
  readonly system: number;
  /** Of the largest process, in MiB. */
  readonly memory: number;
  /** By read(2) and the like, in KiB: files that are mapped are not among it. */
  readonly read: number;
  /** Negative for a signal. */
  readonly exitCode: number;
}

/** The environment in which Pacemaker calls an agent. `interval` is in milliseconds, 0 for a probe. */
export function callEnvironment(
  { domain, config }: Pick<Resource, 'domain' | 'config'>,
  action: string,
  more: Readonly<Record<string, string>> = {},
): Record<string, string> {
  return {
    OCF_ROOT: '/usr/lib/ocf',
    OCF_RA_VERSION_MAJOR: '1',
    OCF_RESOURCE_INSTANCE: domain.name,
    OCF_RESKEY_crm_feature_set: '3.16.1',
    OCF_RESKEY_config: config,
    OCF_RESKEY_CRM_meta_timeout: '30000',
    __OCF_ACTION: action,
    HA_LOGFILE: '/dev/null',
    HA_RSCTMP: '/run/resource-agents',
    ...more,
  };
}

/** Runs a command in the node and measures it. */
export async function measure(
  node: LabNode,
  command: readonly string[],
  env: Readonly<Record<string, string>>,
): Promise<Measurement> {
  const output = await node.check(['python3', '-c', MEASURE, ...command], { env, timeout: 180_000 });
  const [wall = 0, user = 0, system = 0, memory = 0, read = 0, exitCode = -1] = output
    .trim()
    .split(' ')
    .map(Number);
  return {
    wall: wall * 1000,
    user: user * 1000,
    system: system * 1000,
    memory: memory / 1024,
    read: read / 1024,
    exitCode,
  };
}

/** "42 (36 to 100)" */
export function spreadWords(values: readonly number[]): string {
  const { least, median, most } = spread(values);
  return least.toFixed(0) === most.toFixed(0)
    ? median.toFixed(0)
    : `${median.toFixed(0)} (${least.toFixed(0)} to ${most.toFixed(0)})`;
}

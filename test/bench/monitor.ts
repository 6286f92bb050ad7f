/**
 * Compares one monitor of KvmGuest with one of VirtualDomain and with a bare `virsh domstate`, as whole processes
 * with their children, in one run and in turn: node test/bench/monitor.ts [RUNS] [--json FILE]
 *
 * A cluster of one node, since VirtualDomain asks the cluster in every monitor.
 */
import { writeFileSync } from 'node:fs';
import { createDisk, waitForTicks } from '../guest/witness.ts';
import { Lab, type LabNode } from '../lab/client.ts';
import { AGENT, installedTree, Resource } from '../support/agent.ts';

const VIRTUAL_DOMAIN = '/usr/lib/ocf/resource.d/heartbeat/VirtualDomain';
const WARM_UP = 2;

/** Runs its arguments as a command and prints wall, user and system time (s) and the largest process's memory (kB). */
const MEASURE = `
import os, resource, sys, time
start = time.monotonic()
null = os.open(os.devnull, os.O_RDWR)
pid = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ,
    file_actions=[(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, null, 1), (os.POSIX_SPAWN_DUP2, null, 2)])
_, status, usage = os.wait4(pid, 0)
print(time.monotonic() - start, usage.ru_utime, usage.ru_stime, usage.ru_maxrss, os.waitstatus_to_exitcode(status))
`;

interface Measurement {
  readonly wall: number;
  readonly cpu: number;
  readonly memory: number;
  readonly exitCode: number;
}

interface Case {
  readonly name: string;
  readonly command: readonly string[];
  readonly resource: Resource;
  readonly interval: string;
  readonly expected: number;
  readonly measurements: Measurement[];
}

async function measure(node: LabNode, each: Case): Promise<Measurement> {
  const env = {
    OCF_ROOT: '/usr/lib/ocf',
    OCF_RA_VERSION_MAJOR: '1',
    OCF_RESOURCE_INSTANCE: each.resource.domain.name,
    OCF_RESKEY_crm_feature_set: '3.16.1',
    OCF_RESKEY_config: each.resource.config,
    OCF_RESKEY_CRM_meta_timeout: '30000',
    OCF_RESKEY_CRM_meta_interval: each.interval,
    __OCF_ACTION: 'monitor',
    HA_LOGFILE: '/dev/null',
    HA_RSCTMP: '/run/resource-agents',
  };
  const output = await node.check(['python3', '-c', MEASURE, ...each.command], { env });
  const [wall = 0, user = 0, system = 0, memory = 0, exitCode = -1] = output.trim().split(' ').map(Number);
  return { wall: wall * 1000, cpu: (user + system) * 1000, memory: memory / 1024, exitCode };
}

function summary(values: readonly number[]): { min: number; median: number; max: number } {
  const sorted = values.toSorted((a, b) => a - b);
  const at = (share: number) => sorted[Math.floor((sorted.length - 1) * share)] ?? Number.NaN;
  return { min: at(0), median: at(0.5), max: at(1) };
}

function cell(values: readonly number[]): string {
  const { min, median, max } = summary(values);
  return `${median.toFixed(0)} (${min.toFixed(0)}-${max.toFixed(0)})`.padStart(16);
}

const runs = Number(process.argv[2] ?? 30);
await using tree = await installedTree();
await using lab = await Lab.up({ nodes: 1, install: tree.path });
const node = lab.node(1);

const running = new Resource({ name: 'running', disks: [{ path: '/shared/running.img' }] });
const stopped = new Resource({ name: 'stopped', disks: [{ path: '/shared/stopped.img' }] });
for (const { domain, config } of [running, stopped]) {
  await createDisk(`/shared/${domain.name}.img`, { node });
  (domain === running.domain ? running : stopped).configure(node);
  // Pacemaker knows both, so that their utilization can be set; it must not touch them.
  await node.check([
    ...['crm', '--force', 'configure', 'primitive', domain.name, 'ocf:heartbeat:VirtualDomain'],
    ...['params', `config=${config}`, 'meta', 'is-managed=false'],
  ]);
}
await running.call(node, 'start');
await waitForTicks('/shared/running.img', 1, { node });

const cases: Case[] = (
  [
    ['KvmGuest, running', [AGENT, 'monitor'], running, '10000', 0],
    ['VirtualDomain, running', [VIRTUAL_DOMAIN, 'monitor'], running, '10000', 0],
    ['virsh domstate, running', ['virsh', '--quiet', 'domstate', 'running'], running, '10000', 0],
    ['KvmGuest, stopped', [AGENT, 'monitor'], stopped, '10000', 7],
    ['VirtualDomain, stopped', [VIRTUAL_DOMAIN, 'monitor'], stopped, '10000', 7],
    ['KvmGuest, probe', [AGENT, 'monitor'], stopped, '0', 7],
    ['VirtualDomain, probe', [VIRTUAL_DOMAIN, 'monitor'], stopped, '0', 7],
  ] as const
).map(([name, command, resource, interval, expected]) => {
  return { name, command, resource, interval, expected, measurements: [] };
});
// The identity of a domain is cached once its file has settled.
await new Promise((resolve) => setTimeout(resolve, 4000));
for (let run = -WARM_UP; run < runs; run += 1) {
  for (const each of cases) {
    const measurement = await measure(node, each);
    if (measurement.exitCode !== each.expected) {
      throw new Error(`${each.name} exited ${measurement.exitCode}, not ${each.expected}`);
    }
    if (run >= 0) {
      each.measurements.push(measurement);
    }
  }
}

console.log(`one monitor, ${runs} runs of each in turn: median (range)`);
console.log(
  `${''.padEnd(26)}${['wall ms', 'CPU ms', 'memory MiB'].map((head) => head.padStart(16)).join('')}`,
);
for (const { name, measurements } of cases) {
  const columns = (['wall', 'cpu', 'memory'] as const).map((key) =>
    cell(measurements.map((each) => each[key])),
  );
  console.log(name.padEnd(26) + columns.join(''));
}
const file = process.argv.indexOf('--json');
if (file > 0) {
  const result = cases.map(({ name, measurements }) => ({ name, measurements }));
  writeFileSync(process.argv[file + 1] ?? 'monitor.json', `${JSON.stringify(result, null, 2)}\n`);
}

/**
 * Measures what the recurring monitors of all guests of a node cost, by number of guests: node test/bench/monitors.ts --help
 *
 * Every guest is monitored every 10 seconds, at a moment of its own, as Pacemaker does. KvmGuest's guests are recorded
 * QEMUs (recorded/serve.ts), because hundreds of real ones do not fit; VirtualDomain asks libvirt, and so gets real
 * domains, paused so that they need no processor time themselves.
 */
import { Command } from 'commander';
import { sleep } from '../../lib/deadline.ts';
import { domainXml } from '../guest/domain.ts';
import { Lab, type LabNode } from '../lab/client.ts';
import { installedTree } from '../support/agent.ts';
import { callEnvironment } from './calls/measure.ts';
import { percentile, toCounts } from './options.ts';
import { alsoOption, type Build, buildsIn, type OtherBuild } from './other-build.ts';
import { conclude, runProgram } from './program.ts';
import { configOf, nameOf, recordedGuests } from './recorded/guests.ts';

interface Options {
  readonly guests: readonly number[];
  readonly domains: readonly number[];
  readonly minutes: number;
  readonly also?: OtherBuild;
  readonly json?: string;
}

/** One monitor, in milliseconds. */
interface Sample {
  readonly latency: number;
  readonly cpu: number;
}

interface Measured {
  readonly agent: string;
  readonly guests: number;
  /** Of one processor, all children of the monitors included. */
  readonly share: number;
  readonly samples: readonly Sample[];
}

const VIRTUAL_DOMAIN: Build = {
  who: 'VirtualDomain',
  agent: '/usr/lib/ocf/resource.d/heartbeat/VirtualDomain',
};

/** Minutes in which the last monitors must have ended, where the node cannot keep up. */
const BACKLOG = 5;

/** Seconds. */
const INTERVAL = 10;

/**
 * Monitors every one of a number of resources once in each interval, evenly spread, for some intervals, and prints
 * milliseconds from start to end, and of processor time, of each monitor. Arguments: agent, interval, number of
 * intervals, and for each resource its name and its configuration.
 */
const MONITOR = `
import os, sys, time, threading
agent, interval, rounds = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
resources = list(zip(sys.argv[4::2], sys.argv[5::2]))
null = os.open(os.devnull, os.O_RDWR)
samples, failures, threads = [], [], []
def monitor(name, config):
    environment = dict(os.environ, OCF_RESOURCE_INSTANCE=name, OCF_RESKEY_config=config)
    start = time.monotonic()
    pid = os.posix_spawn(agent, [agent, 'monitor'], environment,
        file_actions=[(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, null, 1), (os.POSIX_SPAWN_DUP2, null, 2)])
    _, status, usage = os.wait4(pid, 0)
    samples.append((1000 * (time.monotonic() - start), 1000 * (usage.ru_utime + usage.ru_stime)))
    if status != 0:
        failures.append('%s exited %d' % (name, os.waitstatus_to_exitcode(status)))
begin = time.monotonic()
for round in range(rounds):
    for index, (name, config) in enumerate(resources):
        time.sleep(max(0, begin + interval * (round + index / len(resources)) - time.monotonic()))
        threads.append(threading.Thread(target=monitor, args=(name, config)))
        threads[-1].start()
for thread in threads:
    thread.join()
if failures:
    sys.exit('%d monitors failed, the first: %s' % (len(failures), failures[0]))
for sample in samples:
    print(*sample)
`;

async function measure(
  node: LabNode,
  { who, agent }: Build,
  resources: readonly (readonly [name: string, config: string])[],
  minutes: number,
): Promise<Measured> {
  const rounds = (minutes * 60) / INTERVAL;
  const command = ['python3', '-c', MONITOR, agent, String(INTERVAL), String(rounds), ...resources.flat()];
  // The name and the configuration are different for each.
  const env = callEnvironment({ domain: { name: '' }, config: '' }, 'monitor', {
    OCF_RESKEY_CRM_meta_interval: String(INTERVAL * 1000),
  });
  const output = await node.check(command, { env, timeout: (minutes + BACKLOG) * 60_000 });
  const samples = output
    .trim()
    .split('\n')
    .map((line) => {
      const [latency = Number.NaN, cpu = Number.NaN] = line.split(' ').map(Number);
      return { latency, cpu };
    });
  const used = samples.reduce((sum, { cpu }) => sum + cpu, 0);
  return {
    agent: who,
    guests: resources.length,
    share: used / (rounds * INTERVAL * 1000),
    samples,
  };
}

/** Defines domains for VirtualDomain, and resources that the cluster leaves alone: VirtualDomain asks it for them. */
async function pausedDomains(node: LabNode, count: number): Promise<[name: string, config: string][]> {
  const domains = Array.from({ length: count }, (_, number): [string, string] => {
    return [`paused${number}`, `/etc/libvirt/paused${number}.xml`];
  });
  for (const [name, config] of domains) {
    node.write(config, domainXml({ name }));
    await node.check(['virsh', 'create', config, '--paused']);
    await node.check([
      ...['crm', '--force', 'configure', 'primitive', name, 'ocf:heartbeat:VirtualDomain'],
      ...['params', `config=${config}`, 'meta', 'is-managed=false'],
    ]);
  }
  return domains;
}

function show({ agent, guests, share, samples }: Measured): void {
  const of = (key: keyof Sample, part: number) =>
    percentile(
      samples.map((each) => each[key]),
      part,
    ).toFixed(0);
  const cells = [
    agent,
    guests,
    samples.length,
    `${(share * 100).toFixed(1)} %`,
    of('cpu', 0.5),
    of('latency', 0.5),
    of('latency', 0.99),
  ];
  console.log(`| ${cells.join(' | ')} |`);
}

const program = new Command('monitors')
  .description('Measures the recurring monitors of a whole node, in a lab on this machine (as root).')
  .option('--guests <numbers>', 'how many guests of KvmGuest', toCounts, [1, 10, 100, 300])
  .option('--domains <numbers>', 'how many real domains of VirtualDomain', toCounts, [1, 10])
  .option('--minutes <number>', 'how long each is measured', Number, 1)
  .addOption(alsoOption())
  .option('--json <file>', 'keep what was measured')
  .action(async ({ guests, domains, minutes, also, json }: Options) => {
    await using tree = await installedTree();
    await using lab = await Lab.up({ nodes: 1, install: tree.path });
    const node = lab.node(1);
    const builds = await buildsIn(node, also);
    const paused = await pausedDomains(node, Math.max(0, ...domains));
    console.log(
      '| agent | guests | monitors | share of one processor | processor time, ms: median | latency, ms: median | 99th percentile |\n|---|---|---|---|---|---|---|',
    );
    const measured: Measured[] = [];
    for (const count of guests.toSorted((a, b) => a - b)) {
      using _guests = await recordedGuests(node, count);
      const resources = Array.from(
        { length: count },
        (_, number) => [nameOf(number), configOf(number)] as const,
      );
      // A monitor takes the identity of a domain from its cache only when the domain's file has settled.
      await sleep(4000);
      for (const build of builds) {
        measured.push(await measure(node, build, resources, minutes));
        measured.slice(-1).forEach(show);
      }
    }
    for (const count of domains) {
      measured.push(await measure(node, VIRTUAL_DOMAIN, paused.slice(0, count), minutes));
      measured.slice(-1).forEach(show);
    }
    await conclude(node, minutes, measured, json);
  });

await runProgram(program);

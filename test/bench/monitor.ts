/**
 * Compares calls of KvmGuest with those of VirtualDomain and of a bare virsh, as whole processes with their children,
 * in one run and in turn. node test/bench/monitor.ts --help
 *
 * A cluster of one node, since VirtualDomain asks the cluster in every monitor.
 */
import { writeFileSync } from 'node:fs';
import { Command } from 'commander';
import { sleep } from '../../lib/deadline.ts';
import { createDisk, waitForTicks } from '../guest/witness.ts';
import { Lab, type LabNode } from '../lab/client.ts';
import { installedTree, Resource } from '../support/agent.ts';
import { processes } from '../support/host.ts';
import { callEnvironment, type Measurement, measure, spreadWords } from './calls/measure.ts';
import { type Called, plot } from './calls/plot.ts';
import { machine } from './machine.ts';
import { someOf, toCount } from './options.ts';
import { alsoOption, type Build, buildsIn, type OtherBuild } from './other-build.ts';
import { runProgram } from './program.ts';

const VIRTUAL_DOMAIN = '/usr/lib/ocf/resource.d/heartbeat/VirtualDomain';
const WARM_UP = 2;

/** Seconds after which who waits for a libvirtd that hangs is ended. */
const HANGS = 5;

const PARTS = ['monitor', 'start-stop', 'hung'] as const;
type Part = (typeof PARTS)[number];

interface Case extends Called {
  readonly command: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  /** The exit code that must come; undefined where any may. */
  readonly expected: number | undefined;
  readonly measurements: Measurement[];
}

function toCase(
  who: string,
  what: string,
  command: readonly string[],
  env: Readonly<Record<string, string>>,
  expected?: number,
): Case {
  return { who, what, command, env, expected, measurements: [] };
}

/** Calls all of them in turn, so that a machine whose speed drifts favours none. */
async function inTurn(node: LabNode, cases: readonly Case[], runs: number, warmUp = WARM_UP): Promise<void> {
  for (let run = -warmUp; run < runs; run += 1) {
    for (const each of cases) {
      const measurement = await measure(node, each.command, each.env);
      if (each.expected !== undefined && measurement.exitCode !== each.expected) {
        throw new Error(`${each.who}, ${each.what}: exited ${measurement.exitCode}, not ${each.expected}`);
      }
      if (run >= 0) {
        each.measurements.push(measurement);
      }
    }
  }
}

interface Guests {
  readonly running: Resource;
  readonly stopped: Resource;
  readonly preserved: Resource;
}

async function setUp(node: LabNode): Promise<Guests> {
  const resource = (name: string) => new Resource({ name, disks: [{ path: `/shared/${name}.img` }] });
  const guests = {
    running: resource('running'),
    stopped: resource('stopped'),
    preserved: resource('preserved'),
  };
  for (const guest of Object.values(guests)) {
    await createDisk(`/shared/${guest.domain.name}.img`, { node });
    guest.configure(node);
    // Pacemaker knows them, so that their utilization can be set; it must not touch them.
    await node.check([
      ...['crm', '--force', 'configure', 'primitive', guest.domain.name, 'ocf:heartbeat:VirtualDomain'],
      ...['params', `config=${guest.config}`, 'meta', 'is-managed=false'],
    ]);
  }
  for (const guest of [guests.running, guests.preserved]) {
    const { exitCode, reason } = await guest.call(node, 'start');
    if (exitCode !== 0) {
      throw new Error(`${guest.domain.name} was not started: ${reason}`);
    }
    await waitForTicks(`/shared/${guest.domain.name}.img`, 1, { node });
  }
  await node.check(['kvmha', 'quiesce', 'preserved']);
  // The identity of a domain is cached once its file has settled.
  await sleep(4000);
  return guests;
}

function monitors({ running, stopped, preserved }: Guests, builds: readonly Build[]): Case[] {
  const situations = [
    ['guest runs', running, { interval: '10000' }, 0, 0],
    ['found stopped', stopped, { interval: '10000' }, 7, 7],
    ['role=Stopped', stopped, { interval: '10000', role: 'Stopped' }, 7, 7],
    ['probe of a stopped guest', stopped, { interval: '0' }, 7, 7],
    // VirtualDomain knows no faults: to it a guest that stands still is one that runs.
    ['guest is preserved', preserved, { interval: '10000' }, 7, 0],
  ] as const;
  const cases = situations.flatMap(([words, resource, meta, ours, theirs]) => {
    const env = callEnvironment(resource, 'monitor', {
      OCF_RESKEY_CRM_meta_interval: meta.interval,
      ...('role' in meta ? { OCF_RESKEY_CRM_meta_role: meta.role } : {}),
    });
    const what = `monitor, ${words}`;
    const { name } = resource.domain;
    return [
      ...builds.map(({ who, agent }) => toCase(who, what, [agent, 'monitor'], env, ours)),
      toCase('VirtualDomain', what, [VIRTUAL_DOMAIN, 'monitor'], env, theirs),
      toCase('virsh domstate', what, ['virsh', '--quiet', 'domstate', name], env),
    ];
  });
  const env = callEnvironment(running, 'meta-data');
  return [
    ...cases,
    ...builds.map(({ who, agent }) => toCase(who, 'meta-data', [agent, 'meta-data'], env, 0)),
    toCase('VirtualDomain', 'meta-data', [VIRTUAL_DOMAIN, 'meta-data'], env, 0),
  ];
}

/** The guest is ended at once, so that it is not the guest's shutdown that is measured. */
function startsAndStops({ stopped }: Guests, builds: readonly Build[]): Case[] {
  const more = { OCF_RESKEY_force_stop: 'true' };
  const [start, stop] = [callEnvironment(stopped, 'start', more), callEnvironment(stopped, 'stop', more)];
  const { name } = stopped.domain;
  return [
    ...builds.flatMap(({ who, agent }) => [
      toCase(who, 'start', [agent, 'start'], start, 0),
      toCase(who, 'stop (force_stop)', [agent, 'stop'], stop, 0),
    ]),
    toCase('VirtualDomain', 'start', [VIRTUAL_DOMAIN, 'start'], start, 0),
    toCase('VirtualDomain', 'stop (force_stop)', [VIRTUAL_DOMAIN, 'stop'], stop, 0),
    toCase('virsh create', 'start', ['virsh', '--quiet', 'create', stopped.config], start, 0),
    toCase('virsh destroy', 'stop (force_stop)', ['virsh', '--quiet', 'destroy', name], stop, 0),
  ];
}

function hung({ running }: Guests, builds: readonly Build[]): Case[] {
  const env = callEnvironment(running, 'monitor', { OCF_RESKEY_CRM_meta_interval: '10000' });
  const what = `monitor, guest runs, libvirtd hangs (ended after ${HANGS} s)`;
  const limited = (...command: string[]) => ['timeout', '--signal=KILL', String(HANGS), ...command];
  return [
    ...builds.map(({ who, agent }) => toCase(who, what, limited(agent, 'monitor'), env, 0)),
    toCase('VirtualDomain', what, limited(VIRTUAL_DOMAIN, 'monitor'), env),
    toCase('virsh domstate', what, limited('virsh', '--quiet', 'domstate', 'running'), env),
  ];
}

interface Options {
  readonly runs: number;
  readonly parts: readonly Part[];
  readonly also?: OtherBuild;
  readonly json?: string;
  readonly svg?: string;
}

async function measureAll({ runs, parts, also }: Options): Promise<{ on: string; cases: Case[] }> {
  await using tree = await installedTree();
  await using lab = await Lab.up({ nodes: 1, install: tree.path });
  const node = lab.node(1);
  const guests = await setUp(node);
  const builds = await buildsIn(node, also);
  const all: Case[] = [];
  if (parts.includes('monitor')) {
    const cases = monitors(guests, builds);
    await inTurn(node, cases, runs);
    all.push(...cases);
  }
  if (parts.includes('start-stop')) {
    const cases = startsAndStops(guests, builds);
    await inTurn(node, cases, Math.ceil(runs / 4), 1);
    all.push(...cases);
  }
  if (parts.includes('hung')) {
    const cases = hung(guests, builds);
    const daemons = processes(node).filter(({ argv }) => /\b(?:libvirtd|virtqemud)$/.test(argv[0] ?? ''));
    for (const { pid } of daemons) {
      process.kill(pid, 'SIGSTOP');
    }
    await inTurn(node, cases, Math.ceil(runs / 10), 0);
    for (const { pid } of daemons) {
      process.kill(pid, 'SIGCONT');
    }
    all.push(...cases);
  }
  return { on: await machine(node), cases: all };
}

function row({ who, what, measurements }: Case): string {
  const of = (value: (measurement: Measurement) => number) => spreadWords(measurements.map(value));
  const codes = [...new Set(measurements.map(({ exitCode }) => exitCode))].join(', ');
  const cells = [
    ...[`${who}: ${what}`, codes, of(({ wall }) => wall), of(({ user, system }) => user + system)],
    ...[
      of(({ user }) => user),
      of(({ system }) => system),
      of(({ memory }) => memory),
      of(({ read }) => read),
    ],
  ];
  return `| ${cells.join(' | ')} |`;
}

const program = new Command('monitor')
  .description('Measures calls of the agent beside those of VirtualDomain and virsh, in a lab (as root).')
  .option('--runs <number>', 'how often each is called; a start and a stop a fourth of that', toCount, 30)
  .addOption(someOf('--parts <names>', 'which calls', PARTS))
  .addOption(alsoOption())
  .option('--json <file>', 'keep what was measured')
  .option('--svg <file>', 'draw it')
  .action(async (options: Options) => {
    const { on, cases } = await measureAll(options);
    const date = new Date().toISOString().slice(0, 10);
    console.log(`Measured on ${date}, ${options.runs} runs of each in turn: ${on}. Median (range).\n`);
    console.log(
      '| call | exits | wall, ms | processor, ms | user, ms | system, ms | largest process, MiB | read, KiB |',
    );
    console.log('|---|---|---|---|---|---|---|---|');
    for (const each of cases) {
      console.log(row(each));
    }
    if (options.json !== undefined) {
      const calls = cases.map(({ who, what, measurements }) => ({ who, what, measurements }));
      writeFileSync(options.json, `${JSON.stringify({ date, on, calls }, null, 2)}\n`);
    }
    if (options.svg !== undefined) {
      // Who only waits uses no processor.
      const drawn = cases.filter(({ what }) => !what.includes('hangs'));
      writeFileSync(options.svg, plot(drawn, `Measured on ${date}, ${options.runs} runs; ${on}`));
    }
  });

await runProgram(program);

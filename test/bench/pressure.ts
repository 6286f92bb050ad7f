/**
 * Measures a monitor of a running guest where memory, processor time or tasks are short, by KvmGuest, by VirtualDomain
 * and by a bare virsh, in turn: node test/bench/pressure.ts --help
 *
 * Each call runs in a control group of its own limits; libvirt and QEMU are outside of it, but where it says otherwise.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { Command } from 'commander';
import { sleep } from '../../lib/deadline.ts';
import { isKvmhaError } from '../../lib/error.ts';
import { createDisk, waitForTicks } from '../guest/witness.ts';
import { Lab, type LabNode } from '../lab/client.ts';
import { AGENT, installedTree, Resource } from '../support/agent.ts';
import { ControlGroup, type Limits } from '../support/control-group.ts';
import { TestGuest } from '../support/host.ts';
import { callEnvironment, spreadWords } from './calls/measure.ts';
import { machine } from './machine.ts';
import { someOf, toCount } from './options.ts';
import { runProgram } from './program.ts';

const VIRTUAL_DOMAIN = '/usr/lib/ocf/resource.d/heartbeat/VirtualDomain';
const BINARY = '/usr/sbin/kvmha';

const PARTS = ['memory', 'processor', 'busy', 'guest', 'tasks'] as const;
type Part = (typeof PARTS)[number];

/** Seconds after which the cluster would give up; the agents are told so. */
const TIMEOUT = 10;

const MIB = 2 ** 20;

/** One way to ask whether the guest runs. */
interface Caller {
  readonly who: string;
  readonly command: readonly string[];
}

interface Sample {
  /** Milliseconds. */
  readonly wall: number;
  /** Undefined where it was ended at the timeout. */
  readonly exitCode: number | undefined;
  readonly right: boolean;
}

/** What is short, and how the calls ended. */
interface Situation {
  readonly part: Part;
  readonly what: string;
  readonly who: string;
  readonly samples: Sample[];
}

class Bench {
  readonly #guest: TestGuest;
  readonly #runs: number;
  readonly #callers: readonly Caller[];
  readonly #env: Record<string, string>;
  readonly measured: Situation[] = [];
  /** Who has not once answered, and is asked no more while ever less is left. */
  readonly #givenUp: Set<string> = new Set();

  constructor(guest: TestGuest, runs: number) {
    this.#guest = guest;
    this.#runs = runs;
    this.#env = callEnvironment(guest.resource, 'monitor', {
      OCF_RESKEY_CRM_meta_interval: '10000',
      OCF_RESKEY_CRM_meta_timeout: String(TIMEOUT * 1000),
    });
    this.#callers = [
      { who: 'KvmGuest', command: [AGENT, 'monitor'] },
      { who: 'VirtualDomain', command: [VIRTUAL_DOMAIN, 'monitor'] },
      { who: 'virsh domstate', command: ['virsh', '--quiet', 'domstate', guest.name] },
    ];
  }

  async measure(part: Part, what: string, limits: Limits, before?: () => Promise<unknown>, nice?: number) {
    const callers = this.#callers.filter(({ who }) => !this.#givenUp.has(who));
    const situations = callers.map(({ who }): Situation => ({ part, what, who, samples: [] }));
    using group = groupOf(limits);
    for (let run = 0; run < this.#runs; run += 1) {
      for (const [index, { command }] of callers.entries()) {
        await before?.();
        const nicely = nice === undefined ? command : ['nice', '-n', String(nice), ...command];
        situations[index]?.samples.push(await this.#call(group, nicely));
      }
    }
    for (const situation of situations) {
      console.log(row(situation));
      if (situation.samples.every(({ right }) => !right)) {
        this.#givenUp.add(situation.who);
      }
    }
    this.measured.push(...situations);
  }

  /** From here on, everybody is asked again. */
  startAnew(): void {
    this.#givenUp.clear();
  }

  async #call(group: ControlGroup, command: readonly string[]): Promise<Sample> {
    const start = performance.now();
    const wall = () => performance.now() - start;
    try {
      const { exitCode, stdout } = await group.run(
        this.#guest.node.command(command, this.#env),
        TIMEOUT * 1000,
      );
      const isVirsh = command.includes('domstate');
      return { wall: wall(), exitCode, right: exitCode === 0 && (!isVirsh || /^running/.test(stdout)) };
    } catch (error) {
      if (!isKvmhaError(error, 'deadline')) {
        throw error;
      }
      return { wall: wall(), exitCode: undefined, right: false };
    } finally {
      await group.clear();
    }
  }
}

function groupOf(limits: Limits): ControlGroup {
  const group = ControlGroup.of(limits);
  if (typeof group === 'string') {
    throw new Error(group);
  }
  return group;
}

function row({ what, who, samples }: Situation): string {
  const right = samples.filter((sample) => sample.right);
  const codes = [...new Set(samples.map(({ exitCode }) => exitCode ?? 'no answer'))].join(', ');
  const took = right.length === 0 ? '' : spreadWords(right.map(({ wall }) => wall));
  return `| ${[what, who, `${right.length} of ${samples.length}`, codes, took].join(' | ')} |`;
}

/** Reads the program into the page cache, for which no group of ours is charged. */
function cache(node: LabNode): Promise<string> {
  return node.check(['sh', '-c', `cat ${BINARY} >/dev/null`]);
}

/** Lets the page cache forget the program, which is read from disk then, and counts for the memory of who calls it. */
function evict(node: LabNode): Promise<string> {
  const script =
    'import os, sys\nos.posix_fadvise(os.open(sys.argv[1], os.O_RDONLY), 0, 0, os.POSIX_FADV_DONTNEED)';
  return node.check(['python3', '-c', script, BINARY]);
}

/** Processes that use all the processor time they get. */
function busy(count: number): Disposable {
  const children: ChildProcess[] = Array.from({ length: count }, () =>
    spawn('/bin/sh', ['-c', 'while :; do :; done'], { stdio: 'ignore' }),
  );
  return {
    [Symbol.dispose]() {
      for (const child of children) {
        child.kill('SIGKILL');
      }
    },
  };
}

async function measureMemory(bench: Bench, node: LabNode): Promise<void> {
  for (const mebibytes of [1024, 64, 48, 32, 24, 20, 16, 12, 8, 6, 4]) {
    const limits = { memory: mebibytes * MIB };
    await bench.measure('memory', `${mebibytes} MiB`, limits, () => cache(node));
  }
  bench.startAnew();
  for (const mebibytes of [1024, 64, 48, 32, 24, 20, 16]) {
    const limits = { memory: mebibytes * MIB };
    await bench.measure('memory', `${mebibytes} MiB, kvmha read from disk`, limits, () => evict(node));
  }
}

async function measureProcessor(bench: Bench): Promise<void> {
  for (const share of [1, 0.5, 0.2, 0.1, 0.05]) {
    await bench.measure('processor', `${share * 100} % of a processor`, { processor: share });
  }
}

async function measureBusy(bench: Bench): Promise<void> {
  const count = 2 * cpus().length;
  using _busy = busy(count);
  await bench.measure('busy', `beside ${count} busy processes`, {});
  await bench.measure('busy', `beside ${count} busy processes, as nice 19`, {}, undefined, 19);
}

async function measureGuest(bench: Bench, guest: TestGuest): Promise<void> {
  for (const share of [0.1, 0.05, 0.01]) {
    using slow = groupOf({ processor: share });
    const pid = guest.pid();
    slow.take(pid);
    try {
      await bench.measure('guest', `QEMU with ${share * 100} % of a processor`, {});
    } finally {
      slow.release(pid);
    }
  }
}

async function measureTasks(bench: Bench): Promise<void> {
  // nsenter(1), which starts the program, is one of them.
  for (const tasks of [8, 6, 5, 4, 3, 2]) {
    await bench.measure('tasks', `${tasks - 1} tasks`, { tasks });
  }
}

interface Options {
  readonly runs: number;
  readonly parts: readonly Part[];
  readonly json?: string;
}

async function measureAll({ runs, parts }: Options): Promise<{ on: string; measured: Situation[] }> {
  await using tree = await installedTree();
  await using lab = await Lab.up({ nodes: 1, install: tree.path });
  const node = lab.node(1);
  const resource = new Resource({ name: 'pressed', disks: [{ path: '/shared/pressed.img' }] });
  const guest = new TestGuest(node, resource.domain, '/shared/pressed.img');
  await createDisk('/shared/pressed.img', { node });
  resource.configure(node);
  // Pacemaker knows it, because VirtualDomain asks; it must not touch it.
  await node.check([
    ...['crm', '--force', 'configure', 'primitive', 'pressed', 'ocf:heartbeat:VirtualDomain'],
    ...['params', `config=${resource.config}`, 'meta', 'is-managed=false'],
  ]);
  const { exitCode, reason } = await guest.call('start');
  if (exitCode !== 0) {
    throw new Error(`the guest was not started: ${reason}`);
  }
  await waitForTicks('/shared/pressed.img', 1, { node });
  // The identity of a domain is cached once its file has settled.
  await sleep(4000);
  await guest.monitor();
  const bench = new Bench(guest, runs);
  const measure: { readonly [part in Part]: () => Promise<void> } = {
    memory: () => measureMemory(bench, node),
    processor: () => measureProcessor(bench),
    busy: () => measureBusy(bench),
    guest: () => measureGuest(bench, guest),
    tasks: () => measureTasks(bench),
  };
  console.log('| short of | call | right | exits | right answers after, ms: median (range) |');
  console.log('|---|---|---|---|---|');
  for (const part of parts) {
    bench.startAnew();
    await measure[part]();
  }
  return { on: await machine(node), measured: bench.measured };
}

const program = new Command('pressure')
  .description('Measures monitors where something is short, in a lab on this machine (as root).')
  .option('--runs <number>', 'how often each is called', toCount, 5)
  .addOption(someOf('--parts <names>', 'what is short', PARTS))
  .option('--json <file>', 'keep what was measured')
  .action(async (options: Options) => {
    const { on, measured } = await measureAll(options);
    const date = new Date().toISOString().slice(0, 10);
    console.log(`\nMeasured on ${date}, ${options.runs} runs of each in turn, timeout ${TIMEOUT} s: ${on}.`);
    if (options.json !== undefined) {
      writeFileSync(options.json, `${JSON.stringify({ date, on, timeout: TIMEOUT, measured }, null, 2)}\n`);
    }
  });

await runProgram(program);

/**
 * Measures what `kvmha watch` costs while nothing happens, by number of guests: node test/bench/watcher.ts --help
 *
 * The guests are recorded QEMUs (recorded/serve.ts): what the watcher sends, gets and does is the same as with real ones.
 */
import { readFileSync } from 'node:fs';
import { Command } from 'commander';
import { Deadline, sleep } from '../../lib/deadline.ts';
import { livingThreads, memoryOf, processorTime } from '../../lib/linux/process.ts';
import { Lab, type LabNode } from '../lab/client.ts';
import { installedTree } from '../support/agent.ts';
import { Watch } from '../support/watch.ts';
import { toCounts } from './options.ts';
import { conclude, runProgram } from './program.ts';
import { recordedGuests } from './recorded/guests.ts';

interface Options {
  readonly guests: readonly number[];
  readonly minutes: number;
  readonly json?: string;
}

interface Measured {
  readonly guests: number;
  /** Of one processor. */
  readonly share: number;
  /** Bytes in memory. */
  readonly memory: number;
  /** How often a second it gave the processor away because it had nothing to do. */
  readonly wakeups: number;
}

/** Milliseconds after which what the start has cost is over. */
const SETTLE = 10_000;

/** Milliseconds until all guests must be followed. */
const PATIENCE = 60_000;

async function measure(node: LabNode, count: number, minutes: number): Promise<Measured> {
  using _guests = await recordedGuests(node, count);
  await using watch = new Watch(node);
  await watch.start();
  const followed = await Deadline.in(PATIENCE).poll(200, async () => {
    const running = (await watch.tryStatus())?.guests.filter(({ state }) => state === 'running') ?? [];
    return running.length === count || undefined;
  });
  if (!followed) {
    throw new Error(`the watcher does not follow ${count} guests`);
  }
  await sleep(SETTLE);
  const { pid } = watch;
  const [begun, before] = [performance.now(), usage(pid)];
  await sleep(minutes * 60_000);
  const [time, after] = [performance.now() - begun, usage(pid)];
  return {
    guests: count,
    share: (after.cpu - before.cpu) / time,
    memory: memoryOf(pid) ?? Number.NaN,
    wakeups: ((after.switches - before.switches) * 1000) / time,
  };
}

/** Milliseconds of processor time of a process, and its voluntary context switches, over all threads. */
function usage(pid: number): { readonly cpu: number; readonly switches: number } {
  let [cpu, switches] = [0, 0];
  for (const thread of livingThreads(pid)) {
    cpu += Number(processorTime(pid, thread) ?? 0n) / 1e6;
    const status = readFileSync(`/proc/${pid}/task/${thread}/status`, 'utf8');
    switches += Number(/^voluntary_ctxt_switches:\s+(\d+)/m.exec(status)?.[1]);
  }
  return { cpu, switches };
}

const program = new Command('watcher')
  .description('Measures the watcher at rest, in a lab on this machine (as root).')
  .option('--guests <numbers>', 'how many guests', toCounts, [0, 10, 100, 300])
  .option('--minutes <number>', 'how long each is measured', Number, 1)
  .option('--json <file>', 'keep what was measured')
  .action(async ({ guests, minutes, json }: Options) => {
    await using tree = await installedTree();
    await using lab = await Lab.up({ nodes: 1, cluster: false, install: tree.path });
    const node = lab.node(1);
    console.log('| guests | share of one processor | memory, MiB | wake-ups a second |\n|---|---|---|---|');
    const measured: Measured[] = [];
    // Ascending: what a smaller number of guests leaves behind is replaced by the next.
    for (const count of guests.toSorted((a, b) => a - b)) {
      const each = await measure(node, count, minutes);
      measured.push(each);
      const { share, memory, wakeups } = each;
      const cells = [
        count,
        `${(share * 100).toFixed(2)} %`,
        (memory / 1024 ** 2).toFixed(0),
        wakeups.toFixed(1),
      ];
      console.log(`| ${cells.join(' | ')} |`);
    }
    await conclude(node, minutes, measured, json);
  });

await runProgram(program);

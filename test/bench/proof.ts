/**
 * Measures the time from QEMU's event that a guest has stopped at an I/O error to the complete proof that it is
 * quiesced-failover-safe, by number of disks and by size of memory. node test/bench/proof.ts --help
 *
 * Each run is a guest and a process of its own, as when the agent's monitor finds the fault; a process that has
 * run for a while, as the watcher has, is faster.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { cpus, loadavg } from 'node:os';
import { Command } from 'commander';
import type { Disk } from '../guest/domain.ts';
import { Lab, type LabNode } from '../lab/client.ts';
import { type Qemu, qemus } from '../support/qemus.ts';
import { QuiesceGuest } from '../support/quiesced.ts';
import { toCount } from './options.ts';
import { runProgram } from './program.ts';
import { plot } from './proof/plot.ts';
import { type Measured, type Series, stepTable, table } from './proof/summary.ts';

interface Options {
  readonly runs: number;
  readonly from?: string;
  readonly json?: string;
  readonly svg?: string;
}

/** What is kept of a measurement. */
interface Measurement {
  /** On what it was measured. */
  readonly on: string;
  readonly date: string;
  readonly measured: readonly Measured[];
}

const DISKS = [1, 2, 4, 8];
/** MiB. More than the machine has is fine: a guest of 8 GiB that boots the witness touches a few of them. */
const MEMORY = [64, 512, 2048, 8192];

/** What is measured of each QEMU: all numbers of disks, and all sizes of memory, but for those only one of each. */
function plan(): { readonly series: Series; readonly disks: number; readonly memory: number }[] {
  return [
    ...(['none', 'writeback'] as const).flatMap((cache) =>
      DISKS.map((disks) => ({ series: `disks, cache=${cache}` as const, disks, memory: 32 })),
    ),
    ...MEMORY.map((memory) => ({ series: 'memory' as const, disks: 1, memory })),
  ];
}

async function measureAll(runs: number): Promise<Measurement> {
  await using lab = await Lab.up({ nodes: 1, cluster: false });
  const node = lab.node(1);
  const measured: Measured[] = [];
  const present = (await qemus()).filter(({ skip }) => !skip);
  // In turn, so that what else the machine does hits all alike.
  for (let run = 0; run < runs; run += 1) {
    for (const qemu of present) {
      for (const { series, disks, memory } of plan()) {
        const { took, steps } = await measure(node, qemu, series, disks, memory);
        measured.push({ qemu: qemu.name, series, disks, memory, took, steps });
        console.error(`${qemu.name}, ${series}, ${disks} disk(s), ${memory} MiB: ${took.toFixed(1)} ms`);
      }
    }
  }
  const on =
    `one machine with ${cpus().length} processors (${cpus()[0]?.model.trim()}) and a load of ` +
    `${loadavg()[2]?.toFixed(1)}, guests emulated (TCG), a process of its own for each`;
  return { on, date: new Date().toISOString().slice(0, 10), measured };
}

async function measure(node: LabNode, qemu: Qemu, series: Series, count: number, memory: number) {
  const name = 'bench-proof';
  const cache: Disk['cache'] = series === 'disks, cache=writeback' ? 'writeback' : 'none';
  const disks = Array.from({ length: count }, (_, index) => ({
    path: `/shared/${name}-${index}.qcow2`,
    format: 'qcow2' as const,
    cache,
  }));
  const { emulator } = qemu;
  const guest = await QuiesceGuest.running(node, name, { emulator, disks, memory, bridges: ['br0'] });
  const { took, steps } = await guest.preserve({ afterStop: guest.blow('W', guest.disk) });
  await guest.end();
  await node.exec(['sh', '-c', `rm -f /shared/${name}*`]);
  return { took, steps };
}

const program = new Command('proof')
  .description(
    'Measures the time from the event of a fault to the proof, in a lab on this machine (as root).',
  )
  .option('--runs <number>', 'how often each guest is quiesced', toCount, 5)
  .option('--from <file>', 'show what was measured before and kept with --json, and measure nothing')
  .option('--json <file>', 'keep what was measured')
  .option('--svg <file>', 'draw it')
  .action(async (options: Options) => {
    const measurement: Measurement =
      options.from === undefined
        ? await measureAll(options.runs)
        : JSON.parse(readFileSync(options.from, 'utf8'));
    const { on, date, measured } = measurement;
    console.log(`Measured on ${date}: ${on}\n\n${table(measured)}\n${stepTable(measured)}`);
    if (options.json !== undefined) {
      writeFileSync(options.json, `${JSON.stringify(measurement, null, 2)}\n`);
    }
    if (options.svg !== undefined) {
      writeFileSync(options.svg, plot(measured, on));
    }
  });

await runProgram(program);

/**
 * Measures the time from QEMU's event that a guest has stopped at an I/O error to the complete proof that it is
 * quiesced-failover-safe, by number of disks: node test/bench/proof.ts [RUNS]
 *
 * Each run is a guest and a process of its own, as when the agent's monitor finds the fault; a process that has
 * run for a while, as the watcher has, is faster.
 */
import type { Disk } from '../guest/domain.ts';
import { Lab } from '../lab/client.ts';
import { qemus } from '../support/qemus.ts';
import { QuiesceGuest } from '../support/quiesced.ts';

const RUNS = Number(process.argv[2] ?? 7);
const DISKS = [1, 2, 4, 8];

await using lab = await Lab.up({ nodes: 1, cluster: false });
const node = lab.node(1);

async function measure(name: string, emulator: string | undefined, disks: readonly Disk[]): Promise<number> {
  const guest = await QuiesceGuest.running(node, name, { emulator, disks, bridges: ['br0'] });
  const { took } = await guest.preserve({ afterStop: guest.blow('W', guest.disk) });
  await guest.end();
  await node.exec(['sh', '-c', `rm -f /shared/${name}*`]);
  return took;
}

console.log(`Event to proof in ms, median (least to most) of ${RUNS} runs`);
console.log(['', ...DISKS.map((count) => `${count} disk${count > 1 ? 's' : ''}`)].map(cell).join(''));
for (const { name, emulator, skip } of await qemus()) {
  for (const cache of skip ? [] : (['none', 'writeback'] as const)) {
    const row = [`${name}, cache=${cache}`];
    for (const count of DISKS) {
      const times: number[] = [];
      for (let run = 0; run < RUNS; run += 1) {
        const guest = `bench-${name.replace(/\W/g, '')}-${cache}-${count}-${run}`;
        const disks = Array.from({ length: count }, (_, index) => ({
          path: `/shared/${guest}-${index}.qcow2`,
          format: 'qcow2' as const,
          cache,
        }));
        times.push(await measure(guest, emulator, disks));
      }
      times.sort((a, b) => a - b);
      const [median, least, most] = [times[Math.floor(RUNS / 2)], times[0], times.at(-1)].map((time) =>
        (time ?? Number.NaN).toFixed(0),
      );
      row.push(`${median} (${least} to ${most})`);
    }
    console.log(row.map(cell).join(''));
  }
}

function cell(text: string, index: number): string {
  return index === 0 ? text.padEnd(30) : text.padStart(16);
}

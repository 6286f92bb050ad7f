import type { Step } from '../../../lib/quiesce/sequence.ts';
import { spread } from '../failover/summary.ts';

/** What is varied: the number of disks, with the host's page cache or without, or the size of the memory. */
export type Series = 'disks, cache=none' | 'disks, cache=writeback' | 'memory';

/** One guest that was quiesced. */
export interface Measured {
  /** Name and version. */
  readonly qemu: string;
  readonly series: Series;
  readonly disks: number;
  /** MiB. */
  readonly memory: number;
  /** Milliseconds from the event to the proof. */
  readonly took: number;
  /** Every step that was begun, and when, in milliseconds from the event. */
  readonly steps: readonly (readonly [step: string, at: number])[];
}

/** All runs of one guest of a series. */
export interface Row {
  readonly qemu: string;
  readonly series: Series;
  /** What the series varies: disks, or MiB. */
  readonly size: number;
  readonly took: readonly number[];
}

/** The runs in groups, in the order in which they were first measured. */
export function rows(measured: readonly Measured[]): Row[] {
  const groups = Map.groupBy(measured, (each) => JSON.stringify([each.series, each.qemu, sizeOf(each)]));
  return [...groups.values()].flatMap((runs) => {
    const [first] = runs;
    return first === undefined
      ? []
      : [
          {
            qemu: first.qemu,
            series: first.series,
            size: sizeOf(first),
            took: runs.map(({ took }) => took),
          },
        ];
  });
}

function sizeOf({ series, disks, memory }: Measured): number {
  return series === 'memory' ? memory : disks;
}

/** "4 disks", "64 MiB", "8 GiB". */
export function sizeWords({ series, size }: Pick<Row, 'series' | 'size'>): string {
  if (series !== 'memory') {
    return size === 1 ? '1 disk' : `${size} disks`;
  }
  return size < 1024 ? `${size} MiB` : `${size / 1024} GiB`;
}

/** Markdown: for each series the median, least and most in milliseconds, by QEMU. */
export function table(measured: readonly Measured[]): string {
  const all = rows(measured);
  const names = [...new Set(all.map(({ qemu }) => qemu))];
  const groups = Map.groupBy(all, ({ series, size }) => JSON.stringify([series, size]));
  const lines = [...groups.values()].flatMap((group) => {
    const [first] = group;
    const cells = names.map((name) => {
      const row = group.find(({ qemu }) => qemu === name);
      return row === undefined ? '' : timeWords(row.took);
    });
    return first === undefined ? [] : [`| ${first.series} | ${sizeWords(first)} | ${cells.join(' | ')} |`];
  });
  const head = ['varied', 'guest', ...names.map((name) => `${name}, ms`)];
  return [`| ${head.join(' | ')} |`, `|${head.map(() => '---|').join('')}`, ...lines, ''].join('\n');
}

export function timeWords(took: readonly number[]): string {
  const { median, least, most } = spread(took);
  return `${median.toFixed(0)} (${least.toFixed(0)} to ${most.toFixed(0)})`;
}

/** Markdown: where the time of a guest with one disk goes, the medians of each step in milliseconds, by QEMU. */
export function stepTable(measured: readonly Measured[]): string {
  const single = measured.filter(({ series, disks }) => series === 'disks, cache=none' && disks === 1);
  const names = [...new Set(single.map(({ qemu }) => qemu))];
  const steps = [...new Set(single.flatMap((each) => each.steps.map(([step]) => step)))] as Step[];
  const cell = (name: string, step: string) => {
    const times = single.filter(({ qemu }) => qemu === name).flatMap((each) => durationOf(step, each));
    return times.length === 0 ? '' : spread(times).median.toFixed(1);
  };
  const lines = ['assess', ...steps].map(
    (step) => `| ${step} | ${names.map((name) => cell(name, step)).join(' | ')} |`,
  );
  return [
    `| step, one disk, cache=none | ${names.map((name) => `${name}, ms`).join(' | ')} |`,
    `|---|${names.map(() => '---|').join('')}`,
    ...lines,
    '',
  ].join('\n');
}

/** Before the first step is what is asked of QEMU to know whether the guest can be quiesced. */
function durationOf(step: string, { steps, took }: Measured): number[] {
  if (step === 'assess') {
    return steps[0] === undefined ? [] : [steps[0][1]];
  }
  const index = steps.findIndex(([name]) => name === step);
  const begun = steps[index];
  return begun === undefined ? [] : [(steps[index + 1]?.[1] ?? took) - begun[1]];
}

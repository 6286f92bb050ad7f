import { AGENTS, type AgentName, FAULTS, type FaultName, type Outcome } from './run.ts';

/** Some values in short. */
export interface Spread {
  readonly median: number;
  readonly least: number;
  readonly most: number;
}

/** All runs of one fault under one agent. */
export interface Summary {
  readonly agent: AgentName;
  readonly fault: FaultName;
  readonly runs: number;
  /** Milliseconds from the fault until the guest wrote again, in the runs in which it did. */
  readonly wrote: readonly number[];
  /** How long the others were waited for. */
  readonly limit: number;
  /** The sums over all runs. */
  readonly fenced: number;
  readonly rebooted: number;
  readonly preserved: number;
}

/** The runs in groups, by fault and then by agent, in the order in which both are listed in run.ts. */
export function summarize(outcomes: readonly Outcome[]): Summary[] {
  const faults = Object.keys(FAULTS) as FaultName[];
  const agents = Object.keys(AGENTS) as AgentName[];
  return faults.flatMap((fault) =>
    agents.flatMap((agent) => {
      const runs = outcomes.filter((each) => each.fault === fault && each.agent === agent);
      const total = (value: (outcome: Outcome) => number) =>
        runs.reduce((sum, outcome) => sum + value(outcome), 0);
      return runs.length === 0
        ? []
        : [
            {
              agent,
              fault,
              runs: runs.length,
              wrote: runs.flatMap(({ wrote }) => wrote ?? []),
              limit: Math.max(...runs.map(({ limit }) => limit)),
              fenced: total(({ fenced }) => fenced),
              rebooted: total(({ rebooted }) => rebooted),
              preserved: total(({ preserved }) => (preserved ? 1 : 0)),
            },
          ];
    }),
  );
}

/** @param values at least one; of an even number of them the median is the mean of the two in the middle */
export function spread(values: readonly number[]): Spread {
  const sorted = values.toSorted((a, b) => a - b);
  const at = (index: number) => sorted[index] ?? Number.NaN;
  const half = (sorted.length - 1) / 2;
  return {
    median: (at(Math.floor(half)) + at(Math.ceil(half))) / 2,
    least: at(0),
    most: at(sorted.length - 1),
  };
}

/** How long the guest did not write: "1.7 s (1.5 to 2.0)", or that it never did. */
export function timeWords({ wrote, runs, limit }: Summary): string {
  const never = `never within ${limit / 1000} s`;
  if (wrote.length === 0) {
    return never;
  }
  const { median, least, most } = spread(wrote);
  const words = `${seconds(median)} s (${seconds(least)} to ${seconds(most)})`;
  return wrote.length === runs ? words : `${words}; in ${runs - wrote.length} of ${runs} ${never}`;
}

/** A table in Markdown, its columns aligned, so that it can be read as it is. */
export function markdown(summaries: readonly Summary[]): string {
  const heading = [
    'fault',
    'agent',
    'runs',
    'until the guest writes again: median (range)',
    'nodes fenced',
    'healthy guests rebooted',
    'first QEMU kept',
  ];
  const rows = summaries.map((summary) => [
    FAULTS[summary.fault].words,
    AGENTS[summary.agent].words,
    String(summary.runs),
    timeWords(summary),
    String(summary.fenced),
    String(summary.rebooted),
    keptWords(summary),
  ]);
  const widths = heading.map((_, column) =>
    Math.max(...[heading, ...rows].map((row) => row[column]?.length ?? 0)),
  );
  const line = (row: readonly string[]) =>
    `| ${row.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join(' | ')} |\n`;
  return [line(heading), line(widths.map((width) => '-'.repeat(width))), ...rows.map(line)].join('');
}

/** A QEMU that is there while its guest runs nowhere is not kept for anybody, but unnoticed. */
export function keptWords({ preserved, runs, wrote }: Summary): string {
  if (preserved === 0) {
    return 'no';
  }
  const kept = wrote.length === 0 ? 'unnoticed' : 'yes';
  return preserved === runs ? kept : `${kept}, in ${preserved} of ${runs}`;
}

function seconds(milliseconds: number): string {
  return (milliseconds / 1000).toFixed(1);
}

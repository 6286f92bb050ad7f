import type { JournalLine } from './journal-lines.ts';

/** What a guest was on a node for a while: `preserved` is quiesced-failover-safe. */
export type Condition = 'running' | 'stopped' | 'preserved';

export interface Period {
  readonly node: string;
  readonly guest: string;
  readonly condition: Condition;
  /** The line with which it began, and the one with which it ended; undefined while it lasts. Counted from 0. */
  readonly from: number;
  readonly to: number | undefined;
}

/** What the journals tell of how guests were, as far as they tell it. @param lines in the order of time */
export function periodsOf(lines: readonly JournalLine[]): Period[] {
  const periods: Period[] = [];
  const open = new Map<string, Period>();
  for (const [index, line] of lines.entries()) {
    const { node, guest } = line;
    if (guest === null) {
      continue;
    }
    const lane = JSON.stringify([node, guest]);
    const before = open.get(lane);
    const after = conditionAfter(line, before?.condition);
    if (after === before?.condition) {
      continue;
    }
    if (before !== undefined) {
      periods.push({ ...before, to: index });
      open.delete(lane);
    }
    if (after !== undefined) {
      open.set(lane, { node, guest, condition: after, from: index, to: undefined });
    }
  }
  return [...periods, ...open.values()].sort((one, other) => one.from - other.from);
}

function conditionAfter({ what, entry }: JournalLine, before: Condition | undefined): Condition | undefined {
  const { event, action, outcome } = entry;
  if (what === 'done' && (outcome === 'shut-off' || action === 'migrate') && entry['failure'] === undefined) {
    return undefined;
  }
  if (before === 'preserved') {
    return before; // Nothing but its end ends that.
  }
  // Who proved it may have been killed before it wrote that down; a stop that finds it so does.
  if (what === 'proved' || (what === 'seen' && entry['state'] === 'quiesced-failover-safe')) {
    return 'preserved';
  }
  if (what === 'seen' && event === 'STOP') {
    return 'stopped';
  }
  if (
    (what === 'seen' && event === 'RESUME') ||
    (what === 'done' && action === 'boot' && outcome === 'started')
  ) {
    return 'running';
  }
  return what === 'seen' && event === 'SHUTDOWN' ? undefined : before;
}

import type { JournalLine, Malformed } from '../../lib/timeline/journal-lines.ts';
import { tell } from '../../lib/timeline/story.ts';
import { plain } from './console.ts';
import { table } from './table.ts';

/** What `kvmha timeline --json` prints; another node's `kvmha timeline --ssh` reads it. */
export interface TimelineReport {
  /** Where it was made. */
  readonly node: string;
  readonly time: string;
  readonly since: string | null;
  /** Empty for everything. */
  readonly guests: readonly string[];
  readonly sources: readonly {
    readonly name: string;
    readonly node: string;
    readonly lines: number;
    readonly malformed: readonly Malformed[];
  }[];
  readonly unreachable: readonly { readonly node: string; readonly why: string }[];
  /** What could not be read. */
  readonly problems: readonly string[];
  readonly events: readonly JournalLine[];
}

/** At most this many lines of a journal that are none are named. */
const NAMED = 5;

/** The events, a line for each. */
export function renderTimeline({ events, sources, guests, since }: TimelineReport): string {
  if (events.length === 0) {
    const of = guests.length === 0 ? '' : ` of ${guests.map(plain).join(', ')}`;
    const where = sources.map(({ name }) => name).join(', ') || 'no journal';
    return `nothing is told${of}${since === null ? '' : ` since ${since}`} in ${plain(where)}\n`;
  }
  return table([
    ['TIME', 'NODE', 'GUEST', 'BY', 'WHAT'],
    ...events.map((line) => [line.time, line.node, line.guest ?? '', line.by, tell(line).words]),
  ]);
}

/** What kept the timeline from being complete, and what to do about it. */
export function timelineProblems({ sources, unreachable, problems }: TimelineReport): string {
  return [
    ...sources.flatMap(({ name, malformed }) =>
      malformed.length === 0 ? [] : [`${name}: ${linesIn(malformed)}; left out`],
    ),
    ...unreachable.map(
      ({ node, why }) =>
        `${node} was not reached (${why}): copy its /var/log/kvmha/events.jsonl here, and give it with ` +
        `--journal ${node}=FILE`,
    ),
    ...problems,
  ]
    .map((line) => `kvmha: ${plain(line)}\n`)
    .join('');
}

function linesIn(malformed: readonly Malformed[]): string {
  const named = malformed.slice(0, NAMED).map(({ line, why }) => `line ${line} (${why})`);
  const more = malformed.length > NAMED ? [`and ${malformed.length - NAMED} more`] : [];
  const lines = malformed.length === 1 ? '1 line' : `${malformed.length} lines`;
  return `${lines} cannot be read: ${[...named, ...more].join(', ')}`;
}

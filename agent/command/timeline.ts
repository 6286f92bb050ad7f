import { type Command, InvalidArgumentError } from 'commander';
import type { ExitCode } from './exit.ts';
import { readSeconds } from './seconds.ts';
import type { TimelineOptions } from './timeline-gathered.ts';

/** A moment: ISO 8601 (in UTC unless it says otherwise), or how long ago it was: `90m`. @returns ISO 8601 */
export function readSince(text: string, now = Date.now()): string {
  const [, count, unit] = /^(\d+(?:\.\d+)?)([smhdw])$/.exec(text) ?? [];
  if (count !== undefined && unit !== undefined) {
    const seconds = { s: 1, m: 60, h: 3600, d: 86_400, w: 604_800 }[unit] ?? 0;
    // What lies before what a Date can hold is the beginning of all.
    return new Date(Math.max(0, now - Number(count) * seconds * 1000)).toISOString();
  }
  const [, date, time = 'T00:00', zone = 'Z'] =
    /^(\d{4}-\d\d-\d\d)([T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?)?(Z|[+-]\d\d:\d\d)?$/.exec(text) ?? [];
  const moment = Date.parse(`${date}${time.replace(' ', 'T')}${zone}`);
  if (Number.isNaN(moment)) {
    throw new InvalidArgumentError(
      'It is a time, 2026-11-25 or 2026-11-25T04:30, or how long ago, as 2h or 90m.',
    );
  }
  return new Date(moment).toISOString();
}

/** Adds `kvmha timeline`. */
export function addTimeline(program: Command, exit: (code: ExitCode) => void): void {
  const collect = (word: string, words: readonly string[] | undefined) => [...(words ?? []), word];
  program
    .command('timeline')
    .summary('Show what happened to guests, from the journals of one or more nodes')
    .description(
      'Show what happened to guests: what was seen of them, decided, done and proved, from the journal of this ' +
        'node (/var/log/kvmha/events.jsonl) and those of others, in the order of time, which is in UTC and by ' +
        "each node's own clock",
    )
    .argument('[guest...]', 'only these')
    .option('-g, --guest <guest>', 'only this one; can be given more than once', collect)
    .option('--since <time>', 'not what was before: 2026-11-25T04:30, or 2h or 90m ago', (text) =>
      readSince(text),
    )
    .option(
      '--journal <file>',
      'a copy of the journal of another node, or a folder of such: FILE or NODE=FILE; can be given more than once',
      collect,
    )
    .option('--ssh', 'ask the other nodes of the cluster, by "ssh NODE kvmha timeline"')
    .option('--local', 'this node alone, as without --ssh and --journal')
    .option('--json', 'as JSON')
    .option('--html <file>', 'into a page for a browser that needs nothing else')
    .option('-t, --timeout <seconds>', 'give up after this time', readSeconds, 60)
    .addHelpText(
      'after',
      '\nExit codes: 0 done, also if a node could not be reached, or a line cannot be read, which is told; ' +
        '1 a journal of this node or one that was given could not be read, or the page not written; 2 wrong usage.',
    )
    .action(async (guests: string[], options: TimelineOptions) => {
      const { timeline } = await import('./timeline-gathered.ts');
      exit(await timeline(guests, options));
    });
}

import type { JournalLine } from './journal-lines.ts';

/** How an event is for its guest: `bad` is a fault or a failure, `warn` something that follows from one. */
export type Tone = 'good' | 'bad' | 'warn' | 'plain';

export interface Told {
  readonly words: string;
  readonly tone: Tone;
}

/** Events of QEMU that tell of a fault, or that a guest runs. */
const TONES: Readonly<Record<string, Tone>> = {
  BLOCK_IO_ERROR: 'bad',
  MEMORY_FAILURE: 'bad',
  GUEST_PANICKED: 'bad',
  WATCHDOG: 'bad',
  STOP: 'warn',
  RESUME: 'good',
};

/** How something that was done ended: these are no success. */
const UNSUCCESSFUL = ['not-proved', 'not-told', 'held', 'faulted', 'unknown'];

/** What a line of the journal says, in words for people. A line of a later version is told as it is. */
export function tell({ what, entry }: Pick<JournalLine, 'what' | 'entry'>): Told {
  switch (what) {
    case 'seen':
      return tellSeen(entry);
    case 'decided':
      return tellDecided(entry);
    case 'done':
      return tellDone(entry);
    case 'proved':
      return {
        words: `quiesced-failover-safe: the whole proof holds${behind(' after ', said(entry, 'fault'))}`,
        tone: 'good',
      };
    default:
      return { words: `${what}${details(entry)}`, tone: 'plain' };
  }
}

type Entry = JournalLine['entry'];

function tellSeen(entry: Entry): Told {
  const silent = said(entry, 'silent');
  if (silent !== undefined) {
    return { words: `QEMU does not answer: ${silent}`, tone: 'bad' };
  }
  const event = said(entry, 'event');
  const tone = TONES[event ?? ''] ?? (entry['guest'] === undefined ? 'bad' : 'plain');
  if (typeof entry['again'] === 'number') {
    return { words: `${event ?? 'the same'} again, ${entry['again']} times`, tone };
  }
  return { words: said(entry, 'words') ?? event ?? `something${details(entry)}`, tone };
}

function tellDecided(entry: Entry): Told {
  const held = said(entry, 'held');
  if (held !== undefined) {
    return { words: `held, not quiesced: ${held}`, tone: 'warn' };
  }
  const action = said(entry, 'do') ?? said(entry, 'action') ?? 'something';
  const because = said(entry, 'fault') ?? said(entry, 'error') ?? said(entry, 'why');
  const observed = entry['mode'] === 'observe' ? ' (the watcher only observes)' : '';
  const health = behind(' to ', said(entry, 'health'));
  return { words: `decided: ${action}${health}${behind(', because of ', because)}${observed}`, tone: 'warn' };
}

function tellDone(entry: Entry): Told {
  const action = said(entry, 'action') ?? 'something';
  // The watcher does what a monitor would do, without one.
  const situation = entry['by'] === 'watcher' ? '' : behind(' in a ', said(entry, 'situation'));
  const time = typeof entry['milliseconds'] === 'number' ? ` in ${entry['milliseconds']} ms` : '';
  const why = said(entry, 'why');
  const failure = said(entry, 'failure');
  if (failure !== undefined) {
    const step = behind(' at ', said(entry, 'step'));
    return { words: `${action}${situation} failed${step}${time}: ${failure}`, tone: 'bad' };
  }
  const outcome = said(entry, 'outcome');
  const tone = outcome === undefined || !UNSUCCESSFUL.includes(outcome) ? 'good' : 'bad';
  const place = behind(' in ', said(entry, 'directory'));
  return { words: `${action}${situation}${place}${behind(': ', outcome)}${time}${behind('; ', why)}`, tone };
}

function said(entry: Entry, name: string): string | undefined {
  const value = entry[name];
  return typeof value === 'string' && value !== '' ? value : undefined;
}

function behind(prefix: string, text: string | undefined): string {
  return text === undefined ? '' : `${prefix}${text}`;
}

const COMMON = ['time', 'at', 'node', 'by', 'pid', 'what', 'guest', 'uuid', 'resource'];

function details(entry: Entry): string {
  const others = Object.entries(entry).filter(([name]) => !COMMON.includes(name));
  return others.map(([name, value]) => ` ${name}=${JSON.stringify(value)}`).join('');
}

import { randomUUID } from 'node:crypto';
import { closeSync, constants, fstatSync, mkdirSync, openSync, readSync, writeSync } from 'node:fs';
import { uptime } from 'node:os';
import { dirname, join } from 'node:path';
import { KvmhaError, messageOf } from '../error.ts';
import { STATE_DIRECTORY } from '../record/directory.ts';

/** At most `guests` guests may be quiesced within `seconds`. */
export interface StormLimits {
  readonly guests: number;
  readonly seconds: number;
}

/** A guest that was quiesced, or is about to be. */
export interface Entry {
  /** Seconds since boot. */
  readonly time: number;
  /** What tells guests apart: the domain's uuid. */
  readonly guest: string;
}

/** One entry; a line that begins with "-" takes the entry with that token back. */
interface Line extends Entry {
  readonly token: string;
}

export type StormAnswer =
  | {
      /** The guest may be quiesced, and counts from now on. */
      readonly kind: 'clear';
      /** Takes it back, when the guest was not quiesced after all. Does not throw. */
      readonly withdraw: () => void;
      /** Lines of the file that could not be read, see `enterStormGuard`. */
      readonly ignoredLines: number;
    }
  | {
      readonly kind: 'held';
      readonly why: string;
      /** Whether there were too many guests; false if that cannot be known. */
      readonly isStorm: boolean;
      readonly ignoredLines: number;
    };

/** Shared by all guests of the node; emptied at boot, as the clock that it counts by starts anew. */
export const STORM_FILE = join(STATE_DIRECTORY, 'quiesced');

/**
 * What is read of a longer file. The guard itself limits how much can be written within its time; the file grows by
 * some 100 bytes for each guest that is quiesced and is never cut, because a line may be added at any moment.
 */
const MAX_READ_BYTES = 256 * 1024;

/**
 * Whether a guest must wait before it is quiesced, because as many others as are allowed were quiesced shortly before:
 * a disturbance of storage that stops all guests of a node passes more often than not, and a guest that merely
 * stands still can be resumed.
 *
 * The guest's own entries do not count: an attempt that failed half-way must be able to go on. Nor do entries from
 * the future, which are from before a boot.
 *
 * @param now seconds since boot
 * @returns the rest of the sentence "it is not quiesced: ...", undefined if it may be
 */
export function stormHolds(
  entries: readonly Entry[],
  guest: string,
  now: number,
  { guests, seconds }: StormLimits,
): string | undefined {
  const recent = entries.filter(({ time }) => time <= now && now - time < seconds);
  const others = new Set(recent.map((entry) => entry.guest));
  others.delete(guest);
  return others.size < guests
    ? undefined
    : `${others.size} other guests of this node were quiesced in the last ${seconds} s, at most ${guests} may be`;
}

/**
 * Asks for leave to quiesce a guest, before the first step that cannot be taken back.
 *
 * Of several that ask at the same time no more are let through than are allowed: each appends its line first and then
 * looks at those before its own. One that is held takes its line back, so that waiting does not make the storm last.
 *
 * A line that cannot be read is skipped and counted: only a full file system can leave one (each is written by one
 * call), and what it stood for cannot be told. A file that cannot be read or written holds every guest, which costs
 * nothing: the record of a quiesced guest lies beside it and could not be written either.
 *
 * @param guest the domain's uuid
 * @param clock seconds since boot; steps of the wall clock do not matter
 */
export function enterStormGuard(
  guest: string,
  limits: StormLimits,
  path: string = STORM_FILE,
  clock: () => number = uptime,
): StormAnswer {
  const token = randomUUID();
  let lines: Lines;
  try {
    mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
    append(path, `${Math.floor(clock() * 100) / 100} ${guest} ${token}`);
    lines = readLines(path);
  } catch (error) {
    return {
      kind: 'held',
      why: `${path} cannot be used: ${messageOf(error)}`,
      isStorm: false,
      ignoredLines: 0,
    };
  }
  const { entries, ignored: ignoredLines } = lines;
  const own = entries.findIndex((entry) => entry.token === token);
  if (own < 0) {
    return { kind: 'held', why: `${path} does not keep what is written to it`, isStorm: false, ignoredLines };
  }
  const withdraw = () => {
    try {
      append(path, `-${token}`);
    } catch {
      // It stays counted for a while, which is the careful side.
    }
  };
  // The time must be taken after the lines before it were: theirs lie in its past then.
  const why = stormHolds(entries.slice(0, own), guest, clock(), limits);
  if (why === undefined) {
    return { kind: 'clear', withdraw, ignoredLines };
  }
  withdraw();
  return { kind: 'held', why, isStorm: true, ignoredLines };
}

interface Lines {
  /** Those that were not taken back, in the order in which they were written. */
  readonly entries: readonly Line[];
  readonly ignored: number;
}

/** What the lines of a storm guard's file say. */
export function parseLines(text: string): Lines {
  const entries: Line[] = [];
  const withdrawn = new Set<string>();
  let ignored = 0;
  for (const line of text.split('\n').filter((each) => each !== '')) {
    const entry = /^(\d+(?:\.\d+)?) (\S+) (\S+)$/.exec(line);
    if (line.startsWith('-')) {
      withdrawn.add(line.slice(1));
    } else if (entry !== null) {
      entries.push({ time: Number(entry[1]), guest: entry[2] ?? '', token: entry[3] ?? '' });
    } else {
      ignored += 1;
    }
  }
  return { entries: entries.filter(({ token }) => !withdrawn.has(token)), ignored };
}

/** O_APPEND makes lines of several processes follow each other, whole. */
function append(path: string, line: string): void {
  const { O_APPEND, O_CREAT, O_NOFOLLOW, O_WRONLY } = constants;
  const file = openSync(path, O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW, 0o600);
  try {
    // With a line end at both ends a torn line does not spoil the next one.
    const bytes = Buffer.from(`\n${line}\n`);
    if (writeSync(file, bytes) !== bytes.length) {
      throw new KvmhaError('file', 'a line was not written whole');
    }
  } finally {
    closeSync(file);
  }
}

function readLines(path: string): Lines {
  const file = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW);
  try {
    const { size } = fstatSync(file);
    const start = Math.max(0, size - MAX_READ_BYTES);
    const buffer = Buffer.alloc(size - start);
    const length = readSync(file, buffer, 0, buffer.length, start);
    const text = buffer.toString('latin1', 0, length);
    // The first line of a cut file is half a line.
    return parseLines(start === 0 ? text : text.slice(text.indexOf('\n')));
  } finally {
    closeSync(file);
  }
}

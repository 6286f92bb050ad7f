import { chmodSync, renameSync } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { join } from 'node:path';
import type { Deadline } from '../deadline.ts';
import { errnoOf, isKvmhaError, KvmhaError, messageOf } from '../error.ts';
import { isAlive, type ProcessIdentity } from '../linux/process.ts';
import { syncFiles } from '../linux/sync.ts';
import type { Monitor } from '../qemu/qmp.ts';
import { coreHeader, MOST_SEGMENTS, type Segment, START_OF_MEMORY } from './core-file.ts';
import { dumpName, type OnProgress, partialDump } from './memory-dump.ts';

/** Memory that the guest has at a physical address, and where QEMU has it in its own. */
export interface MemoryRange {
  readonly physical: number;
  readonly host: number;
  readonly bytes: number;
}

/** What QEMU has to tell before its memory can be copied past it. */
export interface MemoryLayout {
  readonly ranges: readonly MemoryRange[];
  /** What `info registers -a` of its monitor prints. */
  readonly registers: string;
}

/** Physical memory that could not be read. */
export interface Unreadable {
  readonly physical: number;
  readonly bytes: number;
}

/** What is read at once, in bytes. */
const CHUNK = 1024 * 1024;
/** What is skipped at once where nothing can be read, in bytes: the smallest page. */
const PAGE = 4096;
/** Milliseconds for one question. */
const PATIENCE = 10_000;

/**
 * Writes the memory of a guest whose vCPUs stand still past QEMU, which would fail at the first page that it cannot
 * read (`elf`: write(2) gives it EFAULT) or die of it (the compressed formats: SIGBUS; both measured with 7.2). The
 * kernel gives EIO for such a page of /proc/PID/mem, and QEMU is none the wiser.
 *
 * @returns what could not be read: it has no place in the file
 * @throws KvmhaError
 */
export async function dumpPastQemu(
  { ranges, registers }: MemoryLayout,
  qemu: ProcessIdentity,
  directory: string,
  onProgress: OnProgress,
  deadline: Deadline,
): Promise<Unreadable[]> {
  const partial = partialDump(directory);
  try {
    await using memory = await open(`/proc/${qemu.pid}/mem`, 'r');
    // Asked once it is open: the number may have been given to another process, but what is open stays what it is.
    if (!isAlive(qemu)) {
      throw new KvmhaError('unreachable', `process ${qemu.pid} has ended`);
    }
    await using file = await open(partial, 'wx', 0o600);
    const { segments, unreadable } = await copy(memory, ranges, file, onProgress, deadline);
    await writeAll(file, coreHeader(segments, registers), 0);
    chmodSync(partial, 0o600);
    await syncFiles([partial], deadline);
    renameSync(partial, join(directory, dumpName('elf')));
    return unreadable;
  } catch (cause) {
    if (isKvmhaError(cause)) {
      throw cause;
    }
    throw new KvmhaError('file', `the memory cannot be copied to ${partial}: ${messageOf(cause)}`, { cause });
  }
}

async function copy(
  memory: FileHandle,
  ranges: readonly MemoryRange[],
  file: FileHandle,
  onProgress: OnProgress,
  deadline: Deadline,
): Promise<{ readonly segments: Segment[]; readonly unreadable: Unreadable[] }> {
  const total = ranges.reduce((sum, { bytes }) => sum + bytes, 0);
  const segments: Segment[] = [];
  const unreadable: Unreadable[] = [];
  const buffer = Buffer.alloc(CHUNK);
  let written = 0;
  let done = 0;
  for (const { physical, host, bytes } of ranges) {
    for (let offset = 0; offset < bytes; ) {
      if (deadline.passed()) {
        throw new KvmhaError('deadline', 'the memory could not be copied in time');
      }
      const read = await readAt(memory, buffer, host + offset, Math.min(CHUNK, bytes - offset));
      if (read > 0) {
        await writeAll(file, buffer.subarray(0, read), START_OF_MEMORY + written);
        append(segments, { physical: physical + offset, bytes: read, at: START_OF_MEMORY + written });
        written += read;
      } else {
        append(unreadable, { physical: physical + offset, bytes: Math.min(PAGE, bytes - offset) });
      }
      const step = read > 0 ? read : Math.min(PAGE, bytes - offset);
      offset += step;
      done += step;
      onProgress(done, total);
    }
  }
  if (segments.length === 0 || segments.length > MOST_SEGMENTS) {
    const what = segments.length === 0 ? 'nothing' : 'too little';
    throw new KvmhaError('file', `${what} of the memory can be read`);
  }
  return { segments, unreadable };
}

/**
 * @returns how many bytes could be read before the first page that cannot
 * @throws KvmhaError `unreachable` when the process has ended
 */
async function readAt(memory: FileHandle, buffer: Buffer, position: number, length: number): Promise<number> {
  try {
    const { bytesRead } = await memory.read(buffer, 0, length, position);
    if (bytesRead === 0) {
      throw new KvmhaError('unreachable', 'the process has ended while its memory was copied');
    }
    return bytesRead;
  } catch (error) {
    if (errnoOf(error) === 'EIO') {
      return 0;
    }
    throw error;
  }
}

/** write(2) may write less than it was given, and tell why only the next time. */
async function writeAll(file: FileHandle, content: Buffer, position: number): Promise<void> {
  for (let done = 0; done < content.length; ) {
    done += (await file.write(content, done, content.length - done, position + done)).bytesWritten;
  }
}

/** Adds a piece of memory, to the last one where it goes on there. */
function append<T extends Unreadable>(pieces: T[], piece: T): void {
  const last = pieces.at(-1);
  if (last !== undefined && last.physical + last.bytes === piece.physical) {
    pieces[pieces.length - 1] = { ...last, bytes: last.bytes + piece.bytes };
  } else {
    pieces.push(piece);
  }
}

/**
 * Where the guest's memory is: what QEMU's own dump has, RAM and ROM that no device stands behind. Nothing of the memory
 * is read.
 *
 * @throws KvmhaError `unreachable` without a monitor, `protocol` when QEMU's words are not understood
 */
export async function memoryLayout(monitor: Monitor | undefined, deadline: Deadline): Promise<MemoryLayout> {
  if (monitor === undefined) {
    throw new KvmhaError('unreachable', 'QEMU cannot be asked where the memory of the guest is');
  }
  const sections = memorySections(await ask(monitor, 'info mtree -f', deadline));
  const ranges: MemoryRange[] = [];
  for (const { physical, bytes } of sections) {
    const host = await hostAddress(monitor, physical, deadline);
    if ((await hostAddress(monitor, physical + bytes - 1, deadline)) !== host + bytes - 1) {
      throw new KvmhaError('protocol', `QEMU has the memory at ${hex(physical)} in more than one place`);
    }
    ranges.push({ physical, host, bytes });
  }
  if (ranges.length === 0) {
    throw new KvmhaError('protocol', 'QEMU does not tell where the memory of the guest is');
  }
  return { ranges, registers: await ask(monitor, 'info registers -a', deadline) };
}

/** The RAM and ROM of the address space "memory" in what `info mtree -f` of QEMU's monitor prints. */
export function memorySections(text: string): Unreadable[] {
  const views = text.split(/^FlatView #\d+\r?$/m);
  const view = views.find((each) => /^ AS "memory", root: system\b/m.test(each)) ?? '';
  return [...view.matchAll(/^ {2}([0-9a-f]{16})-([0-9a-f]{16}) \(prio -?\d+, (?:ram|rom)\): /gm)].map(
    ([, first = '', last = '']) => {
      const physical = Number.parseInt(first, 16);
      return { physical, bytes: Number.parseInt(last, 16) - physical + 1 };
    },
  );
}

async function hostAddress(monitor: Monitor, physical: number, deadline: Deadline): Promise<number> {
  const answer = await ask(monitor, `gpa2hva ${hex(physical)}`, deadline);
  const [, host] = /^Host virtual address for 0x[0-9a-f]+ \(.*\) is 0x([0-9a-f]+)\s*$/.exec(answer) ?? [];
  if (host === undefined) {
    throw new KvmhaError('protocol', `QEMU does not tell where it has ${hex(physical)}: ${answer.trim()}`);
  }
  return Number.parseInt(host, 16);
}

/** Asks QEMU's monitor for people: QMP has no such question. */
async function ask(monitor: Monitor, question: string, deadline: Deadline): Promise<string> {
  const args = { 'command-line': question };
  return String(await monitor.execute('human-monitor-command', args, deadline.within(PATIENCE)));
}

export function hex(address: number): string {
  return `0x${address.toString(16)}`;
}

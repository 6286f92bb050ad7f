import { chmodSync, renameSync, statfsSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { type Deadline, sleep } from '../deadline.ts';
import { errnoOf, KvmhaError, messageOf } from '../error.ts';
import { syncFiles } from '../linux/sync.ts';
import type { Guest } from './guest.ts';

/** `dump-guest-memory`'s formats that are offered. */
export type DumpFormat = 'elf' | 'kdump-zlib';

/** Told how much of the memory is written, in bytes. */
export type OnProgress = (done: number, total: number) => void;

/** Bytes that must stay free beside the memory: a dump's headers, the other files, and room for the node. */
const SPARE = 128 * 1024 * 1024;
/** Milliseconds for one question. */
const PATIENCE = 10_000;
/** Milliseconds between two looks at a dump's progress. */
const PROGRESS_PAUSE = 500;

/** What the name of a file ends with that is not complete. */
export const PARTIAL = '.partial';

/** The unfinished memory dump in a folder: whoever gives the collection up removes it. */
export function partialDump(directory: string): string {
  return join(directory, `memory${PARTIAL}`);
}

/** What the memory dump of a format is called when it is whole. */
export function dumpName(format: DumpFormat): string {
  return format === 'elf' ? 'memory.elf' : 'memory.kdump';
}

/**
 * The guest's memory by what libvirt says, in bytes: what an ELF dump of it has, and a compressed one at worst.
 *
 * @returns undefined when libvirt does not tell
 */
export async function memorySize(
  { virsh }: Guest,
  uuid: string,
  deadline: Deadline,
): Promise<number | undefined> {
  const facts = await virsh.information(uuid, deadline.within(PATIENCE));
  const kibibytes = Number.parseInt(facts.get('Used memory') ?? facts.get('Max memory') ?? '', 10);
  return Number.isNaN(kibibytes) ? undefined : kibibytes * 1024;
}

/**
 * Why a dump of `memory` bytes does not fit where `directory` is, or is going to be.
 *
 * @param copies how often the memory lies there at the same time
 * @returns undefined if it fits
 * @throws KvmhaError `file` when the file system cannot be asked
 */
export function lackOfSpace(directory: string, memory: number, copies: number): string | undefined {
  const free = freeBytes(directory);
  const needed = memory * copies + SPARE;
  return free >= needed
    ? undefined
    : `${directory} has ${mebibytes(free)} free, and ${mebibytes(needed)} are needed: ` +
        `${copies === 1 ? '' : `${copies} times `}${mebibytes(memory)} for the memory, the rest for what else is collected`;
}

/** Free bytes of the file system of `path`, or of its nearest folder that is there. */
function freeBytes(path: string): number {
  for (let place = path; ; place = dirname(place)) {
    try {
      const { bavail, bsize } = statfsSync(place);
      return bavail * bsize;
    } catch (cause) {
      if (errnoOf(cause) !== 'ENOENT' || place === dirname(place)) {
        throw new KvmhaError('file', `${place}: ${messageOf(cause)}`, { cause });
      }
    }
  }
}

function mebibytes(bytes: number): string {
  return `${Math.round(bytes / 1024 / 1024)} MiB`;
}

/**
 * Writes the guest's memory by way of libvirt, and gives the file its name when it is whole and on the disk. Past
 * libvirt, over the guest's own QMP socket, a dump works as well, but when it is done libvirt 9.0 hears DUMP_COMPLETED
 * without having a job, and its daemon crashes (measured).
 *
 * @throws KvmhaError
 */
export async function dumpMemory(
  guest: Guest,
  uuid: string,
  directory: string,
  format: DumpFormat,
  onProgress: OnProgress,
  deadline: Deadline,
): Promise<void> {
  const partial = partialDump(directory);
  const memory = (await memorySize(guest, uuid, deadline)) ?? 0;
  onProgress(0, memory);
  // libvirt writes to a file that is there without changing its mode.
  writeFileSync(partial, '', { mode: 0o600, flag: 'wx' });
  const words = ['dump', '--memory-only', ...(format === 'elf' ? [] : ['--format', format])];
  const dumping = guest.virsh.command([...words, '--domain', uuid, '--file', partial], deadline);
  await watch(guest, uuid, dumping, onProgress, deadline);
  onProgress(memory, memory);
  chmodSync(partial, 0o600);
  await syncFiles([partial], deadline);
  renameSync(partial, join(directory, dumpName(format)));
}

/** Until the dump has ended, tells how far it is, from `virsh domjobinfo`. */
async function watch(
  guest: Guest,
  uuid: string,
  dumping: Promise<unknown>,
  onProgress: OnProgress,
  deadline: Deadline,
): Promise<void> {
  let ended = false;
  const end = () => {
    ended = true;
  };
  dumping.then(end, end);
  while (!ended && !deadline.passed()) {
    await Promise.race([sleep(PROGRESS_PAUSE), dumping.catch(() => undefined)]);
    const text = ended
      ? ''
      : await guest.virsh.command(['domjobinfo', uuid], deadline.within(PATIENCE)).catch(() => '');
    const [done, total] = [amount(text, 'Memory processed'), amount(text, 'Memory total')];
    if (done !== undefined && total !== undefined) {
      onProgress(done, total);
    }
  }
  await dumping;
}

/** "Memory total: 256.250 MiB" in bytes. */
function amount(text: string, key: string): number | undefined {
  const match = new RegExp(`^${key}:\\s+([0-9.]+) (B|KiB|MiB|GiB|TiB)`, 'm').exec(text);
  const power = ['B', 'KiB', 'MiB', 'GiB', 'TiB'].indexOf(match?.[2] ?? '');
  return match === null || power < 0 ? undefined : Number(match[1]) * 1024 ** power;
}

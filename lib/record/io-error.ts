import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { isKvmhaError } from '../error.ts';
import { isAlive, type ProcessIdentity } from '../linux/process.ts';
import { domainDirectory, makeDomainDirectory } from './directory.ts';
import { readJsonFile, removeFile, writeJsonFile } from './json-file.ts';

/**
 * Which I/O error has stopped a guest. QEMU's own word for it, `io-status` of query-block, keeps the first error since
 * qemu was started: `cont` resets it only for disks of the old syntax (seen in 7.2 and 10.0: qmp_cont goes by blk_next,
 * which knows no anonymous backends). A guest that was out of space and then lost its storage would seem to be out of
 * space still.
 *
 * `stale`: the guest has run since, and whatever stops it next, `io-status` does not say.
 */
export type IoError = 'nospace' | 'failed' | 'stale';

interface Note {
  readonly qemu: ProcessIdentity;
  readonly ioError: IoError;
}

/**
 * What is known of the present qemu's last I/O error; undefined where nothing is, and `io-status` may be believed.
 *
 * @throws KvmhaError `file`, `malformed`
 */
export function readIoError(uuid: string): IoError | undefined {
  const path = pathOf(uuid);
  const note = existsSync(path) ? readJsonFile(path, isNote) : undefined;
  return note !== undefined && isAlive(note.qemu) ? note.ioError : undefined;
}

/** Notes an error of which QEMU has told in an event. Of several that stop the guest together the worse counts. */
export function noteIoError(uuid: string, qemu: ProcessIdentity, ioError: 'nospace' | 'failed'): void {
  if (readOrReplace(uuid) !== 'failed') {
    write(uuid, { qemu, ioError });
  }
}

/** Notes the error that `io-status` shows, by who sees it first and has heard no event. */
export function noteIoStatus(uuid: string, qemu: ProcessIdentity, ioError: 'nospace' | 'failed'): void {
  if (readOrReplace(uuid) === undefined) {
    write(uuid, { qemu, ioError });
  }
}

/** Notes that the guest runs. Where there was no error, which is almost always, this costs one look for a file. */
export function noteRunning(uuid: string): void {
  const path = pathOf(uuid);
  const note = existsSync(path) ? readJsonFile(path, isNote) : undefined;
  if (note !== undefined && note.ioError !== 'stale') {
    write(uuid, { ...note, ioError: 'stale' });
  }
}

/** Forgets the error of a domain. @throws KvmhaError `file` */
export function removeIoError(uuid: string): void {
  removeFile(pathOf(uuid));
}

function write(uuid: string, note: Note): void {
  makeDomainDirectory(uuid);
  writeJsonFile(pathOf(uuid), note);
}

function readOrReplace(uuid: string): IoError | undefined {
  try {
    return readIoError(uuid);
  } catch (error) {
    if (isKvmhaError(error)) {
      return undefined;
    }
    throw error;
  }
}

function pathOf(uuid: string): string {
  return join(domainDirectory(uuid), 'io-error.json');
}

function isNote(value: unknown): value is Note {
  const note = value as Partial<Note> | null;
  return (
    typeof note?.qemu?.pid === 'number' &&
    typeof note.qemu.startTime === 'number' &&
    ['nospace', 'failed', 'stale'].includes(note.ioError ?? '')
  );
}

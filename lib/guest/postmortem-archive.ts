import { closeSync, fsyncSync, openSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { basename, dirname } from 'node:path';
import type { Deadline } from '../deadline.ts';
import { KvmhaError, messageOf } from '../error.ts';
import { syncFiles } from '../linux/sync.ts';
import { runChecked } from '../run.ts';
import { PARTIAL } from './memory-dump.ts';

/** Where a folder's archive is. */
export function archiveOf(directory: string): string {
  return `${directory}.tar`;
}

/** Where a folder's archive is while it is not whole: whoever gives it up removes it. */
export function partialArchive(directory: string): string {
  return `${archiveOf(directory)}${PARTIAL}`;
}

/**
 * Packs a folder that is whole into one file beside it, readable by root alone, and removes the folder. The file has its
 * name only when it is on the disk.
 *
 * @returns the file's path
 * @throws KvmhaError when it cannot be written; the folder is then as it was
 */
export async function archive(directory: string, deadline: Deadline): Promise<string> {
  const [path, partial] = [archiveOf(directory), partialArchive(directory)];
  try {
    writeFileSync(partial, '', { mode: 0o600, flag: 'wx' });
    const words = ['--create', '--file', partial, '--directory', dirname(directory), '--numeric-owner'];
    await runChecked('tar', [...words, '--', basename(directory)], { deadline });
    await syncFiles([partial], deadline);
    renameSync(partial, path);
    const folder = openSync(dirname(path), 'r');
    fsyncSync(folder);
    closeSync(folder);
  } catch (cause) {
    rmSync(partial, { force: true });
    throw cause instanceof KvmhaError
      ? cause
      : new KvmhaError('file', `${path} cannot be written: ${messageOf(cause)}`, { cause });
  }
  rmSync(directory, { recursive: true });
  return path;
}

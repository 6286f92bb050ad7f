import { existsSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { errnoOf, KvmhaError, messageOf } from '../error.ts';
import type { ProcessIdentity } from '../linux/process.ts';
import { domainDirectory, makeDomainDirectory } from './directory.ts';

/** An image and whether the host page cache can hold back writes to it. */
export interface RunImage {
  readonly path: string;
  readonly direct: boolean;
}

/**
 * That a guest ran on this node since boot, and with what. When its qemu is gone, this is what tells which process
 * must have left no thread behind and which images may still have writes in the page cache.
 */
export interface RunningRecord {
  readonly qemu: ProcessIdentity;
  readonly images: readonly RunImage[];
}

/** Whether there is a record of this domain: cheap enough for every monitor. */
export function hasRunningRecord(uuid: string): boolean {
  return existsSync(pathOf(uuid));
}

/** Writes the record of a domain: whole or not at all. @throws KvmhaError `file` */
export function writeRunningRecord(uuid: string, record: RunningRecord): void {
  makeDomainDirectory(uuid);
  const path = pathOf(uuid);
  const draft = `${path}.${process.pid}`;
  try {
    writeFileSync(draft, `${JSON.stringify(record)}\n`, { mode: 0o600 });
    renameSync(draft, path);
  } catch (cause) {
    throw new KvmhaError('file', `${path} cannot be written: ${messageOf(cause)}`, { cause });
  }
}

/**
 * Reads the record of a domain.
 *
 * @returns undefined when there is none
 * @throws KvmhaError `file`, `malformed`
 */
export function readRunningRecord(uuid: string): RunningRecord | undefined {
  const path = pathOf(uuid);
  try {
    const record: unknown = JSON.parse(readFileSync(path, 'utf8'));
    if (!isRunningRecord(record)) {
      throw new KvmhaError('malformed', `${path} is not a record of this program`);
    }
    return record;
  } catch (cause) {
    if (errnoOf(cause) === 'ENOENT') {
      return undefined;
    }
    if (cause instanceof KvmhaError) {
      throw cause;
    }
    throw new KvmhaError(
      cause instanceof SyntaxError ? 'malformed' : 'file',
      `${path}: ${messageOf(cause)}`,
      {
        cause,
      },
    );
  }
}

/** Forgets that a domain ran here, once its end is verified. @throws KvmhaError `file` */
export function removeRunningRecord(uuid: string): void {
  const path = pathOf(uuid);
  try {
    rmSync(path, { force: true });
  } catch (cause) {
    throw new KvmhaError('file', `${path} cannot be removed: ${messageOf(cause)}`, { cause });
  }
}

function pathOf(uuid: string): string {
  return join(domainDirectory(uuid), 'running.json');
}

function isRunningRecord(value: unknown): value is RunningRecord {
  const record = value as Partial<RunningRecord> | null;
  return (
    typeof record?.qemu?.pid === 'number' &&
    typeof record.qemu.startTime === 'number' &&
    Array.isArray(record.images) &&
    record.images.every((image) => typeof image?.path === 'string' && typeof image.direct === 'boolean')
  );
}

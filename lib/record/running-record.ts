import { readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { errnoOf, isKvmhaError, KvmhaError, messageOf } from '../error.ts';
import type { DomainIdentity } from '../libvirt/identity-cache.ts';
import { type ProcessIdentity, readStat } from '../linux/process.ts';
import { domainDirectory, makeDomainDirectory, uuidForName } from './directory.ts';
import { withFormat, withoutFormat } from './json-file.ts';

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
  /**
   * Connection URI of the libvirt that this qemu's guest was last sent to. When the action that sent it is gone, this
   * is what tells where to ask whether the guest arrived.
   */
  readonly migratingTo?: string;
}

/** Whether the record of this domain speaks of a qemu that is there: cheap enough for every monitor. */
export function hasRunningRecord(domain: DomainIdentity): boolean {
  try {
    const record = readRunningRecord(domain);
    return record !== undefined && readStat(record.qemu.pid)?.startTime === record.qemu.startTime;
  } catch (error) {
    if (isKvmhaError(error)) {
      return false;
    }
    throw error;
  }
}

/** Writes the record of a domain: whole or not at all. @throws KvmhaError `file` */
export function writeRunningRecord(domain: DomainIdentity, record: RunningRecord): void {
  makeDomainDirectory(keyOf(domain));
  const path = pathOf(domain);
  const draft = `${path}.${process.pid}`;
  try {
    writeFileSync(draft, `${JSON.stringify(withFormat(record))}\n`, { mode: 0o600 });
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
export function readRunningRecord(domain: DomainIdentity): RunningRecord | undefined {
  const path = pathOf(domain);
  try {
    const record = withoutFormat(JSON.parse(readFileSync(path, 'utf8')), path);
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
export function removeRunningRecord(domain: DomainIdentity): void {
  const path = pathOf(domain);
  try {
    rmSync(path, { force: true });
  } catch (cause) {
    throw new KvmhaError('file', `${path} cannot be removed: ${messageOf(cause)}`, { cause });
  }
}

function pathOf(domain: DomainIdentity): string {
  return join(domainDirectory(keyOf(domain)), 'running.json');
}

/** Also found when the domain is gone, and with it the uuid that libvirt made up for one whose XML has none. */
function keyOf({ uuid, name }: DomainIdentity): string {
  return uuid ?? uuidForName(name);
}

function isRunningRecord(value: unknown): value is RunningRecord {
  const record = value as Partial<RunningRecord> | null;
  return (
    typeof record?.qemu?.pid === 'number' &&
    typeof record.qemu.startTime === 'number' &&
    (record.migratingTo === undefined || typeof record.migratingTo === 'string') &&
    Array.isArray(record.images) &&
    record.images.every((image) => typeof image?.path === 'string' && typeof image.direct === 'boolean')
  );
}

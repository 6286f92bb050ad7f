import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { isKvmhaError } from '../error.ts';
import { isAlive, type ProcessIdentity } from '../linux/process.ts';
import { domainDirectory, makeDomainDirectory } from './directory.ts';
import { readJsonFile, removeFile, writeJsonFile } from './json-file.ts';

/**
 * What a guest's QEMU has reported in an event and tells nobody who asks for it later: whoever heard it keeps it here
 * for everybody else. It is true of one qemu process, and ends with it.
 */
export interface Reported {
  readonly qemu: ProcessIdentity;
  /** A fault held against the guest although it runs, in words for people. */
  readonly fault?: string;
  /** An error that the guest has survived, in words for people. */
  readonly survived?: string;
}

/**
 * What was reported of the domain's present qemu. Where nothing was, which is almost always, this costs one look for a
 * file.
 *
 * @throws KvmhaError `file`, `malformed`: what cannot be read is not nothing
 */
export function readReported(uuid: string): Reported | undefined {
  const path = pathOf(uuid);
  const reported = existsSync(path) ? readJsonFile(path, isReported) : undefined;
  return reported !== undefined && isAlive(reported.qemu) ? reported : undefined;
}

/**
 * Adds to what was reported of a qemu. Of its faults, and of the errors it survived, the first is kept.
 *
 * @returns whether it is something new
 * @throws KvmhaError `file`
 */
export function addReported(uuid: string, news: Reported): boolean {
  const before = readOrReplace(uuid);
  const same = before !== undefined && isSame(before.qemu, news.qemu) ? before : undefined;
  const now: Reported = { ...news, ...same };
  if (now.fault === same?.fault && now.survived === same?.survived) {
    return false;
  }
  makeDomainDirectory(uuid);
  writeJsonFile(pathOf(uuid), now);
  return true;
}

/** Forgets what was reported of a domain. @throws KvmhaError `file` */
export function removeReported(uuid: string): void {
  removeFile(pathOf(uuid));
}

function readOrReplace(uuid: string): Reported | undefined {
  try {
    return readReported(uuid);
  } catch (error) {
    if (isKvmhaError(error)) {
      return undefined;
    }
    throw error;
  }
}

function isSame(one: ProcessIdentity, other: ProcessIdentity): boolean {
  return one.pid === other.pid && one.startTime === other.startTime;
}

function pathOf(uuid: string): string {
  return join(domainDirectory(uuid), 'reported.json');
}

function isReported(value: unknown): value is Reported {
  const reported = value as Partial<Reported> | null;
  return (
    typeof reported?.qemu?.pid === 'number' &&
    typeof reported.qemu.startTime === 'number' &&
    ['string', 'undefined'].includes(typeof reported.fault) &&
    ['string', 'undefined'].includes(typeof reported.survived)
  );
}

import { existsSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { isAbsolute, join, normalize } from 'node:path';
import { errnoOf, KvmhaError, messageOf } from '../error.ts';
import type { Connection, ServerAddress } from '../linux/connections.ts';
import type { FileStamp } from '../linux/file-stamp.ts';
import type { FileIdentity } from '../linux/open-files.ts';
import type { ProcessIdentity } from '../linux/process.ts';
import type { Inactivation, Medium } from '../quiesce/assess.ts';
import type { Sentinel } from '../quiesce/sentinel.ts';
import { domainDirectory, makeDomainDirectory, STATE_DIRECTORY } from './directory.ts';
import { withFormat, withoutFormat } from './json-file.ts';

/** One medium of the guest and the throw-away image, the sentinel, that takes its place. */
export interface RecordedMedium extends Medium {
  /** The files of `files`. */
  readonly images: readonly FileIdentity[];
  readonly sentinel: Sentinel;
  /** How many requests the device had made when the guest was stopped and flushed. More than that: it ran since. */
  readonly requests: number;
  /**
   * What the storage said of the files of `files` when the last write had gone to them and before they were let go.
   * Whoever finds them otherwise later knows that somebody else has had them. Undefined where it did not tell.
   */
  readonly left?: readonly FileStamp[] | undefined;
}

/**
 * What was done to a guest on its way to being failover-safe. It says only what was done: whether the guest is
 * safe is always observed anew, and the record alone never makes it so.
 */
export interface QuiesceRecord {
  readonly name: string;
  readonly uuid: string;
  /** Pacemaker's resource, where one asked for it: names the node attribute. */
  readonly resource: string | undefined;
  readonly qemu: ProcessIdentity;
  /** The fault that led here, for people. */
  readonly fault: string;
  /** Wall-clock time (ISO 8601) at which the sequence began. */
  readonly begun: string;
  /** Every image that qemu had open when the sequence began. */
  readonly media: readonly RecordedMedium[];
  /** Its connections to the servers of media on the network. */
  readonly connections?: readonly Connection[];
  /** Names of the guest's network interfaces. */
  readonly interfaces: readonly string[];
  /** Files or folders of the guest's memory, which qemu keeps open. */
  readonly memory: readonly string[];
  readonly inactivate: Inactivation;
  /** The vCPUs ran when the sequence began. */
  readonly wasRunning: boolean;
  /**
   * Every write the guest was told is durable is on the storage: QEMU flushed each image and took it read-only
   * without an error, and what the host page cache could hold back was synced. Set before an image is let go.
   */
  readonly durable: boolean;
  /** What /proc/PID/oom_score_adj said before. */
  readonly oomScore?: number | undefined;
  /**
   * It was preserved once, and another host may have run it since: nothing may let it go on here but a resume that
   * finds every image as it was left.
   */
  readonly wasPreserved?: true;
  /** It is being given its images back, to go on here: until it does, it is neither preserved nor running. */
  readonly resuming?: true;
}

/**
 * Reads the record of a domain.
 *
 * @returns undefined when there is none
 * @throws KvmhaError `file`, `malformed`: a record that cannot be read is not an absent one
 */
export function readRecord(uuid: string): QuiesceRecord | undefined {
  const path = recordPath(uuid);
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (cause) {
    if (errnoOf(cause) === 'ENOENT') {
      return undefined;
    }
    throw new KvmhaError('file', `${path}: ${messageOf(cause)}`, { cause });
  }
  return parseRecord(text, path);
}

/** Whether there is a record of a domain, of whichever qemu: cheap enough for every monitor. */
export function hasRecord(uuid: string): boolean {
  return existsSync(recordPath(uuid));
}

/** Writes the record of a domain: whole or not at all, readable by root alone. @throws KvmhaError `file` */
export function writeRecord(record: QuiesceRecord): void {
  makeDomainDirectory(record.uuid);
  const path = recordPath(record.uuid);
  const draft = `${path}.${process.pid}`;
  try {
    writeFileSync(draft, `${JSON.stringify(withFormat(record), null, 2)}\n`, { mode: 0o600, flush: true });
    renameSync(draft, path);
  } catch (cause) {
    throw new KvmhaError('file', `${path} cannot be written: ${messageOf(cause)}`, { cause });
  }
}

/** Removes the record of a domain, if there is one. @throws KvmhaError `file` */
export function removeRecord(uuid: string): void {
  const path = recordPath(uuid);
  try {
    rmSync(path, { force: true });
  } catch (cause) {
    throw new KvmhaError('file', `${path} cannot be removed: ${messageOf(cause)}`, { cause });
  }
}

/** All records of this host; one that cannot be read is given as its error. */
export function allRecords(): (QuiesceRecord | KvmhaError)[] {
  let uuids: string[];
  try {
    uuids = readdirSync(join(STATE_DIRECTORY, 'guests'));
  } catch (cause) {
    if (errnoOf(cause) === 'ENOENT') {
      return [];
    }
    return [new KvmhaError('file', `${STATE_DIRECTORY}: ${messageOf(cause)}`, { cause })];
  }
  return uuids.flatMap((uuid) => {
    try {
      return readRecord(uuid) ?? [];
    } catch (error) {
      if (error instanceof KvmhaError) {
        return error;
      }
      throw error;
    }
  });
}

function recordPath(uuid: string): string {
  return join(domainDirectory(uuid), 'quiesce.json');
}

/** A record from its text. @param path for messages @throws KvmhaError `malformed` */
export function parseRecord(text: string, path: string): QuiesceRecord {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new KvmhaError('malformed', `${path} is not JSON: ${messageOf(cause)}`, { cause });
  }
  const record = withoutFormat(value, path);
  if (!isRecord(record)) {
    throw new KvmhaError('malformed', `${path} is not a record of this program`);
  }
  return record;
}

function isRecord(value: unknown): value is QuiesceRecord {
  const record = value as Partial<QuiesceRecord> | null;
  return (
    typeof record === 'object' &&
    record !== null &&
    typeof record.name === 'string' &&
    typeof record.uuid === 'string' &&
    isProcess(record.qemu) &&
    typeof record.durable === 'boolean' &&
    typeof record.wasRunning === 'boolean' &&
    // What is open below these is not taken for an image.
    Array.isArray(record.memory) &&
    record.memory.every(isPathOfSomething) &&
    Array.isArray(record.interfaces) &&
    record.interfaces.every((name) => typeof name === 'string') &&
    (record.resuming === undefined || record.resuming === true) &&
    (record.wasPreserved === undefined || record.wasPreserved === true) &&
    (record.connections === undefined ||
      (Array.isArray(record.connections) && record.connections.every((each) => typeof each === 'string'))) &&
    Array.isArray(record.media) &&
    record.media.length > 0 &&
    record.media.every(
      (medium) =>
        typeof medium?.qdev === 'string' &&
        typeof medium.readOnly === 'boolean' &&
        isCount(medium.requests) &&
        Array.isArray(medium.nodes) &&
        Array.isArray(medium.images) &&
        (medium.servers === undefined || (Array.isArray(medium.servers) && medium.servers.every(isServer))) &&
        medium.images.length + (medium.servers?.length ?? 0) > 0 &&
        medium.images.every(
          (image: Partial<FileIdentity> | null) =>
            isPathOfSomething(image?.path) && [image?.dev, image?.ino, image?.rdev].every(isCount),
        ) &&
        isPathOfSomething(medium.sentinel?.path) &&
        typeof medium.sentinel.node === 'string' &&
        typeof medium.sentinel.fileNode === 'string',
    )
  );
}

function isProcess(value: unknown): value is ProcessIdentity {
  const { pid, startTime } = (value ?? {}) as Partial<ProcessIdentity>;
  return isCount(pid) && Number(pid) > 0 && isCount(startTime);
}

function isCount(value: unknown): value is number {
  return typeof value === 'number' && Number.isInteger(value) && value >= 0;
}

/** An absolute path, and not that of everything. */
function isPathOfSomething(value: unknown): value is string {
  return typeof value === 'string' && isAbsolute(value) && normalize(value) !== '/' && !value.includes('\0');
}

function isServer(value: unknown): value is ServerAddress {
  const { transport, port, path } = (value ?? {}) as { transport?: unknown; port?: unknown; path?: unknown };
  return transport === 'tcp'
    ? isCount(port) && port > 0
    : transport === 'unix' && typeof path === 'string' && path !== '';
}

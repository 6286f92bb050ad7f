import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { errnoOf, KvmhaError, messageOf } from '../error.ts';
import { isAlive, type ProcessIdentity } from '../linux/process.ts';
import { domainDirectory, makeDomainDirectory, STATE_DIRECTORY } from './directory.ts';
import { readJsonFile, removeFile, writeJsonFile } from './json-file.ts';

/** That a post-mortem of a guest is to be made or was begun, and how it ended. A dump takes longer than any action may. */
export interface PostmortemJob {
  /** Who collects it; undefined while nobody has begun. */
  readonly process?: ProcessIdentity;
  /** Wall-clock time, ISO 8601. */
  readonly begun: string;
  /** Where it is collected, a folder, or the archive that it has become. Empty while nobody has begun. */
  readonly directory: string;
  /** Whether the guest is released when it is complete. */
  readonly thenRelease: boolean;
  /** The parameter preserved_guest or the policy asks for it: without it the guest is not released by mistake. */
  readonly promised?: boolean;
  readonly end?: { readonly at: string; readonly failure?: string };
}

/** `lost`: it was killed, or the node's memory ran out under it. */
export type JobState = 'promised' | 'running' | 'done' | 'failed' | 'lost';

export function jobState(job: PostmortemJob): JobState {
  if (job.end !== undefined) {
    return job.end.failure === undefined ? 'done' : 'failed';
  }
  if (job.process === undefined) {
    return 'promised';
  }
  return isAlive(job.process) ? 'running' : 'lost';
}

/** What a post-mortem locks while it looks whether there is one already. @throws KvmhaError */
export function jobLock(uuid: string): string {
  return join(makeDomainDirectory(uuid), 'postmortem.lock');
}

/** Where the output of a job goes that runs without a terminal. @throws KvmhaError */
export function jobLog(uuid: string): string {
  return join(makeDomainDirectory(uuid), 'postmortem.log');
}

/** Writes the record of a domain's latest job. @throws KvmhaError `file` */
export function writeJob(uuid: string, job: PostmortemJob): void {
  makeDomainDirectory(uuid);
  writeJsonFile(jobPath(uuid), job);
}

/** The latest job of a domain, undefined if there was none. @throws KvmhaError `file`, `malformed` */
export function readJob(uuid: string): PostmortemJob | undefined {
  return readJsonFile(jobPath(uuid), isJob);
}

/**
 * The latest jobs of all domains of this node that have records.
 *
 * @throws KvmhaError `file`, `malformed`: when one cannot be read, it is not known what is promised
 */
export function allJobs(): PostmortemJob[] {
  let uuids: string[];
  try {
    uuids = readdirSync(join(STATE_DIRECTORY, 'guests'));
  } catch (cause) {
    if (errnoOf(cause) === 'ENOENT') {
      return [];
    }
    throw new KvmhaError('file', `${STATE_DIRECTORY}: ${messageOf(cause)}`, { cause });
  }
  return uuids.flatMap((uuid) => readJob(uuid) ?? []);
}

/** Forgets it. @throws KvmhaError `file` */
export function removeJob(uuid: string): void {
  removeFile(jobPath(uuid));
}

function jobPath(uuid: string): string {
  return join(domainDirectory(uuid), 'postmortem.json');
}

function isJob(value: unknown): value is PostmortemJob {
  const job = value as Partial<PostmortemJob> | null;
  return (
    (job?.process === undefined ||
      (typeof job.process.pid === 'number' && typeof job.process.startTime === 'number')) &&
    typeof job?.directory === 'string' &&
    (job.end === undefined || typeof job.end === 'object')
  );
}

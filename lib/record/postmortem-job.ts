import { join } from 'node:path';
import { isAlive, type ProcessIdentity } from '../linux/process.ts';
import { domainDirectory, makeDomainDirectory } from './directory.ts';
import { readJsonFile, removeFile, writeJsonFile } from './json-file.ts';

/** That a post-mortem of a guest was begun, and how it ended. A dump takes longer than any action may. */
export interface PostmortemJob {
  readonly process: ProcessIdentity;
  /** Wall-clock time, ISO 8601. */
  readonly begun: string;
  /** Where it is collected. */
  readonly directory: string;
  /** Whether the guest is released when it is complete. */
  readonly thenRelease: boolean;
  readonly end?: { readonly at: string; readonly failure?: string };
}

/** `lost`: it was killed, or the node's memory ran out under it. */
export type JobState = 'running' | 'done' | 'failed' | 'lost';

export function jobState(job: PostmortemJob): JobState {
  if (job.end !== undefined) {
    return job.end.failure === undefined ? 'done' : 'failed';
  }
  return isAlive(job.process) ? 'running' : 'lost';
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
    typeof job?.process?.pid === 'number' &&
    typeof job.process.startTime === 'number' &&
    typeof job.directory === 'string' &&
    (job.end === undefined || typeof job.end === 'object')
  );
}

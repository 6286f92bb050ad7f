import { spawn } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { KvmhaError, messageOf } from '../lib/error.ts';
import { jobLog, jobState, type PostmortemJob, readJob, writeJob } from '../lib/record/postmortem-job.ts';

export interface StartOptions {
  /** Connection URI of libvirt. */
  readonly connect: string;
  /** Path of the policy file. */
  readonly policy: string;
  /** Whether the guest is released when its post-mortem is complete. */
  readonly thenRelease: boolean;
}

export type StartOutcome =
  | { readonly kind: 'started'; readonly pid: number; readonly log: string }
  /** There is one already. */
  | { readonly kind: 'exists'; readonly job: PostmortemJob };

/**
 * Starts a post-mortem that outlives this process: a dump takes longer than any action may. It is a process in a session
 * of its own, which the cluster neither waits for nor kills, and which writes to a log beside the guest's records. That
 * it is promised is on record before it begins.
 *
 * @throws KvmhaError when it cannot be started
 */
export function startPostmortem(uuid: string, options: StartOptions): StartOutcome {
  const job = readJob(uuid);
  if (job !== undefined && !['promised', 'lost'].includes(jobState(job))) {
    return { kind: 'exists', job };
  }
  const { thenRelease } = options;
  writeJob(uuid, { begun: new Date().toISOString(), directory: '', thenRelease, promised: true });
  const log = jobLog(uuid);
  const file = openSync(log, 'a', 0o600);
  try {
    const words = ['postmortem', uuid, '--connect', options.connect, '--policy', options.policy];
    const child = spawn(process.execPath, [...words, ...(thenRelease ? ['--then-release'] : [])], {
      detached: true,
      stdio: ['ignore', file, file],
      cwd: '/',
    });
    child.on('error', () => {
      // It is known at once, see below.
    });
    if (child.pid === undefined) {
      throw new KvmhaError('program-missing', `${process.execPath} could not be started for its post-mortem`);
    }
    child.unref();
    return { kind: 'started', pid: child.pid, log };
  } catch (cause) {
    throw cause instanceof KvmhaError
      ? cause
      : new KvmhaError('program-failed', `its post-mortem could not be started: ${messageOf(cause)}`, {
          cause,
        });
  } finally {
    closeSync(file);
  }
}

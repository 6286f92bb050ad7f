import { existsSync } from 'node:fs';
import type { Deadline } from '../../lib/deadline.ts';
import { messageOf } from '../../lib/error.ts';
import type { Guest } from '../../lib/guest/guest.ts';
import { release as releaseGuest, releaseRefusal } from '../../lib/guest/release.ts';
import { Journal } from '../../lib/journal.ts';
import { jobState, type PostmortemJob, readJob, removeJob } from '../../lib/record/postmortem-job.ts';
import { readResourceRecord } from '../../lib/record/resource-record.ts';
import { classify } from '../../lib/state/classify.ts';
import { print, printError } from '../output.ts';
import { chooseGuest, deadlineOf, withLockedLook } from './chosen.ts';
import { ConsoleLog, plain } from './console.ts';
import { EXIT, type ExitCode } from './exit.ts';
import type { CommonOptions } from './main.ts';
import { cleanUp, type Told, tellReleased } from './placement.ts';
import { leftRecord } from './report.ts';
import { size } from './table.ts';

export async function release(
  word: string,
  options: CommonOptions & {
    readonly resource?: string;
    readonly force?: true;
    readonly withoutPostmortem?: true;
  },
): Promise<ExitCode> {
  const deadline = deadlineOf(options);
  const { guest } = await chooseGuest(word, options, deadline);
  const ended = await endPreserved(
    { ...guest, resource: options.resource ?? guest.resource },
    {
      force: options.force === true,
      cleanUp: true,
      postmortem: options.withoutPostmortem ? 'without' : 'wanted',
    },
    deadline,
  );
  for (const line of ended.lines) {
    (ended.done ? print : printError)(`${ended.done ? '' : 'kvmha: '}${plain(line)}.\n`);
  }
  return ended.done ? EXIT.DONE : EXIT.FAILED;
}

export interface EndOptions {
  readonly force: boolean;
  /** Let the cluster forget that the guest failed here: an operator has looked at it. */
  readonly cleanUp: boolean;
  /**
   * `wanted`: the guest is not ended while one is being collected, or one that was promised is missing. `own`: this
   * process has just collected it. `without`: the operator does without.
   */
  readonly postmortem: 'wanted' | 'own' | 'without';
}

/**
 * Ends a preserved guest and tells the cluster.
 *
 * @returns what happened and what to do next, in sentences without their full stop
 */
export async function endPreserved(
  guest: Guest,
  options: EndOptions,
  deadline: Deadline,
): Promise<{ readonly done: boolean; readonly lines: readonly string[] }> {
  const { name } = guest;
  const log = new ConsoleLog();
  const journal = new Journal('command', log);
  const ended = await withLockedLook(guest, deadline, async (seen) => {
    const classification = classify(seen.observation);
    const { state, fault } = classification;
    const job = seen.uuid === undefined ? undefined : readJob(seen.uuid);
    const resource = (seen.record ?? leftRecord(seen.uuid))?.resource ?? guest.resource;
    const known = { ...guest, resource };
    const refusal =
      releaseRefusal(known, classification, seen) ??
      (options.postmortem === 'wanted'
        ? lackOfPostmortem(name, job, existsSync, preservedGuestOf(seen.uuid))
        : undefined);
    if (refusal !== undefined) {
      return { resource, refusal };
    }
    const entry = { guest: name, uuid: seen.uuid, resource, state, fault, action: 'release' };
    const outcome = await releaseGuest(known, seen, options, deadline, log).catch((error: unknown) => {
      journal.record({ what: 'done', ...entry, failure: messageOf(error) });
      throw error;
    });
    journal.record({
      what: 'done',
      ...entry,
      ...(outcome.kind === 'refused' ? { failure: outcome.why } : { outcome: 'shut-off' }),
    });
    if (outcome.kind === 'refused') {
      return { resource, refusal: `${name} was not released. ${outcome.why}, or give --force` };
    }
    if (seen.uuid !== undefined) {
      removeJob(seen.uuid);
    }
    return { resource, outcome };
  }).finally(() => journal.settled());
  if (ended.outcome === undefined) {
    return { done: false, lines: [ended.refusal] };
  }
  const { pid, memory, remarks } = ended.outcome;
  const lines = [
    pid === undefined
      ? `${name} has no qemu here any more; what was left of it is removed`
      : `${name} is released: its qemu, process ${pid}, has ended, and the ${size(memory)} of memory that it held are free`,
    ...remarks,
  ];
  const told = ended.resource === undefined ? [] : await tell(ended.resource, options, deadline);
  return { done: told.every(({ done }) => done), lines: [...lines, ...told.map(({ words }) => words)] };
}

/**
 * Why a guest may not be released yet: its post-mortem is being collected, or was promised and is missing.
 *
 * @param isThere whether a file or folder exists
 * @param preservedGuest the parameter preserved_guest, as long as the cluster has not stopped the resource here
 * @returns undefined if it may
 */
export function lackOfPostmortem(
  name: string,
  job: PostmortemJob | undefined,
  isThere: (path: string) => boolean,
  preservedGuest: string | undefined,
): string | undefined {
  const without = `or give --without-postmortem to end ${name} all the same`;
  const collect = `Collect it with "kvmha postmortem ${name}", ${without}`;
  const promised = `A post-mortem of ${name} was promised, by its parameter preserved_guest or by the policy`;
  if (job === undefined) {
    return preservedGuest === 'dump' ? `${promised}, and was not begun. ${collect}` : undefined;
  }
  const state = jobState(job);
  switch (state) {
    case 'running':
      return `A post-mortem of ${name} is being collected in ${job.directory}; wait for it, ${without}`;
    case 'promised':
      return `${promised}, and was not begun. ${collect}`;
    case 'failed':
    case 'lost': {
      const why = job.end?.failure ?? 'it was interrupted';
      return job.promised ? `${promised}, and is not complete: ${why}. ${collect}` : undefined;
    }
    case 'done':
      return job.promised && !isThere(job.directory)
        ? `${promised}, and is not in ${job.directory} any more. ${collect}`
        : undefined;
  }
}

function preservedGuestOf(uuid: string | undefined): string | undefined {
  return uuid === undefined ? undefined : readResourceRecord(uuid)?.environment['OCF_RESKEY_preserved_guest'];
}

async function tell(resource: string, options: EndOptions, deadline: Deadline): Promise<Told[]> {
  const released = await tellReleased(resource, deadline);
  const cleaned = options.cleanUp && released.done ? await cleanUp(resource, deadline) : undefined;
  return cleaned === undefined ? [released] : [released, cleaned];
}

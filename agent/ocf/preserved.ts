import { clearPreserved } from '../../lib/cluster/placement.ts';
import { isKvmhaError, KvmhaError, messageOf } from '../../lib/error.ts';
import { closeLook, look } from '../../lib/guest/look.ts';
import { release } from '../../lib/guest/release.ts';
import { isAlive } from '../../lib/linux/process.ts';
import { uuidForName } from '../../lib/record/directory.ts';
import { lockDomain } from '../../lib/record/lock.ts';
import { jobState } from '../../lib/record/postmortem-job.ts';
import { allRecords, type QuiesceRecord, readRecord } from '../../lib/record/record.ts';
import { classify } from '../../lib/state/classify.ts';
import { startPostmortem } from '../postmortem-start.ts';
import type { ActionContext } from './context.ts';

/**
 * Does with a preserved guest what the parameter preserved_guest and the policy say, after a stop has found it so. That this fails
 * is no failure of the stop: the guest stays preserved, which is safe.
 */
export async function disposeOfPreserved(context: ActionContext): Promise<void> {
  const { guest, parameters, log, journal } = context;
  try {
    const record = recordOf(context);
    if (record === undefined || !isAlive(record.qemu)) {
      return; // It was stopped, not preserved.
    }
    if (parameters.preserved_guest === 'destroy') {
      await destroy(context, record);
    } else if (parameters.preserved_guest === 'dump' || (await context.policy()).dump.onQuiesce) {
      dump(context, record);
    }
  } catch (error) {
    if (!isKvmhaError(error)) {
      throw error;
    }
    const failure = messageOf(error);
    journal.record({ ...entryOf(context), failure });
    log.err(`${guest.name} stays preserved: ${failure}`);
  }
}

function entryOf({ guest, parameters }: ActionContext) {
  const action = parameters.preserved_guest === 'destroy' ? 'release' : 'postmortem';
  const { name, uuid, resource } = guest;
  return { what: 'done', guest: name, uuid, resource, situation: 'stop', action } as const;
}

/** libvirt makes up a uuid for a domain without one, unless the agent has started it. */
function recordOf({ guest }: ActionContext): QuiesceRecord | undefined {
  return (
    readRecord(guest.uuid ?? uuidForName(guest.name)) ??
    allRecords().find((record): record is QuiesceRecord => 'media' in record && record.name === guest.name)
  );
}

async function destroy(context: ActionContext, { uuid, resource }: QuiesceRecord): Promise<void> {
  const { guest, deadline, log, journal } = context;
  const lock = await lockDomain(uuid, deadline);
  try {
    const seen = await look(guest, deadline);
    closeLook(seen);
    const { state, reason } = classify(seen.observation);
    if (state !== 'quiesced-failover-safe') {
      throw new KvmhaError('malformed', `it is ${state} now (${reason})`);
    }
    log.info(`${guest.name}: ending it, as preserved_guest=destroy says`);
    const outcome = await release(guest, seen, { force: false }, deadline, log);
    if (outcome.kind === 'refused') {
      throw new KvmhaError('program-failed', outcome.why);
    }
    journal.record({ ...entryOf(context), outcome: 'shut-off' });
  } finally {
    lock.release();
  }
  const cleared = resource === undefined ? undefined : await clearPreserved(resource, deadline);
  if (cleared !== undefined && cleared.kind !== 'done' && cleared.kind !== 'none') {
    log.warn(`${guest.name}: ${resource} is still kept away from this node: ${cleared.why}`);
  }
}

/** Starts a post-mortem that goes on when this action has answered. */
function dump({ guest, parameters, log }: ActionContext, { uuid }: QuiesceRecord): void {
  const thenRelease = parameters.preserved_guest === 'dump';
  const { hypervisor, policy } = parameters;
  const outcome = startPostmortem(uuid, { connect: hypervisor, policy, thenRelease });
  if (outcome.kind === 'exists') {
    const { job } = outcome;
    log.info(`${guest.name}: its post-mortem in ${job.directory} is ${jobState(job)}`);
    return;
  }
  const { pid, log: path } = outcome;
  const then = thenRelease ? '; then it is ended' : '';
  log.info(`${guest.name}: collecting its post-mortem, process ${pid}, log ${path}${then}`);
}

import type { Deadline } from '../deadline.ts';
import { isKvmhaError, messageOf } from '../error.ts';
import type { Log } from '../log.ts';
import { type ResumeOutcome, resume } from '../quiesce/resume.ts';
import { noteRunning } from '../record/io-error.ts';
import { removeReported } from '../record/reported.ts';
import type { Classification } from '../state/classify.ts';
import type { Guest } from './guest.ts';
import { type Look, libvirtFolderOf } from './look.ts';

/**
 * Why there is nothing to be resumed: only a guest that is wholly preserved, or whose resume has failed or was interrupted, stands
 * still in a way that is known to the last detail.
 *
 * @returns a sentence without its full stop; undefined if it may be tried
 */
export function resumeRefusal(
  name: string,
  { state, reason }: Classification,
  { observation, record }: Pick<Look, 'observation' | 'record'>,
): string | undefined {
  if (state === 'quiesced-failover-safe' || record?.wasPreserved === true) {
    return undefined;
  }
  if (observation.quiesceBegun) {
    return (
      `The quiescing of ${name} was begun, and is not proved (${reason}). Run "kvmha quiesce ${name}" first, which goes ` +
      'on with it'
    );
  }
  switch (state) {
    case 'running':
    case 'degraded':
      return `${name} is running, so there is nothing to be resumed`;
    case 'paused-by-operator':
    case 'out-of-space':
    case 'faulted':
      return `${name} is ${state}, not preserved (${reason}). It has its own disks: "virsh resume ${name}" lets it go on`;
    default:
      return `${name} is ${state}, not preserved (${reason}), so there is nothing to be resumed`;
  }
}

/**
 * Resumes the guest that was looked at, or says why not. The caller holds the domain's lock, looked under it, and found
 * no `resumeRefusal`.
 *
 * @param elsewhere why the guest may run, or have run, elsewhere
 */
export async function resumeGuest(
  guest: Guest,
  seen: Look,
  elsewhere: () => Promise<string | undefined>,
  deadline: Deadline,
  log: Log,
): Promise<ResumeOutcome> {
  const { qemu, monitor, uuid, record } = seen;
  if (qemu === undefined || uuid === undefined || record === undefined) {
    return refused('its qemu process, or the record of what was done to it, was not found');
  }
  if (monitor === undefined || seen.observation.monitor.kind !== 'status') {
    return refused('its QEMU does not answer over QMP');
  }
  const sentinelDirectory = libvirtFolderOf(qemu);
  if (sentinelDirectory === undefined) {
    return refused("qemu's command line does not tell libvirt's folder of the domain");
  }
  const { resource, fault } = record;
  const target = { name: guest.name, uuid, resource, fault, qemu, monitor, sentinelDirectory };
  log.info(`${guest.name}: resuming it`);
  try {
    const outcome = await resume(target, elsewhere, deadline, (step) => {
      log.debug(`${guest.name}: ${step}`);
    });
    if (outcome.kind === 'resumed') {
      // The fault was a false alarm, and must not be held against the guest again.
      removeReported(uuid);
      noteRunning(uuid);
    }
    return outcome;
  } catch (error) {
    if (isKvmhaError(error)) {
      return refused(messageOf(error));
    }
    throw error;
  }
}

function refused(reason: string): ResumeOutcome {
  return { kind: 'refused', reasons: [reason] };
}

import type { Deadline } from '../deadline.ts';
import { isKvmhaError, messageOf } from '../error.ts';
import type { Log } from '../log.ts';
import { type QuiesceOutcome, quiesce, type StepListener } from '../quiesce/sequence.ts';
import { preventAutostart } from './autostart.ts';
import type { Guest } from './guest.ts';
import { type Look, libvirtFolderOf } from './look.ts';

/**
 * Quiesces the guest that was looked at, or says why not. The caller holds the domain's lock and looked under it.
 *
 * @param fault what is wrong with the guest, for the record
 */
export async function quiesceGuest(
  guest: Guest,
  seen: Look,
  fault: string,
  deadline: Deadline,
  log: Log,
  onStep: StepListener = () => {},
): Promise<QuiesceOutcome> {
  const { qemu, monitor, uuid } = seen;
  if (qemu === undefined || uuid === undefined) {
    return refused('its qemu process was not found');
  }
  if (monitor === undefined || seen.observation.monitor.kind !== 'status') {
    return refused('its QEMU does not answer over QMP');
  }
  const sentinelDirectory = libvirtFolderOf(qemu);
  if (sentinelDirectory === undefined) {
    return refused("qemu's command line does not tell libvirt's folder of the domain");
  }
  log.info(`${guest.name}: quiescing it (${fault})`);
  try {
    const outcome = await quiesce(
      { name: guest.name, uuid, resource: guest.resource, fault, qemu, monitor, sentinelDirectory },
      deadline,
      (step) => {
        log.debug(`${guest.name}: ${step}`);
        onStep(step);
      },
    );
    // A libvirt that has just been silent is asked again by the stop that follows.
    if (outcome.kind === 'proved' && seen.observation.libvirt.kind === 'state') {
      await preventAutostart(guest, uuid, deadline, log);
    }
    return outcome;
  } catch (error) {
    if (isKvmhaError(error)) {
      return refused(messageOf(error));
    }
    throw error;
  }
}

function refused(reason: string): QuiesceOutcome {
  return { kind: 'refused', reasons: [reason] };
}

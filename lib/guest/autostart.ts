import type { Deadline } from '../deadline.ts';
import { isKvmhaError, messageOf } from '../error.ts';
import type { Log } from '../log.ts';
import type { Guest } from './guest.ts';

/** Milliseconds in which libvirt answers, or hangs. */
const PATIENCE = 5000;

/**
 * Keeps libvirt from starting a preserved guest by itself when the node boots: it would run beside its healthy copy
 * before the cluster comes up here. A start has cleared that already, but it can be switched on while a guest runs.
 *
 * That it could not be made sure is logged and no failure: it says nothing about the qemu of now.
 */
export async function preventAutostart(
  guest: Guest,
  uuid: string,
  deadline: Deadline,
  log: Log,
): Promise<void> {
  try {
    const patience = deadline.within(Math.min(PATIENCE, deadline.remaining() / 3));
    if ((await guest.virsh.information(uuid, patience)).get('Autostart') === 'enable') {
      log.warn(`${guest.name}: libvirt would start it beside its healthy copy at boot; disabling autostart`);
      await guest.virsh.command(['autostart', '--disable', uuid], patience);
    }
  } catch (error) {
    if (!isKvmhaError(error)) {
      throw error;
    }
    if (!isKvmhaError(error, 'no-domain')) {
      log.warn(`${guest.name}: whether libvirt starts it at boot is not known: ${messageOf(error)}`);
    }
  }
}

import type { Deadline } from '../deadline.ts';
import { isKvmhaError } from '../error.ts';
import { QmpSocket } from '../qemu/qmp.ts';
import { hasRecord } from '../record/record.ts';
import { readReported } from '../record/reported.ts';
import type { Observation } from '../state/observation.ts';
import { askStatus, askUuid, isInPostCopy, isOf, patience, survivedErrors } from './ask-qemu.ts';
import { reportedErrors } from './reported-errors.ts';
import { socketsOf } from './sockets.ts';

/** What a quick look has shown of a guest that runs. */
export interface QuickLook {
  readonly observation: Observation;
  readonly uuid: string;
}

/**
 * The cheapest look, for the monitor of a guest that runs: its own QMP socket, and what is recorded of it.
 *
 * @returns undefined when the guest has no such socket, does not answer or does not run: a whole look is needed
 */
export async function quickLook(
  guest: { readonly name: string; readonly uuid: string | undefined },
  deadline: Deadline,
): Promise<QuickLook | undefined> {
  let monitor: QmpSocket | undefined;
  try {
    const soon = patience(deadline);
    monitor = await QmpSocket.connect(socketsOf(guest.name).agent, soon);
    // Asked at once, to wait for QEMU only once.
    const [uuid, view, inPostCopy, survived] = await Promise.all([
      askUuid(monitor, soon),
      askStatus(monitor, soon),
      isInPostCopy(monitor, soon),
      survivedErrors(monitor, soon),
    ]);
    // Where a quiesce was begun and it runs all the same, what became of it is for the whole look to find out.
    if (!isOf(guest, uuid) || hasRecord(uuid) || !view.running || inPostCopy) {
      return undefined;
    }
    const reported = readReported(uuid);
    if (reported?.fault !== undefined) {
      return undefined;
    }
    const observation: Observation = {
      libvirt: { kind: 'not-asked' },
      monitor: view,
      process: { kind: 'unknown', why: 'not looked for, because QEMU answers' },
      quiesceBegun: false,
      ...reportedErrors(reported, survived),
    };
    return { observation, uuid };
  } catch (error) {
    if (isKvmhaError(error)) {
      return undefined;
    }
    throw error;
  } finally {
    monitor?.close();
  }
}

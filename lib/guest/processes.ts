import { isKvmhaError, messageOf } from '../error.ts';
import type { DomainIdentity } from '../libvirt/identity-cache.ts';
import { isAlive, type ProcessIdentity } from '../linux/process.ts';
import { dyingProcess, findQemuProcesses, type QemuProcess, readPidFile } from '../qemu/qemu-process.ts';
import { readRunningRecord } from '../record/running-record.ts';
import type { ProcessView } from '../state/observation.ts';

/** What the process table shows of a guest. */
export interface Processes {
  readonly view: ProcessView;
  readonly qemu: QemuProcess | undefined;
  readonly dying: ProcessIdentity | undefined;
}

/**
 * Looks for a guest's qemu in the process table, and for what is left of it there: a process that has lost its leader
 * is found only by libvirt's pid file or by the record of what the guest last ran with.
 */
export function processes(guest: DomainIdentity): Processes {
  const none = { qemu: undefined, dying: undefined };
  try {
    const [qemu] = findQemuProcesses(guest);
    if (qemu !== undefined) {
      return { ...none, view: { kind: 'alive', pid: qemu.pid, stopped: /^[Tt]/.test(qemu.state) }, qemu };
    }
    const dying = findDying(guest);
    return dying === undefined
      ? { ...none, view: { kind: 'none' } }
      : { ...none, view: { kind: 'dying', pid: dying.pid }, dying };
  } catch (error) {
    if (isKvmhaError(error)) {
      return { ...none, view: { kind: 'unknown', why: messageOf(error) } };
    }
    throw error;
  }
}

function findDying(guest: DomainIdentity): ProcessIdentity | undefined {
  const filed = readPidFile(`/run/libvirt/qemu/${guest.name}.pid`);
  const dying = filed === undefined ? undefined : dyingProcess(filed);
  if (dying !== undefined) {
    return dying;
  }
  const recorded = readRunningRecord(guest)?.qemu;
  return recorded !== undefined && isAlive(recorded) ? recorded : undefined;
}

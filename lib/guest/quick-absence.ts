import type { Deadline } from '../deadline.ts';
import type { DomainIdentity } from '../libvirt/identity-cache.ts';
import { readPendingStart } from '../record/pending-start.ts';
import { connect, patience } from './ask-qemu.ts';
import { processes } from './processes.ts';

/**
 * Whether nothing of a guest is to be seen on this node: no qemu of it and nothing left of one in the process table,
 * before and after nobody was heard on its own QMP socket, and no start of it whose end libvirt has not told.
 *
 * libvirt is not asked. Of a guest without a process it can only contradict the process table, and that makes nobody
 * see the guest's vCPUs run.
 *
 * @throws KvmhaError where one of these cannot be seen: that is no absence
 */
export async function isQuicklySeenAbsent(guest: DomainIdentity, deadline: Deadline): Promise<boolean> {
  if (!hasNoProcess(guest) || readPendingStart(guest) !== undefined) {
    return false;
  }
  const { monitor, silent } = await connect(guest, patience(deadline));
  monitor?.close();
  // One that came meanwhile (a migration) had another process before it, or none.
  return monitor === undefined && silent === undefined && hasNoProcess(guest);
}

function hasNoProcess(guest: DomainIdentity): boolean {
  return processes(guest).view.kind === 'none';
}

import type { Deadline } from '../../lib/deadline.ts';
import { isKvmhaError } from '../../lib/error.ts';
import { isQuicklySeenAbsent } from '../../lib/guest/quick-absence.ts';
import type { DomainIdentity } from '../../lib/libvirt/identity-cache.ts';

/**
 * Whether a monitor with role=Stopped may answer "not running" at once. It answers that for every state but those in
 * which the vCPUs are seen to run (lib/state/verdict.ts), and what has no process runs none, whatever libvirt says.
 * A probe answers a contradiction with "failed" instead, and so has to ask libvirt.
 */
export async function isAbsent(guest: DomainIdentity, deadline: Deadline): Promise<boolean> {
  try {
    return await isQuicklySeenAbsent(guest, deadline);
  } catch (error) {
    if (isKvmhaError(error)) {
      return false;
    }
    throw error;
  }
}

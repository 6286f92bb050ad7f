import { statSync } from 'node:fs';
import { join } from 'node:path';
import { errnoOf, KvmhaError, messageOf } from '../../lib/error.ts';
import type { DomainIdentity } from '../../lib/libvirt/identity-cache.ts';
import type { Parameters } from '../../lib/parameters.ts';
import { domainDirectory, uuidForName } from '../../lib/record/directory.ts';

/** What a resource's utilization follows can change while the guest runs; it is looked at this often, in ms. */
const REFRESH_INTERVAL = 600_000;

/** Whether any of the utilization attributes is to be set or removed. */
export function followsUtilization(parameters: Parameters): boolean {
  return (
    parameters.autoset_utilization_cpu ||
    parameters.autoset_utilization_host_memory ||
    parameters.autoset_utilization_hv_memory ||
    parameters.unset_utilization_cpu ||
    parameters.unset_utilization_host_memory ||
    parameters.unset_utilization_hv_memory
  );
}

/** The file that remembers what was set, and by its age when that was looked at. @throws KvmhaError `malformed` */
export function utilizationFile(guest: DomainIdentity): string {
  return join(domainDirectory(guest.uuid ?? uuidForName(guest.name)), 'utilization.json');
}

/** Whether a monitor has to look at the utilization again. @throws KvmhaError `file`, `malformed` */
export function utilizationIsDue(parameters: Parameters, guest: DomainIdentity): boolean {
  if (!followsUtilization(parameters)) {
    return false;
  }
  const file = utilizationFile(guest);
  try {
    return Date.now() - statSync(file).mtimeMs >= REFRESH_INTERVAL;
  } catch (cause) {
    if (errnoOf(cause) === 'ENOENT') {
      return true;
    }
    throw new KvmhaError('file', `${file}: ${messageOf(cause)}`, { cause });
  }
}

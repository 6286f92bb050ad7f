import { closeSync, openSync, utimesSync } from 'node:fs';
import { errnoOf, isKvmhaError, messageOf } from '../../lib/error.ts';
import { makeDomainDirectory, uuidForName } from '../../lib/record/directory.ts';
import type { ActionContext } from './context.ts';
import { followsUtilization, utilizationFile, utilizationIsDue } from './utilization-age.ts';

/**
 * Keeps the resource's utilization attributes at what the guest has, as the autoset_ and unset_ parameters say. In a
 * monitor this is almost always one look at a file's age. That it cannot be done fails no action.
 *
 * @param anew the guest was just started or has just arrived: what was set before counts for nothing
 */
export async function updateUtilization(context: ActionContext, anew: boolean): Promise<void> {
  const { environment, guest, log } = context;
  if (!environment.inCluster) {
    return;
  }
  try {
    if (!followsUtilization(context.parameters) || !(anew || utilizationIsDue(context.parameters, guest))) {
      return;
    }
    makeDomainDirectory(guest.uuid ?? uuidForName(guest.name));
    const cache = utilizationFile(guest);
    const { setUtilization, forgetUtilization } = await import('../../lib/cluster/utilization.ts');
    if (anew) {
      forgetUtilization(cache);
    }
    const deadline = context.deadline.within(context.deadline.remaining() / 2);
    const outcome = await setUtilization(
      environment.instance,
      await wanted(context, deadline),
      cache,
      deadline,
    );
    if (outcome.kind !== 'done') {
      log.warn(`${guest.name}: its utilization was not set: ${outcome.why}`);
    }
    touch(cache);
  } catch (error) {
    if (!isKvmhaError(error) && errnoOf(error) === undefined) {
      throw error;
    }
    log.warn(`${guest.name}: its utilization was not set: ${messageOf(error)}`);
  }
}

/** Also after a failure: it is tried again, but not by every monitor. */
function touch(cache: string): void {
  closeSync(openSync(cache, 'a', 0o600));
  const now = new Date();
  utimesSync(cache, now, now);
}

/** vCPUs, and memory in MiB, by `virsh dominfo`; null where an attribute is to be removed. */
async function wanted({ guest, parameters }: ActionContext, deadline: ActionContext['deadline']) {
  const uuid = guest.uuid ?? (await guest.virsh.uuidOf(guest.name, deadline));
  const facts =
    uuid === undefined ? new Map<string, string>() : await guest.virsh.information(uuid, deadline);
  const number = (fact: string, divisor: number) => {
    const value = Number.parseInt(facts.get(fact) ?? '', 10);
    return Number.isNaN(value) ? undefined : Math.floor(value / divisor);
  };
  const choose = (set: boolean, unset: boolean, value: number | undefined) =>
    set ? value : unset ? null : undefined;
  const memory = number('Max memory', 1024);
  return {
    cpu: choose(parameters.autoset_utilization_cpu, parameters.unset_utilization_cpu, number('CPU(s)', 1)),
    host_memory: choose(
      parameters.autoset_utilization_host_memory,
      parameters.unset_utilization_host_memory,
      memory,
    ),
    hv_memory: choose(
      parameters.autoset_utilization_hv_memory,
      parameters.unset_utilization_hv_memory,
      memory,
    ),
  };
}

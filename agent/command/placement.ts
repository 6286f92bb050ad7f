import { order } from '../../lib/cluster/ask.ts';
import { type ClusterView, type RunningCluster, readCluster } from '../../lib/cluster/cluster-view.ts';
import { requestFailoverIn } from '../../lib/cluster/failover.ts';
import { clearPreserved, markPreserved, preservedAttribute } from '../../lib/cluster/placement.ts';
import { configuredId } from '../../lib/cluster/resource-id.ts';
import type { Deadline } from '../../lib/deadline.ts';

/** How what was to be told to the cluster went: what to say of it, and whether an operator has to do it instead. */
export interface Told {
  readonly words: string;
  readonly done: boolean;
}

/** Milliseconds in which the cluster answers, or does not. */
const PATIENCE = 15_000;

/** Tells the cluster that this node keeps a preserved copy of a guest. */
export async function tellPreserved(
  resource: string | undefined,
  name: string,
  fault: string,
  deadline: Deadline,
): Promise<Told> {
  if (resource === undefined) {
    return {
      done: true,
      words: `No cluster resource is known for ${name}; if there is one, name it with --resource`,
    };
  }
  const patience = deadline.within(PATIENCE);
  const view = await readCluster(resource, patience);
  if (view.kind === 'none') {
    return { done: true, words: `No cluster runs here to be told (${view.why})` };
  }
  if (view.kind === 'cluster' && view.resource?.activeOn.includes(view.localNode)) {
    return tellFailed(resource, view, patience);
  }
  const marked = await markPreserved(resource, fault, patience);
  if (marked.kind !== 'done') {
    return {
      done: false,
      words:
        `The cluster could not be told to keep ${resource} away from this node (${marked.why}). ` +
        `Run "attrd_updater --name=${preservedAttribute(resource)} --update=1" here`,
    };
  }
  return { done: true, words: `${resource} is kept away from this node` };
}

/**
 * Where the cluster has the guest here it is told of a failure, and the stop that follows marks the node: a mark alone
 * would make it migrate what it takes for a healthy guest.
 */
async function tellFailed(resource: string, view: RunningCluster, deadline: Deadline): Promise<Told> {
  if (!isManaged(view)) {
    return { done: true, words: `The cluster starts ${resource} on another node once it manages it again` };
  }
  const ordered = await requestFailoverIn(view, deadline);
  return ordered.kind === 'done'
    ? { done: true, words: `The cluster was told, and starts ${resource} on another node` }
    : {
        done: false,
        words: `The cluster could not be told (${ordered.why}). It finds out at the next monitor of ${resource}`,
      };
}

function isManaged(view: ClusterView): boolean {
  return view.kind === 'cluster' && view.resource?.managed === true && !view.maintenanceMode;
}

/** Takes back what `tellPreserved` told. */
export async function tellReleased(resource: string, deadline: Deadline): Promise<Told> {
  const patience = deadline.within(PATIENCE);
  const view = await readCluster(resource, patience);
  if (view.kind === 'none') {
    return { done: true, words: `No cluster runs here to be told (${view.why})` };
  }
  const cleared = await clearPreserved(resource, patience);
  if (cleared.kind !== 'done') {
    return {
      done: false,
      words:
        `The cluster could not be told that ${resource} may run on this node again (${cleared.why}). ` +
        `Run "attrd_updater --name=${preservedAttribute(resource)} --delete" here`,
    };
  }
  return { done: true, words: `${resource} may run on this node again` };
}

/** Lets the cluster forget that the resource failed on this node. */
export async function cleanUp(resource: string, deadline: Deadline): Promise<Told | undefined> {
  const patience = deadline.within(PATIENCE);
  const view = await readCluster(resource, patience);
  if (view.kind !== 'cluster' || view.resource === undefined) {
    return undefined;
  }
  const id = configuredId(resource);
  const words = ['--cleanup', `--resource=${id}`, `--node=${view.localNode}`];
  const outcome = await order('crm_resource', words, patience);
  return outcome.kind === 'done'
    ? { done: true, words: `The failures of ${id} on ${view.localNode} are cleaned up` }
    : {
        done: false,
        words: `${id} was not cleaned up (${outcome.why}). Run "crm_resource ${words.join(' ')}"`,
      };
}

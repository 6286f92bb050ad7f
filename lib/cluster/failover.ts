import type { Deadline } from '../deadline.ts';
import { type Ordered, order } from './ask.ts';
import { type RunningCluster, readCluster } from './cluster-view.ts';

/**
 * Tells the cluster that a resource has failed on a node, so that it need not wait for the next monitor: a stop
 * there and, with migration-threshold=1, a start elsewhere follow (measured: 0.2 s after the call). What the
 * cluster shows is an operation "asyncmon" with the reason "Simulated failure": the true one must be told in another
 * way.
 *
 * @param node the node's name in the cluster
 * @returns `failed`, too, when the cluster does not have the resource there: Pacemaker would count the failure
 *   against that node nevertheless
 */
export async function requestFailover(resource: string, node: string, deadline: Deadline): Promise<Ordered> {
  const view = await readCluster(resource, deadline, node);
  return view.kind === 'cluster' ? requestFailoverIn(view, deadline) : view;
}

/** As `requestFailover`, of the view's resource on the view's node, by who has read the cluster's state just now. */
export async function requestFailoverIn(view: RunningCluster, deadline: Deadline): Promise<Ordered> {
  const { resource, resourceId, localNode } = view;
  if (!resource?.activeOn.includes(localNode)) {
    return { kind: 'failed', why: `the cluster does not have ${resourceId} on ${localNode}` };
  }
  return order('crm_resource', ['--fail', `--resource=${resourceId}`, `--node=${localNode}`], deadline);
}

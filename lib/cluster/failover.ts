import type { Deadline } from '../deadline.ts';
import { type Ordered, order } from './ask.ts';
import { readCluster } from './cluster-view.ts';

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
  if (view.kind !== 'cluster') {
    return view;
  }
  if (!view.resource?.activeOn.includes(node)) {
    return { kind: 'failed', why: `the cluster does not have ${resource} on ${node}` };
  }
  return order('crm_resource', ['--fail', `--resource=${resource}`, `--node=${node}`], deadline);
}

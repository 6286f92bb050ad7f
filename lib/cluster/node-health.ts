import type { Deadline } from '../deadline.ts';
import { type Ordered, order } from './ask.ts';
import { type ClusterView, type RunningCluster, readCluster } from './cluster-view.ts';
import { type AttributeValue, attributeText, queryAttribute } from './placement.ts';

/**
 * The transient node attribute by which Pacemaker knows the node's health (Pacemaker Explained, "Tracking Node Health":
 * every attribute whose name begins with #health). What follows from it is the cluster's property node-health-strategy.
 */
export const HEALTH_ATTRIBUTE = '#health-kvmha';

/** The transient node attribute that says, in crm_mon -A, why the health is as it is. */
export const REASON_ATTRIBUTE = 'kvmha-health-reason';

/** crm_mon is asked about some resource; no resource can have this id, which is no XML name. */
const NO_RESOURCE = '-';

/** What the cluster says of this node. */
export function readNode(deadline: Deadline): Promise<ClusterView> {
  return readCluster(NO_RESOURCE, deadline);
}

/**
 * Why the node's health is not to be changed: somebody works on the cluster or on this node.
 *
 * @returns a clause for people; undefined if nothing is in the way
 */
export function maintenanceOf(view: RunningCluster): string | undefined {
  if (view.maintenanceMode) {
    return 'the cluster is in maintenance mode';
  }
  const node = view.nodes.find(({ name }) => name === view.localNode);
  return node?.maintenance ? `${view.localNode} is in maintenance` : undefined;
}

/**
 * The health that the cluster knows from us.
 *
 * @param node its name in the cluster
 */
export function knownHealth(node: string, deadline: Deadline): Promise<AttributeValue> {
  return queryAttribute(HEALTH_ATTRIBUTE, node, deadline);
}

/**
 * Tells the cluster this node's health; it acts on it at once.
 *
 * @param node its name in the cluster
 * @param why for people
 */
export async function setHealth(
  node: string,
  health: 'green' | 'yellow' | 'red',
  why: string,
  deadline: Deadline,
): Promise<Ordered> {
  const words = health === 'green' ? '--delete' : `--update=${attributeText(why)}`;
  // First the words: they may fail, and health must not.
  await order('attrd_updater', [`--name=${REASON_ATTRIBUTE}`, words, `--node=${node}`], deadline);
  return order(
    'attrd_updater',
    [`--name=${HEALTH_ATTRIBUTE}`, `--update=${health}`, `--node=${node}`],
    deadline,
  );
}

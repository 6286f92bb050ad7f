import type { ClusterNode, ClusterView, RunningCluster } from './cluster-view.ts';
import type { Destination } from './destination.ts';
import { preservedAttribute } from './placement.ts';

/**
 * Why nothing may be changed about a guest on the agent's own initiative: someone works on the cluster or on
 * this node, or whether someone does cannot be known. A stop that the cluster orders is not held up by it.
 *
 * @returns the rest of the sentence "it is left as it is: ..."; undefined if nothing is in the way, or no cluster
 *   runs here
 */
export function hindrance(view: ClusterView): string | undefined {
  if (view.kind === 'none') {
    return undefined;
  }
  if (view.kind === 'silent') {
    return `whether the cluster is in maintenance is not known, it does not answer (${view.why})`;
  }
  const { resource, resourceId, localNode } = view;
  const node = view.nodes.find(({ name }) => name === localNode);
  if (view.maintenanceMode) {
    return 'the cluster is in maintenance mode';
  }
  if (node === undefined) {
    return `the cluster does not know a node ${localNode}`;
  }
  if (node.maintenance) {
    return `${localNode} is in maintenance`;
  }
  if (resource?.maintenance) {
    return `the resource ${resourceId} is in maintenance`;
  }
  if (resource?.blocked) {
    return blockedWords(resourceId);
  }
  if (resource !== undefined && !resource.managed) {
    return `the resource ${resourceId} is unmanaged`;
  }
  if (node.standby) {
    return `${localNode} is in standby`;
  }
  if (node.shutdown) {
    return `${localNode} is shutting down`;
  }
  return undefined;
}

/**
 * Why the cluster cannot start a guest on another node if it fails here.
 *
 * @param destination what `findDestination` found: without it, and where it is unknown, only the nodes themselves are
 *   judged, not constraints, capacity and fail counts
 * @returns a clause for people; undefined if a start elsewhere can help
 */
export function noHelpElsewhere(view: ClusterView, destination?: Destination): string | undefined {
  if (view.kind === 'none') {
    return `no cluster would start it elsewhere (${view.why})`;
  }
  if (view.kind === 'silent') {
    return `whether the cluster would start it elsewhere is not known, it does not answer (${view.why})`;
  }
  return (
    standstill(view) ??
    doomed(view) ??
    noOtherNode(view) ??
    (destination?.kind === 'nowhere' ? destination.why : undefined)
  );
}

/** Why the cluster starts nothing at all. */
function standstill(view: RunningCluster): string | undefined {
  if (!view.hasController) {
    return 'the cluster has no controller (DC) at this moment';
  }
  if (!view.quorum && view.noQuorumPolicy !== 'ignore') {
    return 'this partition of the cluster has no quorum';
  }
  return view.stopAllResources ? 'the cluster is to stop all resources' : undefined;
}

/** Why the cluster does not start this resource. */
function doomed({ resource, resourceId }: RunningCluster): string | undefined {
  if (resource === undefined || resource.orphaned) {
    return `no resource ${resourceId} is configured in the cluster`;
  }
  if (resource.blocked) {
    return blockedWords(resourceId);
  }
  return resource.targetRole?.toLowerCase() === 'stopped'
    ? `the resource ${resourceId} is to be stopped (target-role)`
    : undefined;
}

function blockedWords(resourceId: string): string {
  return `the cluster leaves the resource ${resourceId} alone after a failure (blocked)`;
}

function noOtherNode(view: RunningCluster): string | undefined {
  const others = view.nodes.filter(({ name }) => name !== view.localNode);
  const unfit = others.flatMap((node) => {
    const why = unfitness(node, view);
    return why === undefined ? [] : `${node.name} ${why}`;
  });
  if (unfit.length < others.length) {
    return undefined;
  }
  return others.length === 0
    ? 'the cluster has no other node'
    : `no other node can start it: ${unfit.join(', ')}`;
}

/** What keeps a node from starting the guest, as far as it shows at the node itself. */
function unfitness(node: ClusterNode, { attributes, resourceId }: RunningCluster): string | undefined {
  if (node.unclean) {
    return 'is unclean';
  }
  if (!node.online) {
    return 'is offline';
  }
  if (node.pending) {
    return 'is joining';
  }
  if (node.shutdown) {
    return 'is shutting down';
  }
  if (node.maintenance) {
    return 'is in maintenance';
  }
  if (node.standby) {
    return 'is in standby';
  }
  return attributes.get(node.name)?.get(preservedAttribute(resourceId)) === '1'
    ? 'keeps a preserved copy of it'
    : undefined;
}

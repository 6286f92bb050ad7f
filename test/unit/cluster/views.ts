import type { ClusterNode } from '../../../lib/cluster/cluster-view.ts';

/** A node that is well, as crm_mon tells of it. */
export const HEALTHY_NODE = {
  type: 'member',
  online: true,
  standby: false,
  maintenance: false,
  unclean: false,
  pending: false,
  shutdown: false,
  health: 'green',
} as const satisfies Omit<ClusterNode, 'name'>;

/** A resource that runs on node1 as it should. */
export const STARTED_RESOURCE = {
  collective: undefined,
  managed: true,
  maintenance: false,
  blocked: false,
  failed: false,
  orphaned: false,
  role: 'Started',
  targetRole: undefined,
  activeOn: ['node1'],
} as const;

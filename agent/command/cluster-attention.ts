import type { ClusterResource } from '../../lib/cluster/cluster-view.ts';
import { HEALTH_ATTRIBUTE, REASON_ATTRIBUTE } from '../../lib/cluster/node-health.ts';
import { preservedAttribute } from '../../lib/cluster/placement.ts';
import type { SurveyedCluster } from '../../lib/cluster/survey.ts';
import { OCF } from '../../lib/ocf.ts';
import type { LocalWatcher, NodeReport, PlaceReport, WatcherReport } from './cluster-status.ts';

/** What an operator should know or do about the cluster as a whole. */
export function clusterAttention(survey: SurveyedCluster): string[] {
  if (!survey.hasController) {
    return ['the cluster is electing a controller, and what it says may be old: look again in a minute'];
  }
  return [
    ...(survey.quorum
      ? []
      : [
          `this part of the cluster has no quorum${survey.noQuorumPolicy === 'ignore' ? '' : ', so it starts no guest'}: ` +
            'bring the lost nodes back',
        ]),
    ...(survey.maintenanceMode
      ? [
          'the cluster is in maintenance mode and recovers no guest: ' +
            '"crm_attribute --name=maintenance-mode --delete" ends it',
        ]
      : []),
    ...(survey.stopAllResources
      ? [
          'the cluster was told to stop all resources: ' +
            '"crm_attribute --name=stop-all-resources --delete" lets it start them',
        ]
      : []),
  ];
}

/** What an operator should know or do about a node. @param local what this node's watcher says, of this node alone */
export function nodeAttention(
  { name, state, health, watcher }: Omit<NodeReport, 'attention'>,
  survey: SurveyedCluster,
  local: LocalWatcher | undefined,
): string[] {
  return [
    ...stateAttention(name, state),
    ...healthAttention(name, health, survey),
    ...watcherAttention(name, state, watcher, survey, local),
  ];
}

function stateAttention(node: string, state: NodeReport['state']): string[] {
  switch (state) {
    case 'unclean':
      return [
        'nobody knows what it does, and its guests are not started elsewhere before it is fenced: ' +
          `"stonith_admin --history=${node}" shows how that goes`,
      ];
    case 'offline':
      return ['it is no part of the cluster: start Pacemaker there'];
    case 'joining':
    case 'shutting-down':
    case 'maintenance':
    case 'standby':
    case 'online':
      return [];
  }
}

function healthAttention(
  node: string,
  { state, attributes }: NodeReport['health'],
  { healthStrategy, attributes: all }: SurveyedCluster,
): string[] {
  if (state === 'green') {
    return [];
  }
  const bad = Object.entries(attributes).filter(([, value]) => value !== 'green' && !(Number(value) >= 0));
  const follows =
    healthStrategy === undefined || healthStrategy === 'none'
      ? 'Nothing follows, as node-health-strategy is none: migrate its guests away, or run ' +
        '"crm_attribute --name=node-health-strategy --update=migrate-on-red"'
      : `The cluster goes by node-health-strategy=${healthStrategy}`;
  const reason = all.get(node)?.get(REASON_ATTRIBUTE);
  const seen = bad.map(([name, value]) =>
    name === HEALTH_ATTRIBUTE && reason !== undefined ? `${name} ${value}: ${reason}` : `${name} ${value}`,
  );
  // Our own would be set again by the node's watcher.
  const ends = bad.map(([name]) =>
    name === HEALTH_ATTRIBUTE
      ? `"kvmha host-health green" on ${node}`
      : `"attrd_updater --name='${name}' --delete --node=${node}"`,
  );
  return [`it is ${state} (${seen.join(', ')}). ${follows}. When it is repaired: ${ends.join(', ')}`];
}

function watcherAttention(
  node: string,
  state: NodeReport['state'],
  watcher: WatcherReport,
  { watchers }: SurveyedCluster,
  local: LocalWatcher | undefined,
): string[] {
  const [id] = watchers.keys();
  if (state !== 'online' || id === undefined) {
    return [];
  }
  const late = 'until it does, a fault of a guest is found by the next monitor only';
  const cleanup = `"crm_resource --cleanup --resource=${id} --node=${node}" starts it again`;
  switch (watcher.state) {
    case 'stopped':
      return [`its watcher does not run; ${late}: ${cleanup}`];
    case 'failed':
      return [`its watcher has failed; ${late}: ${cleanup}`];
    case 'silent': {
      const why = local !== undefined && local.state !== 'running' ? ` (${local.why})` : '';
      return [
        `its watcher does not answer${why}; the next monitor of ${id} restarts it, or the log tells why`,
      ];
    }
    case 'running':
      return (watcher.guests?.silent ?? 0) > 0
        ? [`its watcher hears nothing of ${watcher.guests?.silent} guest(s): the log tells why`]
        : [];
    case 'not-told':
      return [];
  }
}

/** What an operator should know or do about a resource, wherever it is. */
export function resourceAttention(id: string, resource: ClusterResource, survey: SurveyedCluster): string[] {
  const { activeOn, blocked, failed, managed, orphaned, role, targetRole } = resource;
  const on = activeOn.join(' and ');
  const why = `"crm_resource --why --resource=${id}" tells why`;
  if (!survey.hasController) {
    return [];
  }
  if (blocked) {
    return [
      `the cluster leaves it alone${on === '' ? '' : ` on ${on}`} after a failure that it cannot recover from` +
        `${failureOf(id, survey)}. See to the cause, then run "crm_resource --cleanup --resource=${id}"`,
    ];
  }
  const inMaintenance = survey.nodes.some(({ name, maintenance }) => maintenance && activeOn.includes(name));
  return [
    ...(managed || survey.maintenanceMode || inMaintenance
      ? []
      : [
          'the cluster does not manage it, and does not recover it: ' +
            `"crm_resource --resource=${id} --meta --delete-parameter=is-managed", or =maintenance, gives it back`,
        ]),
    ...(failed
      ? [`its last operation has failed${failureOf(id, survey)}. If the cluster does not go on, ${why}`]
      : []),
    ...(orphaned
      ? [
          `it is not configured any more and still known: "crm_resource --cleanup --resource=${id}" forgets it`,
        ]
      : []),
    ...(activeOn.length > 1 && role === 'Started' && resource.collective?.kind !== 'clone'
      ? [
          `the cluster has it on ${on} at a time. Run "kvmha status ${id}" on each, and see which one it is that runs`,
        ]
      : []),
    ...(activeOn.length === 0 && targetRole !== 'Stopped' && !survey.stopAllResources
      ? [`it runs nowhere: ${why}`]
      : []),
  ];
}

/** Pacemaker's own reason for a failure that was reported by hand says nothing. */
function failureOf(id: string, { operations }: SurveyedCluster): string {
  const failure = operations.find(
    ({ resource, exitCode, task, reason }) =>
      resource === id &&
      reason !== undefined &&
      task !== 'asyncmon' &&
      exitCode !== OCF.SUCCESS &&
      exitCode !== OCF.DEGRADED,
  );
  return failure === undefined ? '' : ` (${failure.task} on ${failure.node}: ${failure.reason})`;
}

/** What an operator should know or do about a guest on one node. @param preserved the nodes that are marked, and why */
export function placeAttention(
  id: string,
  { node, local, copy, seen, state }: PlaceReport,
  { activeOn }: ClusterResource,
  preserved: ReadonlyMap<string, string | undefined>,
): string[] {
  const mark = preservedAttribute(id);
  if (local && seen !== null) {
    const elsewhere = activeOn.some((each) => each !== node);
    return [
      ...(seen.attention === null ? [] : [`on ${node}, ${seen.attention}`]),
      ...(state === 'quiesced-failover-safe' && elsewhere && !preserved.has(node)
        ? [
            `the cluster is not told to keep it away from ${node}, where a copy is preserved: ` +
              `"attrd_updater --name=${mark} --update=1" does`,
          ]
        : []),
      ...(state === 'shut-off' && copy === 'active'
        ? [`the cluster has it on ${node}, where it is shut off: its next monitor finds that`]
        : []),
    ];
  }
  if (local) {
    return copy === 'preserved'
      ? [
          `the cluster keeps it away from ${node} for a preserved copy that is not there: ` +
            `"attrd_updater --name=${mark} --delete" lets it run there`,
        ]
      : [`the cluster has it on ${node}, where nothing is known of it: its next monitor finds that`];
  }
  if (copy === 'preserved') {
    return [
      `a copy is preserved on ${node}. What it holds in memory and on disk is known only there, by ` +
        `"kvmha status"; "kvmha postmortem ${id}" collects it there, "kvmha release ${id}" ends it there`,
    ];
  }
  return state === 'degraded'
    ? [`it runs on ${node}, but degraded: "kvmha status ${id}" there tells more, and it can be migrated away`]
    : [];
}

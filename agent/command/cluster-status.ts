import type { ClusterNode, ClusterResource } from '../../lib/cluster/cluster-view.ts';
import { faultAttribute, preservedAttribute } from '../../lib/cluster/placement.ts';
import { configuredId } from '../../lib/cluster/resource-id.ts';
import type { Operation, SurveyedCluster } from '../../lib/cluster/survey.ts';
import { OCF } from '../../lib/ocf.ts';
import { clusterAttention, nodeAttention, placeAttention, resourceAttention } from './cluster-attention.ts';
import type { GuestReport } from './report.ts';

/** The cluster as `kvmha status` shows it, and as its JSON. */
export interface ClusterReport {
  /** This node's name in the cluster. */
  readonly localNode: string;
  readonly controller: boolean;
  readonly quorum: boolean;
  readonly maintenanceMode: boolean;
  /** What the cluster makes of the nodes' health; `none`: nothing. */
  readonly healthStrategy: string;
  readonly nodes: readonly NodeReport[];
  readonly guests: readonly ResourceReport[];
  /** What an operator should know or do about the cluster as a whole. */
  readonly attention: readonly string[];
}

export interface NodeReport {
  readonly name: string;
  readonly local: boolean;
  readonly state: 'online' | 'standby' | 'maintenance' | 'joining' | 'shutting-down' | 'offline' | 'unclean';
  readonly health: {
    readonly state: 'green' | 'yellow' | 'red';
    readonly attributes: Readonly<Record<string, string>>;
  };
  readonly watcher: WatcherReport;
  readonly attention: readonly string[];
}

export interface WatcherReport {
  /** `not-told`: it is no resource of the cluster, and only its own node knows whether it runs. */
  readonly state: 'running' | 'silent' | 'failed' | 'stopped' | 'not-told';
  /** ISO 8601. */
  readonly since: string | null;
  /** How many guests it follows, and of how many it hears nothing; null on other nodes. */
  readonly guests: { readonly followed: number; readonly silent: number } | null;
}

/** What this node's watcher says of itself. */
export type LocalWatcher =
  | { readonly state: 'running'; readonly since: string; readonly followed: number; readonly silent: number }
  | { readonly state: 'silent' | 'stopped'; readonly why: string };

/** A guest as a resource of the cluster. */
export interface ResourceReport {
  readonly resource: string;
  /** The domain's name; null where this node has never had it. */
  readonly guest: string | null;
  /** Pacemaker's word for what it is doing. */
  readonly role: string | null;
  readonly managed: boolean;
  readonly places: readonly PlaceReport[];
  readonly attention: readonly string[];
}

/** A node that has the guest, or a copy of it. */
export interface PlaceReport {
  readonly node: string;
  /** On this node the copy was looked at; of other nodes only what Pacemaker knows is told. */
  readonly local: boolean;
  /** `active`: the cluster has it here. `preserved`: a copy is kept here. `left`: something else is left of it here. */
  readonly copy: 'active' | 'preserved' | 'left';
  readonly state: string;
  /** ISO 8601. */
  readonly since: string | null;
  readonly fault: string | null;
  /** What was looked at; null on other nodes. */
  readonly seen: GuestReport | null;
}

/**
 * Brings together what the cluster says of all nodes and what was seen on this one.
 *
 * @param here the guests of this node
 */
export function clusterReport(
  survey: SurveyedCluster,
  here: readonly GuestReport[],
  watcher: LocalWatcher,
): ClusterReport {
  return {
    localNode: survey.localNode,
    controller: survey.hasController,
    quorum: survey.quorum,
    maintenanceMode: survey.maintenanceMode,
    healthStrategy: survey.healthStrategy ?? 'none',
    nodes: survey.nodes.map((node) => nodeReport(node, survey, watcher)),
    guests: [...survey.guests].map(([id, resource]) => resourceReport(id, resource, survey, here)),
    attention: clusterAttention(survey),
  };
}

/** Those of this node's guests that the cluster has no resource for. */
export function guestsOutside(
  { guests }: Pick<ClusterReport, 'guests'>,
  here: readonly GuestReport[],
): GuestReport[] {
  return here.filter((guest) => !guests.some(({ resource }) => isOf(guest, resource)));
}

/** Whether a guest is what a resource runs. */
export function isOf({ name, resource }: Pick<GuestReport, 'name' | 'resource'>, id: string): boolean {
  // crm_mon gives instances of a globally unique clone with their number, and those of others without.
  return resource === null ? name === id : resource === id || configuredId(resource) === id;
}

function nodeReport(node: ClusterNode, survey: SurveyedCluster, local: LocalWatcher): NodeReport {
  const isLocal = node.name === survey.localNode;
  const state = stateOf(node);
  const health = healthOf(survey.health.get(node.name));
  const watcher = isLocal ? watcherHere(local) : watcherElsewhere(node.name, survey);
  const report = { name: node.name, local: isLocal, state, health, watcher };
  return { ...report, attention: nodeAttention(report, survey, isLocal ? local : undefined) };
}

function stateOf(node: ClusterNode): NodeReport['state'] {
  if (node.unclean) {
    return 'unclean';
  }
  if (!node.online) {
    return 'offline';
  }
  if (node.pending) {
    return 'joining';
  }
  if (node.shutdown) {
    return 'shutting-down';
  }
  if (node.maintenance) {
    return 'maintenance';
  }
  return node.standby ? 'standby' : 'online';
}

/** Attributes are colours, or numbers of which those below 0 are bad (Pacemaker Explained, "Tracking Node Health"). */
function healthOf(attributes: ReadonlyMap<string, string> | undefined): NodeReport['health'] {
  const values = [...(attributes?.values() ?? [])];
  const state = values.some((value) => value === 'red' || Number(value) < 0)
    ? 'red'
    : values.includes('yellow')
      ? 'yellow'
      : 'green';
  return { state, attributes: Object.fromEntries(attributes ?? []) };
}

function watcherHere(watcher: LocalWatcher): WatcherReport {
  return watcher.state === 'running'
    ? {
        state: 'running',
        since: watcher.since,
        guests: { followed: watcher.followed, silent: watcher.silent },
      }
    : { state: watcher.state, since: null, guests: null };
}

function watcherElsewhere(node: string, survey: SurveyedCluster): WatcherReport {
  const resources = [...survey.watchers];
  const active = resources.find(([, { activeOn }]) => activeOn.includes(node));
  if (active === undefined) {
    return { state: resources.length === 0 ? 'not-told' : 'stopped', since: null, guests: null };
  }
  const [id] = active;
  const monitor = survey.operations.find(
    (each) => each.resource === id && each.node === node && each.interval > 0,
  );
  const failed = monitor !== undefined && monitor.exitCode !== OCF.SUCCESS;
  return {
    state: failed ? 'failed' : 'running',
    since: (failed ? monitor.since : beginning(id, node, survey)) ?? null,
    guests: null,
  };
}

function resourceReport(
  id: string,
  resource: ClusterResource,
  survey: SurveyedCluster,
  here: readonly GuestReport[],
): ResourceReport {
  const seen = here.find((guest) => isOf(guest, id));
  const preserved = preservedOn(id, survey);
  const nodes = new Set([
    ...resource.activeOn,
    ...preserved.keys(),
    ...(isHere(seen) ? [survey.localNode] : []),
  ]);
  const places = [...nodes].map((node) => placeReport(id, node, resource, survey, preserved, seen));
  return {
    resource: id,
    guest: seen?.name ?? null,
    role: resource.role ?? null,
    managed: resource.managed,
    places,
    attention: [
      ...resourceAttention(id, resource, survey),
      ...places.flatMap((place) => placeAttention(id, place, resource, preserved)),
    ],
  };
}

/** A domain that is only defined here, as libvirt knows it on every node, is no copy. */
function isHere(seen: GuestReport | undefined): boolean {
  return seen !== undefined && (seen.state !== 'shut-off' || seen.attention !== null);
}

/** The nodes that are marked to keep a preserved copy, and with which fault. */
function preservedOn(id: string, { attributes }: SurveyedCluster): Map<string, string | undefined> {
  return new Map(
    [...attributes]
      .filter(([, values]) => values.get(preservedAttribute(id)) === '1')
      .map(([node, values]) => [node, values.get(faultAttribute(id))]),
  );
}

function placeReport(
  id: string,
  node: string,
  resource: ClusterResource,
  survey: SurveyedCluster,
  preserved: ReadonlyMap<string, string | undefined>,
  here: GuestReport | undefined,
): PlaceReport {
  const local = node === survey.localNode;
  const active = resource.activeOn.includes(node);
  if (local && here !== undefined) {
    const isKept = here.state === 'quiesced-failover-safe' || preserved.has(node);
    return {
      node,
      local,
      copy: active ? 'active' : isKept ? 'preserved' : 'left',
      state: here.state,
      since: here.since,
      fault: here.fault,
      seen: here,
    };
  }
  if (!active) {
    const stop = survey.operations.find(
      (each) => each.resource === id && each.node === node && each.task === 'stop',
    );
    const fault = preserved.get(node) ?? null;
    return {
      node,
      local,
      copy: 'preserved',
      state: 'preserved',
      since: stop?.since ?? null,
      fault,
      seen: null,
    };
  }
  const monitor = survey.operations.find(
    (each) => each.resource === id && each.node === node && each.interval > 0,
  );
  const degraded = monitor?.exitCode === OCF.DEGRADED;
  return {
    node,
    local,
    copy: 'active',
    state: resource.failed ? 'failed' : degraded ? 'degraded' : (resource.role ?? 'unknown').toLowerCase(),
    since: beginning(id, node, survey) ?? null,
    fault: degraded ? (monitor.reason ?? 'degraded') : null,
    seen: null,
  };
}

/** When the cluster began to have a resource on a node: by a start, a migration, or a probe that found it. */
function beginning(id: string, node: string, { operations }: SurveyedCluster): string | undefined {
  const begins = ({ task, interval }: Operation) =>
    interval === 0 && (task === 'start' || task === 'migrate_from' || task === 'monitor');
  return operations.find((each) => each.resource === id && each.node === node && begins(each))?.since;
}

import { mkdirSync } from 'node:fs';
import type { Element } from '@xmldom/xmldom';
import type { Deadline } from '../deadline.ts';
import { errnoOf, isKvmhaError, KvmhaError, messageOf } from '../error.ts';
import { STATE_DIRECTORY } from '../record/directory.ts';
import { ask } from './ask.ts';
import { nodesWithPreserved, type RunningCluster } from './cluster-view.ts';
import { configuredId } from './resource-id.ts';
import { isTrue, parseResult, select, text } from './xml.ts';

/** Where the cluster would run a resource that must not run on this node. */
export type Destination =
  | { readonly kind: 'node'; readonly node: string }
  /** On no node; `why` is a clause for people. */
  | { readonly kind: 'nowhere'; readonly why: string }
  /** Its scheduler could not be asked. */
  | { readonly kind: 'unknown'; readonly why: string };

/**
 * Asks Pacemaker's own scheduler where the resource would run if this node, and every node that keeps a preserved
 * copy, were banned from it, as they are once the guest is preserved here. Everything that decides placement takes
 * part: location, order and colocation constraints, symmetric-cluster, utilization, health, fail counts, quorum,
 * fencing. Nothing is changed in the cluster: the bans are added to a copy of its configuration.
 *
 * Measured: 40 ms for both programs; with 16 nodes and 500 guests 1.3 s.
 *
 * What it cannot know: a start that Pacemaker would try and that then fails.
 */
export async function findDestination(view: RunningCluster, deadline: Deadline): Promise<Destination> {
  if (view.resource === undefined) {
    return { kind: 'nowhere', why: `no resource ${view.resourceId} is configured in the cluster` };
  }
  const cib = await ask('cibadmin', ['--query', '--local'], deadline);
  if (cib.kind !== 'answer' || cib.exitCode !== 0) {
    const why = cib.kind === 'answer' ? `cibadmin exited ${cib.exitCode}: ${cib.said}` : cib.why;
    return { kind: 'unknown', why };
  }
  try {
    const nodes = [...new Set([view.localNode, ...nodesWithPreserved(view)])];
    const input = withBans(cib.stdout, bannedId(view), nodes);
    // crm_simulate keeps its input in a file for a moment. Killed at the deadline it leaves it behind: where it is
    // gone at the next boot, and not among the operator's shadow configurations.
    mkdirSync(STATE_DIRECTORY, { recursive: true, mode: 0o700 });
    const simulated = await ask('crm_simulate', ['--xml-pipe', '--run', '--output-as=xml'], deadline, {
      input,
      env: { CIB_shadow_dir: STATE_DIRECTORY },
    });
    if (simulated.kind !== 'answer') {
      return { kind: 'unknown', why: simulated.why };
    }
    if (simulated.exitCode !== 0) {
      return { kind: 'unknown', why: `crm_simulate exited ${simulated.exitCode}: ${simulated.said}` };
    }
    return await parseDestination(simulated.stdout, view);
  } catch (error) {
    if (isKvmhaError(error) || errnoOf(error) !== undefined) {
      return { kind: 'unknown', why: messageOf(error) };
    }
    throw error;
  }
}

/**
 * What a location constraint must name to keep the resource off a node. Of a clone or a bundle that is the whole:
 * Pacemaker ignores one on a globally unique clone's primitive (seen with 2.1.5). A group follows its member.
 */
export function bannedId({ resource, resourceId }: RunningCluster): string {
  const collective = resource?.collective;
  const whole = collective?.kind === 'group' ? undefined : collective?.id;
  return whole ?? configuredId(resourceId);
}

/**
 * The configuration with -INFINITY constraints for a resource on nodes.
 *
 * @param cib as cibadmin prints it
 * @throws KvmhaError `malformed` when it has no place for constraints
 */
export function withBans(cib: string, resource: string, nodes: readonly string[]): string {
  // Text, because a large cluster's is megabytes: cibadmin escapes every "<" that is not markup.
  const place = /<constraints\s*\/>|<\/constraints>/.exec(cib);
  if (place === null) {
    throw new KvmhaError('malformed', 'the cluster configuration has no constraints section');
  }
  const bans = nodes.map(
    (node, index) =>
      `<rsc_location id="kvmha-what-if-${index}" rsc="${escaped(resource)}" node="${escaped(node)}" score="-INFINITY"/>`,
  );
  const opening = place[0] === '</constraints>' ? '' : '<constraints>';
  return [
    cib.slice(0, place.index),
    opening,
    ...bans,
    '</constraints>',
    cib.slice(place.index + place[0].length),
  ].join('');
}

/**
 * What crm_simulate's XML says about the resource of a view under bans.
 *
 * @throws KvmhaError `malformed` when it is not what crm_simulate prints
 */
export async function parseDestination(xml: string, view: RunningCluster): Promise<Destination> {
  const root = await parseResult(xml);
  const { resourceId, localNode, resource } = view;
  const actions = select(root, 'actions/rsc_action').filter((action) => isOf(action, view));
  const starts = actions.filter((action) => (placeOf(action) ?? localNode) !== localNode);
  const start = starts.find((action) => !isTrue(action, 'blocked')) ?? starts[0];
  if (start !== undefined && !isTrue(start, 'blocked')) {
    return { kind: 'node', node: placeOf(start) ?? '' };
  }
  if (start !== undefined) {
    const why = `a start of ${resourceId} on ${placeOf(start)} is blocked${reasonOf(start)}`;
    return { kind: 'nowhere', why };
  }
  const [stop] = actions;
  if (stop !== undefined) {
    return { kind: 'nowhere', why: `the cluster would run ${resourceId} on no other node${reasonOf(stop)}` };
  }
  const elsewhere = resource?.activeOn.filter((node) => node !== localNode) ?? [];
  const why =
    elsewhere.length > 0
      ? `the cluster would leave ${resourceId} where it is, on ${elsewhere.join(' and ')}`
      : `the cluster would not move ${resourceId}`;
  return { kind: 'nowhere', why };
}

/** Whether an action is about this resource. The scheduler numbers the instances of anonymous clones, too. */
function isOf(action: Element, { resourceId, localNode }: RunningCluster): boolean {
  const id = text(action, 'resource') ?? '';
  const from = text(action, 'source') ?? text(action, 'node');
  return id === resourceId || (configuredId(id) === resourceId && from === localNode);
}

/**
 * The node on which the resource runs after the action, as far as the action tells (rsc-action-item in Pacemaker's
 * lib/pacemaker/pcmk_output.c): `dest`; of an action that leaves it on its node `source`; of a start, and of a recovery
 * after a failed migration, when the cluster believes it to be on both nodes, `node`.
 */
function placeOf(action: Element): string | undefined {
  const node = ['start', 'recover'].includes(text(action, 'action') ?? '') ? text(action, 'node') : undefined;
  return text(action, 'dest') ?? text(action, 'source') ?? node;
}

function reasonOf(action: Element): string {
  const reason = text(action, 'reason');
  return reason === undefined ? '' : ` (${reason})`;
}

function escaped(value: string): string {
  return value.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
}

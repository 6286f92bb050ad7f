import type { Element } from '@xmldom/xmldom';
import type { Deadline } from '../deadline.ts';
import { isKvmhaError, messageOf } from '../error.ts';
import { ask } from './ask.ts';
import type { RunningCluster } from './cluster-view.ts';
import { configuredId } from './resource-id.ts';
import { elements, parseXml, select, text } from './xml.ts';

/** Milliseconds by which the clocks of two nodes may differ. */
const CLOCK_SKEW = 60_000;

/** cibadmin's CRM_EX_NOSUCH (crm/common/results.h): nothing is there. */
const NOTHING_THERE = 105;

/**
 * Why the cluster does not make certain that a resource runs on no other node, has run on none since a moment, and will
 * be started on none. When unsure, the answer is a reason.
 *
 * @returns a clause for people; undefined when it is certain, as far as the cluster knows
 */
export async function mayBeElsewhere(
  view: RunningCluster,
  since: Date,
  deadline: Deadline,
): Promise<string | undefined> {
  const seen = elsewhereInView(view);
  if (seen !== undefined) {
    return seen;
  }
  const id = configuredId(view.resourceId);
  const path = `//node_state[.//lrm_resource[@id='${id}' or starts-with(@id,'${id}:')]]`;
  const answer = await ask('cibadmin', ['--query', '--local', `--xpath=${path}`], deadline);
  if (answer.kind !== 'answer') {
    return `the cluster does not tell what it has done with ${id} (${answer.why})`;
  }
  if (answer.exitCode === NOTHING_THERE) {
    return undefined;
  }
  if (answer.exitCode !== 0) {
    return `the cluster does not tell what it has done with ${id} (cibadmin exited ${answer.exitCode}: ${answer.said})`;
  }
  try {
    return startedElsewhere(await parseXml(answer.stdout), view, since);
  } catch (error) {
    if (isKvmhaError(error, 'malformed')) {
      return `the cluster does not tell what it has done with ${id} (${messageOf(error)})`;
    }
    throw error;
  }
}

/** As `mayBeElsewhere`, from the present state alone. */
export function elsewhereInView(view: RunningCluster): string | undefined {
  const { resource, resourceId, localNode } = view;
  const id = configuredId(resourceId);
  if (!view.hasController) {
    return 'the cluster has no controller (DC) at this moment, so what runs where is not known';
  }
  if (!view.quorum) {
    return 'this partition of the cluster has no quorum, so what runs elsewhere is not known';
  }
  const unclear = view.nodes.find(({ name, unclean, pending }) => name !== localNode && (unclean || pending));
  if (unclear !== undefined) {
    return `${unclear.name} is ${unclear.unclean ? 'unclean' : 'joining'}, so what runs there is not known`;
  }
  if (resource === undefined) {
    return `no resource ${id} is configured in the cluster`;
  }
  const others = resource.activeOn.filter((node) => node !== localNode);
  if (others.length > 0) {
    return `the cluster has ${id} on ${others.join(' and ')}`;
  }
  if (MOVING.includes(resource.role ?? '')) {
    return `the cluster is about to change ${id} (${resource.role})`;
  }
  if (resource.managed && !view.maintenanceMode) {
    return (
      `the cluster may start ${id} on another node at any moment: keep it from that with "crm resource unmanage ${id}" ` +
      `or "pcs resource unmanage ${id}"`
    );
  }
  return undefined;
}

/** As crm_mon names the roles of a resource with a pending operation (native_pending_state in lib/pengine/native.c). */
const MOVING: readonly string[] = ['Starting', 'Stopping', 'Migrating', 'Promoting', 'Demoting'];

/** Operations that run a guest on the node of their history, or end with it running there. */
const STARTS: readonly string[] = ['start', 'migrate_from', 'migrate_to', 'promote'];

/** Exit codes of a monitor that has found the resource active: OCF_SUCCESS, promoted, failed promoted, degraded. */
const ACTIVE: readonly string[] = ['0', '8', '9', '190', '191'];

/**
 * Whether the history of operations shows the resource on another node since a moment. What was cleaned up is not in
 * it.
 *
 * @param root `<node_state>`, or several in an element, as cibadmin prints them
 */
export function startedElsewhere(
  root: Element,
  { resourceId, localNode }: RunningCluster,
  since: Date,
): string | undefined {
  const id = configuredId(resourceId);
  const states = root.tagName === 'node_state' ? [root] : elements(root);
  for (const state of states.filter((each) => text(each, 'uname') !== localNode)) {
    const resources = select(state, 'lrm/lrm_resources/lrm_resource');
    for (const resource of resources.filter((each) => configuredId(text(each, 'id') ?? '') === id)) {
      const found = select(resource, 'lrm_rsc_op').find((operation) => ranSince(operation, since));
      if (found !== undefined) {
        const at = momentOf(found);
        return (
          `the cluster has called ${text(found, 'operation')} of ${id} on ${text(state, 'uname')}` +
          `${at === undefined ? '' : ` at ${at.toISOString()}`}, which is not before the guest was quiesced here`
        );
      }
    }
  }
  return undefined;
}

function ranSince(operation: Element, since: Date): boolean {
  const kind = text(operation, 'operation') ?? '';
  const active = kind === 'monitor' && ACTIVE.includes(text(operation, 'rc-code') ?? '0');
  const at = momentOf(operation);
  return (
    (STARTS.includes(kind) || active) && (at === undefined || at.getTime() >= since.getTime() - CLOCK_SKEW)
  );
}

/** When the operation came to its result, or was begun if it has none. */
function momentOf(operation: Element): Date | undefined {
  const seconds = Number(text(operation, 'last-rc-change') || Number.NaN);
  return Number.isFinite(seconds) ? new Date(seconds * 1000) : undefined;
}

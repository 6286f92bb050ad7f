import type { ClusterView } from '../../lib/cluster/cluster-view.ts';
import { findDestination } from '../../lib/cluster/destination.ts';
import { hindrance, noHelpElsewhere } from '../../lib/cluster/hindrance.ts';
import { markPreserved } from '../../lib/cluster/placement.ts';
import { enterStormGuard } from '../../lib/cluster/storm-guard.ts';
import type { Deadline } from '../../lib/deadline.ts';
import { isKvmhaError, messageOf } from '../../lib/error.ts';
import type { Policy } from '../../lib/policy.ts';
import type { Situation } from '../../lib/state/verdict.ts';
import type { ActionContext } from './context.ts';

/** Whether a faulted guest may be quiesced now. */
export type Consent =
  | {
      readonly kind: 'given';
      /** To be called when the guest was not quiesced after all. */
      readonly withdraw: () => void;
    }
  /** Not now: the guest is left standing still, to be looked at again by the next monitor. */
  | { readonly kind: 'hold'; readonly why: string }
  /** It would not help, or is not wanted: the cluster recovers the guest as it would without kvmha. */
  | { readonly kind: 'refused'; readonly why: string };

/**
 * Why a monitor may change nothing about its guest: the cluster, the resource or the node is in somebody's hands.
 *
 * @returns a clause for people
 */
export async function hindranceToChange(
  context: ActionContext,
  deadline: Deadline,
): Promise<string | undefined> {
  return hindrance(await context.cluster(deadline));
}

/**
 * Asked before the first step of a quiesce that cannot be taken back: can the cluster start the guest elsewhere, and
 * is it not one of many that a passing disturbance of storage has stopped? A stop asks only the first, since the
 * guest ends in any case. Where it is one of many, the node's health says so to the cluster.
 *
 * @param guest uuid of the domain, to tell guests apart
 */
export async function consentToQuiesce(
  context: ActionContext,
  situation: Situation,
  guest: string,
  deadline: Deadline,
): Promise<Consent> {
  let policy: Policy;
  try {
    policy = await context.policy();
  } catch (error) {
    if (!isKvmhaError(error)) {
      throw error;
    }
    return { kind: 'refused', why: `whether it is wanted is not known: ${messageOf(error)}` };
  }
  const { enabled, requireEligibleNode, storm } = policy.quiesce;
  if (!enabled) {
    return { kind: 'refused', why: 'the policy says quiesce.enabled: false' };
  }
  const view = await context.cluster(deadline);
  const nowhere = requireEligibleNode ? await noHelp(context, view, deadline) : undefined;
  if (nowhere !== undefined) {
    return { kind: 'refused', why: nowhere };
  }
  if (situation === 'stop') {
    return { kind: 'given', withdraw: () => {} };
  }
  const answer = enterStormGuard(guest, storm);
  if (answer.kind === 'held' && answer.isStorm) {
    const { reportStorm } = await import('../../lib/host/storm.ts');
    await reportStorm(answer.why, context, deadline);
  }
  return answer.kind === 'held'
    ? { kind: 'hold', why: answer.why }
    : { kind: 'given', withdraw: answer.withdraw };
}

/** Whether the cluster is starting or migrating the guest at this moment, or does not tell. */
export async function isBeingMoved(context: ActionContext, deadline: Deadline): Promise<boolean> {
  const view = await context.cluster(deadline);
  return view.kind === 'silent' || (view.kind === 'cluster' && MOVING.includes(view.resource?.role ?? ''));
}

/** As crm_mon names the roles of a resource with a pending operation (native_pending_state in lib/pengine/native.c). */
const MOVING: readonly string[] = ['Starting', 'Migrating'];

/** An agent that is called by hand, where there is no cluster, is not asked to help one. */
async function noHelp(
  { environment }: ActionContext,
  view: ClusterView,
  deadline: Deadline,
): Promise<string | undefined> {
  switch (view.kind) {
    case 'none':
      return environment.inCluster ? noHelpElsewhere(view) : undefined;
    case 'silent':
      return noHelpElsewhere(view);
    case 'cluster':
      return noHelpElsewhere(view) ?? noHelpElsewhere(view, await findDestination(view, deadline));
  }
}

/** Keeps the healthy guest away from the node of its preserved copy, by the constraint on a node attribute. */
export async function markPreservedHere(context: ActionContext, fault: string): Promise<void> {
  const { environment, guest, log, deadline } = context;
  const marked = await markPreserved(environment.instance, fault, deadline, environment.node);
  if (marked.kind === 'done') {
    if (marked.remark !== undefined) {
      log.warn(`${guest.name}: ${marked.remark}`);
    }
  } else if (marked.kind !== 'none') {
    log.err(`${guest.name}: the node is not marked to keep a preserved guest: ${marked.why}`);
  }
}

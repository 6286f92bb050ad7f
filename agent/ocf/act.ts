import { sleep } from '../../lib/deadline.ts';
import { isKvmhaError, messageOf } from '../../lib/error.ts';
import { closeLook, imagesOf, type Look, look } from '../../lib/guest/look.ts';
import { quickLook } from '../../lib/guest/quick-look.ts';
import { OCF, type OcfCode, OcfFailure } from '../../lib/ocf.ts';
import { DEFAULT_POLICY } from '../../lib/policy.ts';
import { findQemuProcesses } from '../../lib/qemu/qemu-process.ts';
import { uuidForName } from '../../lib/record/directory.ts';
import { noteIoStatus, noteRunning } from '../../lib/record/io-error.ts';
import { type Lock, lockDomain } from '../../lib/record/lock.ts';
import { lastingEnvironment, writeResourceRecord } from '../../lib/record/resource-record.ts';
import { hasRunningRecord, writeRunningRecord } from '../../lib/record/running-record.ts';
import { type Classification, classify, type GuestState } from '../../lib/state/classify.ts';
import { type Behaviour, changesNothing, type Situation, verdict } from '../../lib/state/verdict.ts';
import type { ActionContext } from './context.ts';
import { preservedWords, refusal, whatToDo } from './reasons.ts';

/** What an action found and decided. */
export interface Decision {
  readonly situation: Situation;
  readonly seen: Look;
  readonly classification: Classification;
  readonly behaviour: Behaviour;
}

/** How an action ended. */
export interface Answer {
  readonly code: OcfCode;
  /** What the guest is now. */
  readonly state: GuestState;
  /** Why it was left as it is, where it was: a clause for people. */
  readonly why?: string;
}

/** Milliseconds between two looks at a guest that is on its way to another state. */
export const SETTLE_PAUSE = 500;

/**
 * Performs an action: looks at the guest, classifies what was seen, and does what the table of verdicts says.
 *
 * Whatever changes the guest is done under the domain's lock and on a look taken under it.
 *
 * @throws OcfFailure with the action's exit code and reason; KvmhaError where a step failed
 */
export async function act(context: ActionContext, situation: Situation): Promise<OcfCode> {
  let lock: Lock | undefined;
  try {
    for (;;) {
      const decision = await decide(context, situation, lock !== undefined);
      const { seen, behaviour, classification } = decision;
      try {
        // A last look that has no time left would find everybody silent.
        const again = behaviour.do === 'wait' || isBlind(decision);
        if (again && context.deadline.remaining() > 2 * SETTLE_PAUSE) {
          closeLook(seen);
          await sleep(SETTLE_PAUSE);
          continue;
        }
        if (changesNothing(behaviour)) {
          await remember(context, decision);
          return answer(context, decision);
        }
        if (lock === undefined) {
          // Whoever holds the lock must be able to ask QEMU, which serves one client per monitor.
          closeLook(seen);
          lock = await lockGuest(context, situation, seen.uuid ?? context.guest.uuid);
          continue;
        }
        context.log.debug(`${context.guest.name}: ${classification.state}, so ${behaviour.do}`);
        const { carryOut } = await import('./carry-out.ts');
        const answered = await carryOut(context, decision);
        if (answered !== undefined) {
          return answered.code;
        }
      } finally {
        closeLook(seen);
      }
    }
  } finally {
    lock?.release();
  }
}

/** Nothing is known of the guest, and the process table could not be read: for lack of something, which may pass. */
function isBlind({ behaviour, classification, seen }: Decision): boolean {
  const unread = seen.observation.process.kind === 'unknown' && classification.state === 'unknown';
  return unread && changesNothing(behaviour);
}

/**
 * What a monitor does about a guest that must not go on here, done at once by who knows of the fault before the next
 * monitor. Whatever else a monitor would do about the guest, and what it does where the proof fails, is left to it.
 *
 * @throws OcfFailure, or KvmhaError where a step failed
 */
export async function quiesceFaulted(context: ActionContext): Promise<Answer> {
  const lock = await lockGuest(context, 'monitor', context.guest.uuid);
  try {
    const decision = await decide(context, 'monitor', true);
    const { seen, behaviour, classification } = decision;
    try {
      const unproved: Answer = { code: OCF.ERR_GENERIC, state: classification.state };
      if (behaviour.do !== 'quiesce') {
        return unproved;
      }
      const { carryOut } = await import('./carry-out.ts');
      const otherwise: Behaviour = { do: 'answer', code: unproved.code };
      return (await carryOut(context, { ...decision, behaviour: { ...behaviour, otherwise } })) ?? unproved;
    } finally {
      closeLook(seen);
    }
  } finally {
    lock.release();
  }
}

/** What a quick look does not show. */
const UNSEEN = { qemu: undefined, dying: undefined, monitor: undefined, record: undefined };

async function decide(context: ActionContext, situation: Situation, locked: boolean): Promise<Decision> {
  const { guest, deadline, parameters } = context;
  const quickly = situation === 'monitor' && !locked && !context.quickLookFailed;
  const quick = quickly ? await quickLook(guest, deadline) : undefined;
  const seen = quick === undefined ? await look(guest, deadline) : { ...UNSEEN, ...quick };
  const classification = classify(seen.observation);
  // Only these are judged by the policy file; a monitor of a guest that runs well does not read it.
  const judgedByPolicy = ['out-of-space', 'degraded'].includes(classification.state);
  const { outOfSpace, monitor } = judgedByPolicy ? await policyOrDefault(context) : DEFAULT_POLICY;
  const behaviour = verdict(classification.state, situation, {
    operatorPause: parameters.operator_pause,
    guestPanic: parameters.guest_panic,
    outOfSpace,
    degraded: monitor.degraded,
  });
  if (situation === 'monitor-role-stopped' && isSuccess(behaviour) && (await arrivesHere(context))) {
    return { situation, seen, classification, behaviour: { do: 'answer', code: OCF.NOT_RUNNING } };
  }
  return { situation, seen, classification, behaviour };
}

function isSuccess(behaviour: Behaviour): boolean {
  return behaviour.do === 'answer' && behaviour.code === OCF.SUCCESS;
}

/**
 * Pacemaker does not always cancel a monitor for role Stopped before a guest is migrated to its node, and takes "it
 * runs" for a failure then: it stops the guest on both nodes and starts it anew.
 */
async function arrivesHere(context: ActionContext): Promise<boolean> {
  const { isBeingMoved } = await import('./cluster-consent.ts');
  return isBeingMoved(context, context.deadline.within(context.deadline.remaining() / 2));
}

/** A policy file that cannot be used must not keep a guest from being monitored or stopped. */
export async function policyOrDefault(context: ActionContext) {
  try {
    return await context.policy();
  } catch (error) {
    context.log.err(`${messageOf(error)}; going by the default policy`);
    return DEFAULT_POLICY;
  }
}

/** A stop must have time left to end the guest; what another process does to it ends by its own deadline. */
function lockGuest(
  { guest, deadline }: ActionContext,
  situation: Situation,
  uuid: string | undefined,
): Promise<Lock> {
  const patience = situation === 'stop' ? deadline.within(deadline.remaining() / 2) : deadline;
  return lockDomain(uuid ?? uuidForName(guest.name), patience);
}

/**
 * What a guest ran with here must be known when its process is gone, and as which resource when its QEMU reports a
 * fault. A probe writes nothing about a guest that runs, but marks the node anew where a preserved one is: the cluster
 * forgets the mark when it is stopped on the node.
 *
 * A monitor does not mark: the cluster still takes the guest for a healthy one then, cancels the monitor and begins to
 * migrate the guest away. The stop that follows its answer marks.
 */
async function remember(context: ActionContext, { situation, seen, classification }: Decision) {
  const { guest, log } = context;
  const { state } = classification;
  if (state === 'quiesced-failover-safe' && situation !== 'monitor' && context.environment.inCluster) {
    const { markPreservedHere } = await import('./cluster-consent.ts');
    await markPreservedHere(context, seen.record?.fault ?? 'unknown');
  }
  if (state === 'quiesced-failover-safe' && (situation === 'stop' || situation === 'probe')) {
    recordProof(context, seen);
  }
  if (state === 'quiesced-failover-safe' && situation === 'stop' && seen.uuid !== undefined) {
    const { preventAutostart } = await import('../../lib/guest/autostart.ts');
    await preventAutostart(guest, seen.uuid, context.deadline, log);
  }
  if (situation === 'probe' || situation === 'monitor-role-stopped') {
    return;
  }
  try {
    if (state === 'running' || state === 'degraded') {
      rememberRunning(context, seen);
    } else if (state === 'out-of-space' && seen.uuid !== undefined && seen.qemu !== undefined) {
      const { pid, startTime } = seen.qemu;
      noteIoStatus(seen.uuid, { pid, startTime }, 'nospace');
    }
  } catch (error) {
    if (!isKvmhaError(error)) {
      throw error;
    }
    // The guest runs, and a full /run on this node is no reason to restart it.
    log.warn(`${guest.name}: ${messageOf(error)}`);
  }
}

/**
 * After this answer the guest may run elsewhere, so the proof that it rests on is kept. Who has quiesced the guest may
 * have been killed before it was written down.
 */
function recordProof(
  { guest, journal }: ActionContext,
  { observation, record, uuid = guest.uuid }: Look,
): void {
  const { name, resource } = guest;
  journal.record({
    ...{ what: 'seen', guest: name, uuid, resource, state: 'quiesced-failover-safe', fault: record?.fault },
    ...{ words: 'found quiesced-failover-safe, and left alone', proof: observation.proof },
  });
}

function rememberRunning(context: ActionContext, seen: Look): void {
  const { guest } = context;
  if (seen.uuid !== undefined) {
    noteRunning(seen.uuid);
  }
  if (hasRunningRecord(guest)) {
    return;
  }
  const qemu = seen.qemu ?? findQemuProcesses(guest)[0];
  if (qemu !== undefined) {
    const { pid, startTime } = qemu;
    writeRunningRecord(guest, { qemu: { pid, startTime }, images: imagesOf(qemu) });
    rememberResource(context, seen.uuid);
  }
}

/** For the watcher, which acts for the resource with the parameters that Pacemaker gives it. */
export function rememberResource({ guest, variables, log }: ActionContext, seen: string | undefined): void {
  const { name } = guest;
  const uuid = seen ?? guest.uuid ?? uuidForName(name);
  try {
    writeResourceRecord({ name, uuid, environment: lastingEnvironment(variables) });
  } catch (error) {
    if (!isKvmhaError(error)) {
      throw error;
    }
    // Faults of the guest are found by the next monitor then.
    log.warn(`${name}: ${messageOf(error)}`);
  }
}

function answer(context: ActionContext, decision: Decision): OcfCode {
  const { behaviour, classification, situation } = decision;
  const { guest, log } = context;
  const seen = `${guest.name} is ${classification.state}: ${classification.reason}`;
  switch (behaviour.do) {
    case 'refuse':
      throw new OcfFailure(behaviour.code, refusal(behaviour.why, context, decision));
    case 'wait':
      throw new OcfFailure(
        behaviour.code,
        behaviour.why === undefined
          ? `${seen}; it did not settle in time`
          : refusal(behaviour.why, context, decision),
      );
    case 'answer':
      if (situation === 'monitor-role-stopped') {
        if (isOddWhereStopped(decision)) {
          log.warn(`${seen}; the cluster does not expect it here. ${whatToDo(context, decision)}`);
        }
      } else if (isFailure(behaviour.code, situation)) {
        log.exitReason(
          classification.state === 'quiesced-failover-safe'
            ? preservedWords(context, decision.seen.record?.fault ?? 'unknown', decision.seen.qemu?.pid)
            : `${seen}. ${whatToDo(context, decision)}`,
        );
      } else {
        log.debug(seen);
      }
      return behaviour.code;
    default:
      throw new Error(`${behaviour.do} is not an answer`);
  }
}

/** On an idle node a guest is expected to be absent, preserved or about to arrive. */
function isOddWhereStopped({ behaviour, classification }: Decision): boolean {
  return isSuccess(behaviour) || !WHERE_STOPPED.includes(classification.state);
}

const WHERE_STOPPED: readonly GuestState[] = [
  'running',
  'degraded',
  'incoming',
  'migrated-away',
  'quiesced-failover-safe',
  'shut-off',
];

/** A probe that finds nothing running is no failure; a recurring monitor that does is one. */
function isFailure(code: OcfCode, situation: Situation): boolean {
  return situation === 'probe' ? code === OCF.ERR_GENERIC : code !== OCF.SUCCESS;
}

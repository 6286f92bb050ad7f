import { mkdirSync, rmSync } from 'node:fs';
import { isLost } from '../../lib/cluster/membership.ts';
import { type Deadline, sleep } from '../../lib/deadline.ts';
import { isKvmhaError, messageOf } from '../../lib/error.ts';
import { boot, LocalObstacle, savedStatePath, startResources } from '../../lib/guest/boot.ts';
import { fence } from '../../lib/guest/fence.ts';
import { closeLook, look } from '../../lib/guest/look.ts';
import { cancelMigration, migrate } from '../../lib/guest/migrate.ts';
import { migrationTarget } from '../../lib/guest/migration-target.ts';
import { quiesceGuest } from '../../lib/guest/quiesce-guest.ts';
import { saveConfig } from '../../lib/guest/save-config.ts';
import { shutDown } from '../../lib/guest/shut-down.ts';
import type { JournalEntry } from '../../lib/journal.ts';
import { Virsh } from '../../lib/libvirt/virsh.ts';
import { OCF, OcfFailure } from '../../lib/ocf.ts';
import type { Behaviour } from '../../lib/state/verdict.ts';
import { type Answer, type Decision, policyOrDefault, SETTLE_PAUSE } from './act.ts';
import { type Consent, consentToQuiesce, hindranceToChange, markPreservedHere } from './cluster-consent.ts';
import type { ActionContext } from './context.ts';
import { preservedWords, whatToDo } from './reasons.ts';

/** Milliseconds at the end of a stop that a failed quiesce must leave for ending the guest the hard way. */
const FENCE_RESERVE = 15_000;

/** Milliseconds at the end of a start for ending what is left of one that fails. */
const START_RESERVE = 5000;

const BEGUN: Consent = { kind: 'given', withdraw: () => {} };

/** Milliseconds in which a suspended guest must have woken up. */
const WAKE_PATIENCE = 10_000;

/** Milliseconds in which the cluster must answer what it is asked. */
const CLUSTER_PATIENCE = 5000;

/**
 * Does what was decided about a guest. The domain's lock is held, and the decision rests on a look taken under it.
 *
 * @returns how the action ended, or undefined when the guest must be looked at again to know it
 * @throws OcfFailure, or KvmhaError where a step failed
 */
export async function carryOut(context: ActionContext, decision: Decision): Promise<Answer | undefined> {
  const { classification, situation } = decision;
  const { guest, log } = context;
  if (situation === 'monitor') {
    const seen = `${guest.name} is ${classification.state}: ${classification.reason}`;
    const hindrance = await hindranceToChange(context, context.deadline.within(CLUSTER_PATIENCE));
    if (hindrance !== undefined) {
      log.exitReason(`${seen}. It is left as it is, because ${hindrance}`);
      const code = classification.state === 'shut-off' ? OCF.NOT_RUNNING : OCF.ERR_GENERIC;
      return { code, state: classification.state, why: hindrance };
    }
    log.exitReason(`${seen}. ${whatToDo(context, decision)}`);
  }
  const { behaviour } = decision;
  const begun = performance.now();
  const record = (outcome: { readonly [detail: string]: unknown }) => {
    const milliseconds = Math.round(performance.now() - begun);
    write(context, decision, { what: 'done', action: behaviour.do, ...outcome, milliseconds });
  };
  try {
    const answered = await carryOutBehaviour(context, decision, behaviour);
    if (answered !== undefined || behaviour.do === 'boot') {
      record({ outcome: answered?.state ?? 'started' });
    }
    return answered;
  } catch (error) {
    record({ failure: messageOf(error) });
    throw error;
  }
}

/** Writes into the journal what was done about a guest, and why. */
function write(
  { guest, journal }: ActionContext,
  { seen, situation, classification }: Decision,
  more: Pick<JournalEntry, 'what'> & { readonly [detail: string]: unknown },
): void {
  const { name, resource } = guest;
  const { state, fault } = classification;
  journal.record({ guest: name, uuid: seen.uuid ?? guest.uuid, resource, situation, state, fault, ...more });
}

async function carryOutBehaviour(
  context: ActionContext,
  decision: Decision,
  behaviour: Behaviour,
): Promise<Answer | undefined> {
  const { guest, deadline, log } = context;
  const { state } = decision.classification;
  switch (behaviour.do) {
    case 'answer':
      return { code: behaviour.code, state };
    case 'fence':
      await fence(guest, decision.seen, deadline, log);
      return behaviour.then.do === 'answer'
        ? { code: behaviour.then.code, state: 'shut-off' }
        : carryOutBehaviour(context, decision, behaviour.then);
    case 'destroy':
      await fence(guest, decision.seen, deadline, log);
      return { code: OCF.SUCCESS, state: 'shut-off' };
    case 'shut-down':
      return endOrWait(context, decision, behaviour.wakeFirst);
    case 'quiesce':
      return quiesceOr(context, decision, behaviour);
    case 'boot':
      await start(context);
      return undefined;
    case 'migrate':
      if (decision.classification.state === 'suspended') {
        await wake(context, decision);
        return undefined;
      }
      await migrateAway(context, decision);
      return { code: OCF.SUCCESS, state: 'shut-off' };
    case 'refuse':
    case 'wait':
      throw new Error(`${behaviour.do} changes nothing`);
  }
}

/** A guest that somebody saves or dumps is given time to come out of it: it cannot hear a request to shut down. */
async function endOrWait(
  context: ActionContext,
  decision: Decision,
  wakeFirst: boolean,
): Promise<Answer | undefined> {
  const { deadline, environment, parameters } = context;
  const { stop } = await policyOrDefault(context);
  const graceful = deadline.reserving(Math.min(stop.forcedEndReserve * 1000, environment.timeout / 2));
  if (decision.classification.state === 'transient' && !parameters.force_stop && !graceful.passed()) {
    closeLook(decision.seen);
    await sleep(Math.min(SETTLE_PAUSE, graceful.remaining()));
    return undefined;
  }
  await end(context, decision, wakeFirst, graceful);
  return { code: OCF.SUCCESS, state: 'shut-off' };
}

/** The graceful way, early enough before the deadline the hard way, and in the end the proof that it is gone. */
async function end(
  context: ActionContext,
  decision: Decision,
  wakeFirst: boolean,
  graceful: Deadline,
): Promise<void> {
  const { guest, deadline, log, parameters } = context;
  const { uuid, observation } = decision.seen;
  // Who was silent a moment ago would use up the time that the guest needs to shut down.
  const libvirtAnswers = observation.libvirt.kind !== 'silent';
  if (uuid !== undefined && libvirtAnswers) {
    // An action of the cluster that was killed may have left one behind, and the guest would escape to the target.
    await cancelMigration(guest, uuid, graceful, log);
  }
  if (parameters.save_config_on_stop && !libvirtAnswers) {
    log.warn(
      `${guest.name}: its configuration was not saved to ${parameters.config}: libvirt does not answer`,
    );
  } else if (parameters.save_config_on_stop && uuid !== undefined) {
    await saveConfig(guest, uuid, parameters.config, parameters.sync_config_on_stop, graceful, log);
  }
  const saved = parameters.snapshot !== undefined && (await saveState(context, decision, graceful));
  if (!saved && !parameters.force_stop) {
    await shutDown(guest, decision.seen, { mode: parameters.shutdown_mode, wakeFirst }, graceful, log);
  }
  // QEMU serves one client per monitor: the next look would wait in vain for the last one's to be closed.
  closeLook(decision.seen);
  // What is destroyed is what is there now: a guest that has shut down needs no destroying.
  const now = await look(guest, deadline);
  now.monitor?.close();
  const stillThere = now.qemu !== undefined;
  const { monitor } = now.observation;
  // Its qemu then waits for libvirt to end it, which libvirt does not while it is dead or hangs.
  const hasShutDown = monitor.kind === 'status' && monitor.runstate === 'shutdown';
  if (stillThere && !hasShutDown && !parameters.force_stop) {
    log.warn(`${guest.name}: it has not shut down in time, ending it`);
  }
  await fence(guest, stillThere ? now : { ...now, uuid: now.uuid ?? uuid }, deadline, log);
  if (!saved && parameters.snapshot !== undefined) {
    removeSavedState(savedStatePath(parameters.snapshot, guest.name), log);
  }
}

/** What is there is half a state, or none that belongs to what is on the disks now. */
function removeSavedState(path: string, log: ActionContext['log']): void {
  try {
    rmSync(path, { force: true });
  } catch (error) {
    // The guest is stopped all the same.
    log.err(messageOf(error));
  }
}

/** `virsh save` into the folder of the parameter `snapshot`; a start goes on from there. */
async function saveState(
  { guest, parameters, log }: ActionContext,
  { seen }: Decision,
  deadline: Deadline,
): Promise<boolean> {
  if (parameters.snapshot === undefined || seen.uuid === undefined) {
    return false;
  }
  try {
    mkdirSync(parameters.snapshot, { recursive: true });
    const path = savedStatePath(parameters.snapshot, guest.name);
    log.info(`${guest.name}: saving its state to ${path}`);
    await guest.virsh.command(['save', seen.uuid, path], deadline);
    return true;
  } catch (error) {
    log.err(`${guest.name}: its state was not saved, shutting it down instead: ${messageOf(error)}`);
    return false;
  }
}

async function quiesceOr(
  context: ActionContext,
  decision: Decision,
  behaviour: Extract<Behaviour, { do: 'quiesce' }>,
): Promise<Answer | undefined> {
  const { guest, deadline, log } = context;
  const { seen, classification, situation } = decision;
  const reserve = situation === 'stop' ? Math.min(FENCE_RESERVE, deadline.remaining() / 2) : 0;
  const patience = deadline.reserving(reserve);
  const fault = classification.fault ?? classification.reason;
  // What an earlier action began cannot be taken back any more, so nobody is asked again.
  const consent =
    seen.record !== undefined || seen.uuid === undefined
      ? BEGUN
      : await consentToQuiesce(context, situation, seen.uuid, patience.within(CLUSTER_PATIENCE));
  const { monitor } = seen.observation;
  const runs = monitor.kind === 'status' && monitor.running;
  // A guest that a fault has not stopped is not ended for it where that would not help.
  if (consent.kind === 'hold' || (consent.kind === 'refused' && runs && situation === 'monitor')) {
    write(context, decision, { what: 'decided', action: 'quiesce', held: consent.why });
    log.exitReason(
      `${guest.name} (${fault}) is held, ${runs ? 'running and not' : 'neither running nor'} quiesced: ${consent.why}`,
    );
    return { code: OCF.DEGRADED, state: classification.state, why: consent.why };
  }
  const outcome =
    consent.kind === 'given'
      ? await quiesceGuest(guest, seen, fault, patience, log)
      : ({ kind: 'refused', reasons: [consent.why] } as const);
  if (outcome.kind !== 'proved' && consent.kind === 'given') {
    consent.withdraw();
  }
  switch (outcome.kind) {
    case 'proved':
      // Not in a monitor, see remember() in act.ts.
      if (situation === 'stop') {
        await markPreservedHere(context, fault);
      }
      write(context, decision, { what: 'proved', proof: outcome.proof });
      log.exitReason(preservedWords(context, fault, seen.qemu?.pid));
      return { code: behaviour.proven, state: 'quiesced-failover-safe' };
    case 'refused':
      write(context, decision, { what: 'done', action: 'quiesce', failure: outcome.reasons.join('; ') });
      log.exitReason(`${guest.name} (${fault}) is not quiesced: ${outcome.reasons.join('; ')}`);
      break;
    case 'failed':
      write(context, decision, {
        what: 'done',
        action: 'quiesce',
        failure: outcome.reason,
        step: outcome.step,
      });
      log.exitReason(
        `${guest.name} (${fault}) could not be made failover-safe, ${outcome.step} failed: ${outcome.reason}` +
          (outcome.undone ? '; what was done is undone' : ''),
      );
      break;
  }
  return carryOutBehaviour(context, decision, behaviour.otherwise);
}

async function start({ guest, parameters, deadline, log }: ActionContext): Promise<void> {
  const reserve = Math.min(START_RESERVE, deadline.remaining() / 4);
  try {
    await boot(
      guest,
      {
        config: parameters.config,
        snapshot: parameters.snapshot,
        backingfile: parameters.backingfile,
        stateless: parameters.stateless,
        copyindirs: parameters.copyindirs,
        startResources: parameters.start_resources,
        setErrorPolicy: parameters.set_error_policy,
      },
      deadline.reserving(reserve),
      log,
    );
  } catch (error) {
    if (!isKvmhaError(error)) {
      throw error;
    }
    log.warn(`${guest.name}: its start failed, ending what is left of it: ${messageOf(error)}`);
    const left = await look(guest, deadline);
    left.monitor?.close();
    await fence(guest, left, deadline, log);
    const code = error instanceof LocalObstacle ? OCF.ERR_INSTALLED : OCF.ERR_GENERIC;
    throw new OcfFailure(code, `${guest.name} was not started: ${messageOf(error)}`, { cause: error });
  }
}

/**
 * Wakes a guest that has suspended itself. Measured with QEMU 7.2 and libvirt 9.0: QEMU wakes it at the hand-over, and
 * libvirt then waits without end for it to stand still.
 */
async function wake(context: ActionContext, { seen }: Decision): Promise<void> {
  const { guest, deadline, log } = context;
  const { uuid } = seen;
  if (uuid === undefined) {
    throw new OcfFailure(OCF.ERR_GENERIC, `${guest.name}: libvirt does not know it, so it cannot be woken`);
  }
  log.info(`${guest.name}: waking it, a suspended guest cannot be migrated`);
  await guest.virsh.command(['dompmwakeup', uuid], deadline);
  const awake = await deadline.within(WAKE_PATIENCE).poll(SETTLE_PAUSE / 2, async () => {
    const view = await guest.virsh.look(uuid, deadline);
    return (view.kind === 'state' && view.state !== 'pmsuspended') || undefined;
  });
  if (awake === undefined) {
    throw new OcfFailure(OCF.ERR_GENERIC, `${guest.name} does not wake up, so it is not migrated`);
  }
}

async function migrateAway(context: ActionContext, { seen }: Decision): Promise<void> {
  const { guest, parameters, environment, deadline, log } = context;
  const node = environment.migrateTarget;
  if (node === undefined) {
    throw new OcfFailure(OCF.ERR_ARGS, `${guest.name}: migrate_to was called without a target node`);
  }
  if (seen.uuid === undefined || seen.qemu === undefined) {
    throw new OcfFailure(
      OCF.ERR_GENERIC,
      `${guest.name}: its qemu process was not found, so it is not migrated`,
    );
  }
  const target = migrationTarget(parameters, node);
  if (parameters.save_config_on_stop) {
    await saveConfig(guest, seen.uuid, parameters.config, parameters.sync_config_on_stop, deadline, log);
  }
  if (parameters.start_resources) {
    await startResources(new Virsh(target.remoteUri), parameters.config, deadline, log);
  }
  const options = {
    ...target,
    downtime: parameters.migration_downtime,
    speed: parameters.migration_speed,
    isTargetLost: async (patience: Deadline) => environment.inCluster && (await isLost(node, patience)),
  };
  closeLook(seen);
  const left = await migrate(guest, seen.uuid, seen.qemu, options, deadline, log);
  // libvirt has ended the qemu here, as a rule, and its writes went to the storage with the hand-over.
  await fence(guest, { ...left, uuid: left.uuid ?? seen.uuid }, deadline, log);
}

import { setTimeout as pause } from 'node:timers/promises';
import { type Deadline, sleep } from '../deadline.ts';
import { isKvmhaError, KvmhaError, messageOf } from '../error.ts';
import { Virsh } from '../libvirt/virsh.ts';
import type { Log } from '../log.ts';
import type { QemuProcess } from '../qemu/qemu-process.ts';
import { isObject } from '../qemu/qmp.ts';
import { writeRunningRecord } from '../record/running-record.ts';
import { type Classification, classify } from '../state/classify.ts';
import type { LibvirtView } from '../state/observation.ts';
import type { Guest } from './guest.ts';
import { closeLook, imagesOf, type Look, look } from './look.ts';

export interface MigrationOptions {
  /** libvirt connection to the target, and where QEMU's stream goes, if libvirt is not to choose. */
  readonly remoteUri: string;
  readonly migrateUri: string | undefined;
  /** Further words for `virsh migrate`. */
  readonly words: readonly string[];
  /** Milliseconds that the guest may stand still; 0 leaves libvirt's setting. */
  readonly downtime: number;
  /** MiB/s; 0 leaves libvirt's setting. */
  readonly speed: number;
  /** Whether the target cannot be reached any more, asked every now and then while the migration goes on. */
  readonly isTargetLost: (deadline: Deadline) => Promise<boolean>;
}

/** Milliseconds kept for cancelling a migration that does not end, and for finding out where the guest is. */
const CANCEL_RESERVE = 15_000;
/** Milliseconds at most for one question or order to libvirt or QEMU when a migration has failed. */
const PATIENCE = 5000;
/** Milliseconds between two looks at both sides. */
const PAUSE = 500;
/** Milliseconds between two looks at whether the target is lost. */
const LOSS_PAUSE = 2000;

/**
 * Migrates a running guest to another node. However the migration ends, the guest runs on exactly one side, as far
 * as libvirt there and here lets it be seen.
 *
 * @returns a look at what is left of the guest here, closed
 * @throws KvmhaError when the guest is not on the target; the message says where it is
 */
export async function migrate(
  guest: Guest,
  uuid: string,
  qemu: QemuProcess,
  options: MigrationOptions,
  deadline: Deadline,
  log: Log,
): Promise<Look> {
  // Both hold for the migration that follows: libvirt hands the speed to QEMU at its beginning, and the downtime at
  // once. (VirtualDomain sets the downtime two seconds after the beginning, too late for a small guest.)
  if (options.speed > 0) {
    await guest.virsh.command(['migrate-setspeed', uuid, String(options.speed)], deadline);
  }
  if (options.downtime > 0) {
    await guest.virsh.command(['migrate-setmaxdowntime', uuid, String(options.downtime)], deadline);
  }
  recordTarget(guest, qemu, options.remoteUri, log);
  const reserve = Math.min(CANCEL_RESERVE, deadline.remaining() / 2);
  log.info(`${guest.name}: migrating it to ${options.remoteUri}`);
  const patience = deadline.reserving(reserve);
  try {
    // virsh is not waited for once the target is lost, but goes on until this process ends: it may still have to tell
    // libvirt here that the migration has failed.
    await Promise.race([
      guest.virsh.command(migrateWords(uuid, options), patience),
      lossOfTarget(options, patience),
    ]);
  } catch (error) {
    if (!isKvmhaError(error)) {
      throw error;
    }
    await cancelMigration(guest, uuid, deadline, log);
    return settle(guest, uuid, options, error, deadline, log);
  }
  const left = await look(guest, deadline);
  closeLook(left);
  if (standsHere(classify(left.observation))) {
    throw new KvmhaError(
      'program-failed',
      `${guest.name}: virsh migrate reports success, but the guest is still here`,
    );
  }
  return left;
}

/** That it cannot be recorded whereto a guest is sent, on a full /run, is no reason to keep it on this node. */
function recordTarget(guest: Guest, qemu: QemuProcess, migratingTo: string, log: Log): void {
  const { pid, startTime } = qemu;
  try {
    writeRunningRecord(guest, { qemu: { pid, startTime }, images: imagesOf(qemu), migratingTo });
  } catch (error) {
    if (!isKvmhaError(error)) {
      throw error;
    }
    log.warn(`${guest.name}: ${messageOf(error)}`);
  }
}

/**
 * Rejects when the target is lost. Without it a migration to a node that was cut off ends only with the operation's
 * timeout (libvirt watches the connection to the other libvirt, but not QEMU's), and until it ends the cluster neither
 * fences that node nor starts its guests elsewhere.
 */
async function lossOfTarget(
  { isTargetLost, remoteUri }: MigrationOptions,
  deadline: Deadline,
): Promise<never> {
  for (;;) {
    await pause(LOSS_PAUSE, undefined, { ref: false });
    if (await isTargetLost(deadline.within(PATIENCE))) {
      throw new KvmhaError('unreachable', `the cluster has lost the node of ${remoteUri}`);
    }
  }
}

/** The words of `virsh migrate`. */
export function migrateWords(uuid: string, options: MigrationOptions): string[] {
  return [
    'migrate',
    '--live',
    ...options.words,
    '--domain',
    uuid,
    '--desturi',
    options.remoteUri,
    ...(options.migrateUri === undefined ? [] : ['--migrateuri', options.migrateUri]),
  ];
}

/**
 * Cancels a migration of the guest to another node, where there is one: libvirtd goes on with it when whoever began
 * it is gone. Whether it could be cancelled is for the caller to see.
 */
export async function cancelMigration(
  guest: Guest,
  uuid: string,
  deadline: Deadline,
  log: Log,
): Promise<void> {
  try {
    if ((await guest.virsh.job(uuid, shareOf(deadline))) !== 'outgoing-migration') {
      return;
    }
    log.warn(`${guest.name}: cancelling its migration`);
    await guest.virsh.command(['domjobabort', uuid], shareOf(deadline));
  } catch (error) {
    if (!isKvmhaError(error)) {
      throw error;
    }
    log.debug(`${guest.name}: ${messageOf(error)}`);
  }
}

/**
 * After `virsh migrate` failed: it may have succeeded all the same. The guest is looked for here and, where it is not
 * here for certain, on the target, until it is found or there is no time left.
 */
async function settle(
  guest: Guest,
  uuid: string,
  options: MigrationOptions,
  failure: KvmhaError,
  deadline: Deadline,
  log: Log,
): Promise<Look> {
  const target = new Virsh(options.remoteUri);
  const patience = deadline.reserving(Math.min(1000, deadline.remaining() / 4));
  const what = `${guest.name}: migration to ${options.remoteUri} failed (${failure.message})`;
  const failed = (where: string) => new KvmhaError('program-failed', `${what}; ${where}`, { cause: failure });
  for (;;) {
    const left = await look(guest, patience);
    const here = classify(left.observation);
    const moving = await isMoving(left, patience);
    closeLook(left);
    if (standsHere(here) && !moving) {
      throw failed(
        here.state === 'running' ? 'it still runs here' : `here it is ${here.state}: ${here.reason}`,
      );
    }
    const there = await target.look(uuid, shareOf(patience));
    if (hasArrived(there) && isGone(here, left)) {
      log.warn(`${what}, but the guest is there`);
      return left;
    }
    const lost = here.state === 'shut-off' && (there.kind === 'no-domain' || isEnded(there));
    if (lost || patience.remaining() < 2 * PAUSE) {
      const unsure = moving ? '; QEMU still has the migration going' : '';
      throw failed(`here it is ${here.state}: ${here.reason}; on the target it is ${words(there)}${unsure}`);
    }
    await sleep(PAUSE);
  }
}

/** Whoever is silent must leave time for asking the next. */
function shareOf(deadline: Deadline): Deadline {
  return deadline.within(Math.min(PATIENCE, deadline.remaining() / 3));
}

/** The guest is on this node, and complete. */
function standsHere({ state }: Classification): boolean {
  switch (state) {
    case 'running':
    case 'degraded':
    case 'paused-by-operator':
    case 'suspended':
    case 'out-of-space':
    case 'faulted':
    case 'quiesced-failover-safe':
    case 'crashed':
      return true;
    default:
      return false;
  }
}

/** Nothing of the guest runs here, nor will: it may run on the target. */
function isGone({ state }: Classification, { observation }: Look): boolean {
  const { libvirt, migration } = observation;
  const handedOver = libvirt.kind === 'state' && libvirt.job === false && migration?.holdsImageLock === false;
  return state === 'shut-off' || state === 'migrated-away' || (state === 'transient' && handedOver);
}

/** The guest is on the target, and whole: in post-copy it runs before it is, and may never be. */
function hasArrived(there: LibvirtView): boolean {
  return (
    there.kind === 'state' && !isEnded(there) && !isComing(there) && !there.reason.startsWith('post-copy')
  );
}

function isComing(view: LibvirtView): boolean {
  return view.kind === 'state' && view.state === 'paused' && /^(migrat|starting up)/.test(view.reason);
}

function isEnded(view: LibvirtView): boolean {
  return view.kind === 'state' && (view.state === 'shut off' || view.state === 'crashed');
}

/**
 * Whether QEMU has a migration going, by `query-migrate`. Where libvirt does not answer, and so cannot have
 * cancelled it, QEMU itself is told to; but not in post-copy, where that would be the guest's end.
 */
async function isMoving({ monitor, observation }: Look, deadline: Deadline): Promise<boolean> {
  if (monitor === undefined || observation.monitor.kind !== 'status') {
    return false;
  }
  try {
    const answer = await monitor.execute('query-migrate', {}, shareOf(deadline));
    const status = isObject(answer) ? answer['status'] : undefined;
    const moving =
      typeof status === 'string' && !['none', 'completed', 'failed', 'cancelled'].includes(status);
    if (moving && observation.libvirt.kind === 'silent' && !status.startsWith('postcopy')) {
      await monitor.execute('migrate_cancel', {}, shareOf(deadline));
    }
    return moving;
  } catch (error) {
    if (isKvmhaError(error)) {
      return false;
    }
    throw error;
  }
}

function words(view: LibvirtView): string {
  switch (view.kind) {
    case 'state':
      return `${view.state} (${view.reason})`;
    case 'no-domain':
      return 'not known';
    case 'silent':
      return `not to be seen (${view.why})`;
    case 'not-asked':
      return 'not asked for';
  }
}

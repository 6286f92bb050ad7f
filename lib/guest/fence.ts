import { rmSync } from 'node:fs';
import type { Deadline } from '../deadline.ts';
import { isKvmhaError, KvmhaError, messageOf } from '../error.ts';
import { isAlive, isRunning, type ProcessIdentity, signalProcess } from '../linux/process.ts';
import { syncFiles } from '../linux/sync.ts';
import type { Log } from '../log.ts';
import { findQemuProcesses } from '../qemu/qemu-process.ts';
import { uuidForName } from '../record/directory.ts';
import { removeFirstConnections } from '../record/first-connections.ts';
import { removeIoError } from '../record/io-error.ts';
import { readPendingStart, removePendingStart } from '../record/pending-start.ts';
import { removeRecord } from '../record/record.ts';
import { removeReported } from '../record/reported.ts';
import { removeResourceRecord } from '../record/resource-record.ts';
import { type RunImage, readRunningRecord, removeRunningRecord } from '../record/running-record.ts';
import type { Guest } from './guest.ts';
import { imagesOf, type Look } from './look.ts';
import { socketsOf } from './sockets.ts';

/** Milliseconds kept for SIGKILL and the verification after `destroy`, where the deadline allows it. */
const KILL_RESERVE = 5000;
/** The daemons that start QEMU, by the names of their processes. */
const LIBVIRT_DAEMONS = ['libvirtd', 'virtqemud'];
/** Milliseconds between two looks at whether qemu is gone. */
const PAUSE = 50;

/**
 * The fencing stage: makes sure that a domain's qemu is dead, and that what it wrote is on the storage.
 *
 * `virsh destroy` where libvirt answers, SIGKILL to the verified process where that is not enough. It returns only
 * when no thread of any qemu of the domain is left, and when every image that bypasses nothing (not cache=none) was
 * synced. Done twice it does nothing the second time.
 *
 * @param seen the look that led here
 * @throws KvmhaError when that could not be verified before the deadline: the caller's action has failed then
 */
export async function fence(guest: Guest, seen: Look, deadline: Deadline, log: Log): Promise<void> {
  const images = writableImages(guest, seen);
  await endProcesses(guest, seen, deadline, log);
  await syncImages(guest, images, deadline, log);
  removeRemains(guest, seen.uuid);
}

/** The images that a domain's qemu writes to, or wrote to while it ran. */
export function writableImages(guest: Guest, { qemu }: Look): readonly RunImage[] {
  return qemu === undefined ? (readRunningRecord(guest)?.images ?? []) : imagesOf(qemu);
}

/**
 * Makes sure that no thread of any qemu of the domain is left.
 *
 * @throws KvmhaError `deadline`
 */
export async function endProcesses(guest: Guest, seen: Look, deadline: Deadline, log: Log): Promise<void> {
  const known = [seen.qemu, seen.dying, readRunningRecord(guest)?.qemu].filter((each) => each !== undefined);
  await outliveStart(guest, deadline, log);
  await destroyDomain(guest, seen, deadline, log);
  await killProcesses(guest, known, deadline, log);
}

/** Forgets a domain whose end is verified: its records, and the sockets that its qemu had. */
export function removeRemains(guest: Guest, seenUuid: string | undefined): void {
  const uuid = seenUuid ?? guest.uuid ?? uuidForName(guest.name);
  removeRunningRecord(guest);
  removeFirstConnections(uuid);
  removeRecord(uuid);
  removeReported(uuid);
  removeIoError(uuid);
  removeResourceRecord(uuid);
  const sockets = socketsOf(guest.name);
  // Another domain may have the name by now, under another uuid.
  if (findQemuProcesses({ name: guest.name, uuid: undefined }).length === 0) {
    rmSync(sockets.agent, { force: true });
    rmSync(sockets.watcher, { force: true });
  }
}

/**
 * Ends a start of the domain that libvirt has not finished: what is not there yet cannot be killed, and would run when
 * the domain counts as stopped.
 *
 * @throws KvmhaError when libvirt does not say before the deadline that it is at an end
 */
async function outliveStart(guest: Guest, deadline: Deadline, log: Log): Promise<void> {
  const start = readPendingStart(guest);
  if (start === undefined) {
    return;
  }
  log.warn(`${guest.name}: libvirt has not said how its last start has ended, ending that`);
  let failure = '';
  const ended = await deadline.reserving(1000).poll(500, async () => {
    const patience = deadline.reserving(1000);
    try {
      await guest.virsh.command(['destroy', start.uuid], patience);
      return true;
    } catch (error) {
      if (!isKvmhaError(error)) {
        throw error;
      }
      failure = messageOf(error);
      return (await hasEnded(guest, start.uuid, patience)) || undefined;
    }
  });
  if (!ended) {
    throw new KvmhaError(
      'deadline',
      `libvirt was told to start ${guest.name}, and may still do so: ${failure}`,
    );
  }
  removePendingStart(guest);
}

async function hasEnded(guest: Guest, uuid: string, deadline: Deadline): Promise<boolean> {
  try {
    return (await guest.virsh.command(['domstate', uuid], deadline)).trim() === 'shut off';
  } catch (error) {
    if (isKvmhaError(error, 'unreachable')) {
      // One that shuts down still ends what it does. What a dead one has started, the process table shows.
      return !isRunning(LIBVIRT_DAEMONS);
    }
    return isKvmhaError(error, 'no-domain');
  }
}

/** Asks libvirt to end the domain. That it cannot is no failure yet: the processes are what counts. */
async function destroyDomain(guest: Guest, seen: Look, deadline: Deadline, log: Log): Promise<void> {
  const { libvirt } = seen.observation;
  if (libvirt.kind !== 'state' || libvirt.state === 'shut off' || seen.uuid === undefined) {
    return;
  }
  try {
    log.info(`${guest.name}: destroying the domain`);
    await guest.virsh.command(['destroy', seen.uuid], deadline.reserving(KILL_RESERVE).within(20_000));
  } catch (error) {
    if (!isKvmhaError(error)) {
      throw error;
    }
    log.warn(`${guest.name}: ${messageOf(error)}`);
  }
}

async function killProcesses(
  guest: Guest,
  known: readonly ProcessIdentity[],
  deadline: Deadline,
  log: Log,
): Promise<void> {
  const left = () => processesLeft(guest, known);
  const gone = (patience: Deadline) => patience.poll(PAUSE, () => (left().length === 0 ? true : undefined));
  if (await gone(deadline.reserving(KILL_RESERVE - 1000).within(1000))) {
    return;
  }
  for (const identity of left()) {
    log.warn(`${guest.name}: killing its qemu, process ${identity.pid}`);
    signalProcess(identity, 'SIGKILL');
  }
  if (!(await gone(deadline))) {
    throw new KvmhaError(
      'deadline',
      `process ${left()[0]?.pid} of ${guest.name} does not die (a write to storage that hangs?)`,
    );
  }
}

/** Every process of the domain that has a living thread: those of the process table, and those known before. */
function processesLeft(guest: Guest, known: readonly ProcessIdentity[]): ProcessIdentity[] {
  const listed = findQemuProcesses(guest);
  return [...listed, ...known.filter(({ pid }) => !listed.some((each) => each.pid === pid))].filter(isAlive);
}

/** Brings to storage what the host page cache holds back of what the guest wrote. @throws KvmhaError */
export async function syncImages(
  guest: Guest,
  images: readonly RunImage[],
  deadline: Deadline,
  log: Log,
): Promise<void> {
  const cached = images.filter((image) => !image.direct);
  if (cached.length > 0) {
    log.debug(`${guest.name}: syncing ${cached.map(({ path }) => path).join(', ')}`);
  }
  try {
    await syncFiles(
      cached.map(({ path }) => path),
      deadline,
    );
  } catch (cause) {
    // An image that has been removed since has nothing left to bring to storage.
    if (isKvmhaError(cause, 'file')) {
      return;
    }
    throw new KvmhaError(
      'file',
      `writes of ${guest.name} that the host still caches cannot be brought to storage: ${messageOf(cause)}`,
      { cause },
    );
  }
}

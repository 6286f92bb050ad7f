import { type Deadline, sleep } from '../deadline.ts';
import { isKvmhaError, KvmhaError, messageOf } from '../error.ts';
import { isAlive } from '../linux/process.ts';
import type { Log } from '../log.ts';
import { isObject, QmpSocket } from '../qemu/qmp.ts';
import type { Guest } from './guest.ts';
import type { Look } from './look.ts';

export interface ShutDownOptions {
  /** `virsh shutdown --mode`, where the operator wants a certain one. */
  readonly mode: string | undefined;
  /** The guest is suspended (ACPI S3) and hears nothing before it is woken. */
  readonly wakeFirst: boolean;
}

/** Milliseconds between two looks at whether the guest has gone. */
const PAUSE = 250;
/** Milliseconds for the request itself. */
const REQUEST = 10_000;

/**
 * Asks a guest to shut down and waits for it, at most until the deadline. That it does not is no error: the caller
 * ends it then, and verifies its end in any case.
 */
export async function shutDown(
  guest: Guest,
  seen: Look,
  options: ShutDownOptions,
  deadline: Deadline,
  log: Log,
): Promise<void> {
  const { monitor } = seen.observation;
  const standsStill = monitor.kind === 'status' && !monitor.running;
  if (standsStill && !options.wakeFirst && monitor.runstate !== 'paused') {
    log.info(
      `${guest.name}: its vCPUs stand still (${monitor.runstate}), it cannot hear a request to shut down`,
    );
    return;
  }
  let way: 'libvirt' | 'qmp';
  try {
    way = await request(guest, seen, options, deadline.within(REQUEST), log);
  } catch (error) {
    if (!isKvmhaError(error)) {
      throw error;
    }
    log.warn(`${guest.name}: the request to shut down failed: ${messageOf(error)}`);
    return;
  }
  while (!deadline.passed() && !(await hasShutDown(seen, way, deadline))) {
    await sleep(Math.min(PAUSE, deadline.remaining()));
  }
}

/** Through libvirt; past it, where it does not answer or a job that it cannot end keeps it from passing this on. */
async function request(
  guest: Guest,
  seen: Look,
  options: ShutDownOptions,
  deadline: Deadline,
  log: Log,
): Promise<'libvirt' | 'qmp'> {
  const { uuid, monitor } = seen;
  if (seen.observation.libvirt.kind === 'state' && uuid !== undefined) {
    try {
      await requestByLibvirt(guest, uuid, seen, options, deadline.within(deadline.remaining() / 2), log);
      return 'libvirt';
    } catch (error) {
      if (!isKvmhaError(error, 'deadline', 'program-failed') || !(monitor instanceof QmpSocket)) {
        throw error;
      }
      log.warn(`${guest.name}: ${messageOf(error)}`);
    }
  }
  if (monitor === undefined) {
    throw new KvmhaError('unreachable', 'neither libvirt nor QEMU answers');
  }
  log.info(`${guest.name}: asking it to shut down over QMP`);
  await monitor.execute('system_powerdown', {}, deadline);
  return 'qmp';
}

async function requestByLibvirt(
  guest: Guest,
  uuid: string,
  { observation: { monitor } }: Look,
  { mode, wakeFirst }: ShutDownOptions,
  deadline: Deadline,
  log: Log,
): Promise<void> {
  if (wakeFirst) {
    await guest.virsh.command(['dompmwakeup', uuid], deadline);
  } else if (monitor.kind === 'status' && monitor.runstate === 'paused') {
    log.info(`${guest.name}: resuming it, a paused guest cannot shut down`);
    await guest.virsh.command(['resume', uuid], deadline);
  }
  log.info(`${guest.name}: asking it to shut down`);
  const words = ['shutdown', uuid, ...(mode === undefined ? [] : ['--mode', mode])];
  await guest.virsh.command(words, deadline);
}

/** Its qemu is gone, or waits in `shutdown` for a libvirt that does not come. */
async function hasShutDown(seen: Look, way: 'libvirt' | 'qmp', deadline: Deadline): Promise<boolean> {
  if (seen.qemu === undefined || !isAlive(seen.qemu)) {
    return true;
  }
  if (way === 'libvirt' || seen.monitor === undefined) {
    return false;
  }
  try {
    const status = await seen.monitor.execute('query-status', {}, deadline);
    return isObject(status) && status['status'] === 'shutdown';
  } catch (error) {
    if (isKvmhaError(error)) {
      return false;
    }
    throw error;
  }
}

import type { Deadline } from '../deadline.ts';
import { errnoOf, isKvmhaError, KvmhaError, messageOf } from '../error.ts';
import { isObject, type Json, type Monitor, QmpSocket } from '../qemu/qmp.ts';
import type { MonitorView } from '../state/observation.ts';
import { socketsOf } from './sockets.ts';

/** How long one source of knowledge may keep a look waiting, in milliseconds, where the deadline allows it. */
export const PATIENCE = 8000;

/** The patience with one source: others must be asked, and something be done, before the deadline. */
export function patience(deadline: Deadline): Deadline {
  return deadline.within(Math.min(PATIENCE, Math.max(1000, deadline.remaining() / 3)));
}

/** An attempt to reach the QEMU of a guest on the guest's own socket. */
export interface Connection {
  readonly monitor: Monitor | undefined;
  readonly uuid: string | undefined;
  /** Why a monitor that is there does not answer. */
  readonly silent: string | undefined;
  /** It has not kept us waiting: it has closed the connection. */
  readonly hungUp: boolean;
}

const NO_SOCKET: Connection = { monitor: undefined, uuid: undefined, silent: undefined, hungUp: false };
export const FROZEN: Connection = { ...NO_SOCKET, silent: 'qemu is stopped by a signal' };

/** Connects to the agent's socket of the guest, and makes sure by `query-uuid` that it is this guest's. */
export async function connect(
  guest: { readonly name: string; readonly uuid: string | undefined },
  deadline: Deadline,
): Promise<Connection> {
  let monitor: QmpSocket | undefined;
  try {
    monitor = await QmpSocket.connect(socketsOf(guest.name).agent, deadline);
    const uuid = await askUuid(monitor, deadline);
    if (!isOf(guest, uuid)) {
      monitor.close();
      return NO_SOCKET;
    }
    return { ...NO_SOCKET, monitor, uuid };
  } catch (error) {
    monitor?.close();
    if (isKvmhaError(error, 'unreachable')) {
      return NO_SOCKET;
    }
    if (isKvmhaError(error)) {
      return { ...NO_SOCKET, silent: messageOf(error), hungUp: isHangUp(error) };
    }
    throw error;
  }
}

/**
 * `query-uuid`.
 *
 * @throws KvmhaError as Monitor.execute does
 */
export async function askUuid(monitor: Monitor, deadline: Deadline): Promise<string> {
  const answer = await monitor.execute('query-uuid', {}, deadline);
  return isObject(answer) ? String(answer['UUID']) : '';
}

/** Whether the QEMU with `uuid` is the guest's, as far as the guest's is known. */
export function isOf(guest: { readonly uuid: string | undefined }, uuid: string): boolean {
  return guest.uuid === undefined || uuid.toLowerCase() === guest.uuid.toLowerCase();
}

/** Whether it is neither for lack of time nor for a full queue (EAGAIN) that a monitor has not answered. */
export function isHangUp(error: KvmhaError): boolean {
  return error.code !== 'deadline' && errnoOf(error.cause) !== 'EAGAIN';
}

/**
 * `query-status`.
 *
 * @throws KvmhaError as Monitor.execute does
 */
export async function askStatus(
  monitor: Monitor,
  deadline: Deadline,
): Promise<Extract<MonitorView, { kind: 'status' }>> {
  const answer = await monitor.execute('query-status', {}, deadline);
  if (!isObject(answer) || typeof answer['status'] !== 'string' || typeof answer['running'] !== 'boolean') {
    throw new KvmhaError('protocol', 'query-status: the answer lacks "status" or "running"');
  }
  return { kind: 'status', runstate: answer['status'], running: answer['running'], failedDevices: [] };
}

/**
 * By `query-migrate`: in post-copy the vCPUs are said to run even when the pages that they wait for will never come.
 *
 * @throws KvmhaError as Monitor.execute does
 */
export async function isInPostCopy(monitor: Monitor, deadline: Deadline): Promise<boolean> {
  const migration = await monitor.execute('query-migrate', {}, deadline);
  const phase = isObject(migration) ? migration['status'] : undefined;
  return typeof phase === 'string' && phase.startsWith('postcopy');
}

/**
 * Errors that QEMU passed to the guest instead of stopping it (error_policy report, or none), from the counters
 * of query-blockstats: they are kept from the start of qemu.
 *
 * @returns them in words for people, undefined where there were none
 * @throws KvmhaError as Monitor.execute does
 */
export async function survivedErrors(monitor: Monitor, deadline: Deadline): Promise<string | undefined> {
  const failed = entries(await monitor.execute('query-blockstats', {}, deadline)).flatMap((entry) => {
    const stats = entry['stats'];
    const counts = ['rd', 'wr', 'flush', 'unmap'].map((operation) =>
      Number((isObject(stats) ? stats[`failed_${operation}_operations`] : undefined) ?? 0),
    );
    const sum = counts.reduce((total, count) => total + count, 0);
    return sum > 0 ? [`${String(entry['qdev'] ?? entry['device'])} (${sum})`] : [];
  });
  return failed.length === 0 ? undefined : `I/O errors were passed to the guest on ${failed.join(', ')}`;
}

/** The objects of a list in a QMP answer. */
export function entries(answer: Json): { readonly [key: string]: Json }[] {
  return Array.isArray(answer) ? answer.filter((entry) => isObject(entry)) : [];
}

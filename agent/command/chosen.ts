import { Deadline } from '../../lib/deadline.ts';
import { KvmhaError } from '../../lib/error.ts';
import type { Guest } from '../../lib/guest/guest.ts';
import { findGuest, type KnownGuests, knownGuests } from '../../lib/guest/known-guests.ts';
import { closeLook, type Look, look } from '../../lib/guest/look.ts';
import { uuidForName } from '../../lib/record/directory.ts';
import { lockDomain } from '../../lib/record/lock.ts';
import { UsageError } from './exit.ts';
import type { CommonOptions } from './main.ts';

/** QEMU's processes, the records of guests and the cluster are root's. @throws UsageError */
export function demandRoot(): void {
  if (process.geteuid?.() !== 0) {
    throw new UsageError(
      'this must be run as root, whose the records of guests, their QEMU processes and the cluster are',
    );
  }
}

export function deadlineOf({ timeout }: Pick<CommonOptions, 'timeout'>): Deadline {
  return Deadline.in(timeout * 1000);
}

/**
 * The guest that is meant on the command line.
 *
 * @throws KvmhaError `no-domain` when this node knows nothing of it
 */
export async function chooseGuest(
  word: string,
  { connect }: CommonOptions,
  deadline: Deadline,
): Promise<{ guest: Guest; known: KnownGuests }> {
  demandRoot();
  const known = await knownGuests(connect, deadline);
  const guest = findGuest(known, word);
  if (guest === undefined) {
    throw nothingKnown(word, known);
  }
  return { guest, known };
}

/** What to say where a guest is meant that is not known. */
export function nothingKnown(word: string, { libvirtSilent }: KnownGuests): KvmhaError {
  const silent = libvirtSilent === undefined ? '' : `, but libvirt does not answer (${libvirtSilent})`;
  return new KvmhaError(
    'no-domain',
    `nothing is known of a guest "${word}" on this node${silent}. "kvmha status" lists those that are known`,
  );
}

/** Looks at a guest and does `work`, for what changes nothing. */
export async function withLook<T>(
  guest: Guest,
  deadline: Deadline,
  work: (seen: Look) => Promise<T> | T,
): Promise<T> {
  const seen = await look(guest, deadline);
  try {
    return await work(seen);
  } finally {
    closeLook(seen);
  }
}

/**
 * Looks at a guest under its lock and does `work`, for what changes it.
 *
 * @throws KvmhaError `locked` when the agent, or another command, holds the lock until the deadline
 */
export async function withLockedLook<T>(
  guest: Guest,
  deadline: Deadline,
  work: (seen: Look) => Promise<T>,
): Promise<T> {
  const lock = await lockDomain(guest.uuid ?? uuidForName(guest.name), deadline);
  try {
    return await withLook(guest, deadline, work);
  } finally {
    lock.release();
  }
}

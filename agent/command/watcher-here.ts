import type { Deadline } from '../../lib/deadline.ts';
import { isKvmhaError, messageOf } from '../../lib/error.ts';
import { askStatus } from '../../lib/watch/status.ts';
import type { LocalWatcher } from './cluster-status.ts';

/** Milliseconds in which a watcher that lives answers. */
const PATIENCE = 3000;

/** Asks this node's watcher how it is. */
export async function watcherHere(deadline: Deadline): Promise<LocalWatcher> {
  try {
    const { since, guests } = await askStatus(deadline.within(PATIENCE));
    const silent = guests.filter((guest) => guest.silent !== undefined).length;
    return { state: 'running', since, followed: guests.length, silent };
  } catch (error) {
    if (!isKvmhaError(error)) {
      throw error;
    }
    return { state: error.code === 'unreachable' ? 'stopped' : 'silent', why: messageOf(error) };
  }
}

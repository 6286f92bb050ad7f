import type { Deadline } from '../deadline.ts';
import { isKvmhaError, messageOf } from '../error.ts';
import type { Journal } from '../journal.ts';
import type { Log } from '../log.ts';
import { isWorse } from './health.ts';
import { HealthKeeper, readHostHealth } from './keeper.ts';

/**
 * Lets the node's health say that so many of its guests were quiesced that others are held. It is called for each guest
 * that is held, at each of its monitors. Does not throw: the guest matters more.
 *
 * @param why what the storm guard says
 */
export async function reportStorm(
  why: string,
  { log, journal }: { readonly log: Log; readonly journal: Pick<Journal, 'record'> },
  deadline: Deadline,
): Promise<void> {
  try {
    const keeper = new HealthKeeper(log, journal);
    const { host } = await keeper.policy();
    if (host.storm === 'ignore' || !isWorse(host.storm, readHostHealth().health)) {
      return;
    }
    const storm = { kind: 'storm', severity: 'uncorrected', source: 'storm guard', count: 1 } as const;
    await keeper.report([{ ...storm, component: 'guests', message: why }], deadline);
  } catch (error) {
    if (!isKvmhaError(error)) {
      throw error;
    }
    log.warn(`this node's health could not be changed: ${messageOf(error)}`);
  }
}

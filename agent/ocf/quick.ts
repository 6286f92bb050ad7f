import { isKvmhaError } from '../../lib/error.ts';
import { quickLook } from '../../lib/guest/quick-look.ts';
import { cachedIdentityOf } from '../../lib/libvirt/identity-cache.ts';
import { OCF, type OcfCode } from '../../lib/ocf.ts';
import { problemsForAction, readParameters } from '../../lib/parameters.ts';
import { noteRunning } from '../../lib/record/io-error.ts';
import { resourceFile } from '../../lib/record/resources.ts';
import { hasRunningRecord } from '../../lib/record/running-record.ts';
import { classify } from '../../lib/state/classify.ts';
import { actionDeadline } from './action-deadline.ts';
import { readEnvironment } from './environment.ts';
import { utilizationIsDue } from './utilization-age.ts';

/** What came of looking quickly. */
export type QuickAnswer =
  | { readonly kind: 'answered'; readonly code: OcfCode }
  /** Another action, or there is more to do than to look. */
  | { readonly kind: 'not-tried' }
  /** The guest was not seen to run well. */
  | { readonly kind: 'not-well' };

const NOT_TRIED: QuickAnswer = { kind: 'not-tried' };
const NOT_WELL: QuickAnswer = { kind: 'not-well' };

/**
 * The answer of a recurring monitor to a guest that runs well: one session on the guest's own QMP socket, and a few
 * small files; and that of a monitor with role=Stopped where nothing of the guest is to be seen. Whatever is not so, or
 * not known for certain, is left to the whole agent, which says and does what has to be said and done about it.
 */
export async function answerQuickly(
  args: readonly string[],
  env: Readonly<Record<string, string | undefined>>,
): Promise<QuickAnswer> {
  if (args[0] !== 'monitor' || !env['OCF_RESOURCE_INSTANCE']) {
    return NOT_TRIED;
  }
  const environment = readEnvironment(args, env);
  const { parameters, problems } = readParameters(env);
  if (
    environment.isProbe ||
    environment.log.debug ||
    problemsForAction('monitor', problems).length > 0 ||
    parameters.monitor_scripts.length > 0
  ) {
    return NOT_TRIED;
  }
  const guest = cachedIdentityOf(parameters.config, resourceFile(environment.instance));
  if (guest !== undefined && environment.isMonitorOfStopped) {
    const { isAbsent } = await import('./quick-stopped.ts');
    const absent = await isAbsent(guest, actionDeadline(environment));
    return absent ? { kind: 'answered', code: OCF.NOT_RUNNING } : NOT_TRIED;
  }
  if (guest === undefined || !hasRunningRecord(guest)) {
    return NOT_TRIED;
  }
  try {
    if (environment.inCluster && utilizationIsDue(parameters, guest)) {
      return NOT_TRIED;
    }
    const seen = await quickLook(guest, actionDeadline(environment));
    if (seen === undefined || classify(seen.observation).state !== 'running') {
      return NOT_WELL;
    }
    noteRunning(seen.uuid);
    return { kind: 'answered', code: OCF.SUCCESS };
  } catch (error) {
    if (isKvmhaError(error)) {
      return NOT_WELL;
    }
    throw error;
  }
}

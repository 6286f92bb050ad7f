import { messageOf } from '../../../lib/error.ts';
import { makeSocketDirectories } from '../../../lib/guest/sockets.ts';
import { OCF, type OcfCode } from '../../../lib/ocf.ts';
import type { Situation } from '../../../lib/state/verdict.ts';
import { act } from '../act.ts';
import type { ActionContext } from '../context.ts';

/**
 * `monitor` and `status`. Three different questions of the cluster are asked by this one action, and the table of
 * verdicts (lib/state/verdict.ts) has a column for each.
 */
export async function monitor(context: ActionContext): Promise<OcfCode> {
  const { environment, parameters } = context;
  const situation: Situation = environment.isMonitorOfStopped
    ? 'monitor-role-stopped'
    : environment.isProbe || environment.action === 'status'
      ? 'probe'
      : 'monitor';
  if (situation === 'probe') {
    prepareForMigration(context);
  }
  const code = await act(context, situation);
  if (situation !== 'monitor' || (code !== OCF.SUCCESS && code !== OCF.DEGRADED)) {
    return code;
  }
  if (parameters.monitor_scripts.length > 0) {
    const { runMonitorScripts } = await import('../monitor-scripts.ts');
    await runMonitorScripts(context);
  }
  const { updateUtilization } = await import('../utilization.ts');
  await updateUtilization(context, false);
  return code;
}

/**
 * The folder of the QMP sockets must be there before a guest is migrated to this node, and the probe is the only
 * action that runs here before that. It is no part of any guest.
 */
function prepareForMigration({ log }: ActionContext): void {
  try {
    makeSocketDirectories();
  } catch (error) {
    log.debug(messageOf(error));
  }
}

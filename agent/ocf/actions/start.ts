import type { OcfCode } from '../../../lib/ocf.ts';
import { act } from '../act.ts';
import type { ActionContext } from '../context.ts';
import { awaitMonitorScripts } from '../monitor-scripts.ts';
import { updateUtilization } from '../utilization.ts';
import { validateFiles } from './validate-all.ts';

/** `start`: ends when the guest runs and what the operator's monitor scripts look at does, too. */
export async function start(context: ActionContext): Promise<OcfCode> {
  // A policy file that cannot be used is told here, before it would be needed in the night.
  await validateFiles(context.parameters);
  const code = await act(context, 'start');
  await awaitMonitorScripts(context);
  await updateUtilization(context, true);
  return code;
}

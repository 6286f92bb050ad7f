import { messageOf } from '../../lib/error.ts';
import { OCF, OcfFailure } from '../../lib/ocf.ts';
import { type Output, run } from '../../lib/run.ts';
import type { ActionContext } from './context.ts';

/**
 * Runs the operator's monitor scripts, one after another.
 *
 * @throws OcfFailure ERR_GENERIC for the first that fails or does not end in time
 */
export async function runMonitorScripts({ guest, parameters, deadline }: ActionContext): Promise<void> {
  for (const script of parameters.monitor_scripts) {
    let output: Output;
    try {
      output = await run(script, [], { deadline });
    } catch (error) {
      throw new OcfFailure(OCF.ERR_GENERIC, `${guest.name}: monitor script ${script}: ${messageOf(error)}`, {
        cause: error,
      });
    }
    if (output.exitCode !== 0) {
      const said = `${output.stdout} ${output.stderr}`.replace(/\s+/g, ' ').trim();
      throw new OcfFailure(
        OCF.ERR_GENERIC,
        `${guest.name}: monitor script ${script} exited ${output.exitCode}: ${said}`,
      );
    }
  }
}

/**
 * Waits until all monitor scripts succeed: what they look at in the guest is only coming up.
 *
 * @throws OcfFailure of the last attempt when they do not before the deadline
 */
export async function awaitMonitorScripts(context: ActionContext): Promise<void> {
  let failure: OcfFailure | undefined;
  const passed = await context.deadline.poll(1000, async () => {
    try {
      await runMonitorScripts(context);
      return true;
    } catch (error) {
      if (!(error instanceof OcfFailure)) {
        throw error;
      }
      failure = error;
      return undefined;
    }
  });
  if (passed === undefined && failure !== undefined) {
    throw failure;
  }
}

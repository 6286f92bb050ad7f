import type { OcfCode } from '../../../lib/ocf.ts';
import { act } from '../act.ts';
import type { ActionContext } from '../context.ts';

/** `stop`: the guest is gone for certain, or preserved. Anything else is a failure, and the cluster fences the node. */
export async function stop(context: ActionContext): Promise<OcfCode> {
  return act(context, 'stop');
}

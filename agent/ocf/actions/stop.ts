import { isKvmhaError, messageOf } from '../../../lib/error.ts';
import { OCF, type OcfCode } from '../../../lib/ocf.ts';
import { uuidForName } from '../../../lib/record/directory.ts';
import { removeResourceRecord } from '../../../lib/record/resource-record.ts';
import { act } from '../act.ts';
import type { ActionContext } from '../context.ts';

/** `stop`: the guest is gone for certain, or preserved. Anything else is a failure, and the cluster fences the node. */
export async function stop(context: ActionContext): Promise<OcfCode> {
  const code = await act(context, 'stop');
  try {
    // A guest that is preserved has records, and no resource any more.
    removeResourceRecord(context.guest.uuid ?? uuidForName(context.guest.name));
  } catch (error) {
    if (!isKvmhaError(error)) {
      throw error;
    }
    context.log.warn(`${context.guest.name}: ${messageOf(error)}`);
  }
  if (code === OCF.SUCCESS) {
    const { disposeOfPreserved } = await import('../preserved.ts');
    await disposeOfPreserved(context);
  }
  return code;
}

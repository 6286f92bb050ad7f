import { OCF, type OcfCode, OcfFailure } from '../../../lib/ocf.ts';
import { act } from '../act.ts';
import type { ActionContext } from '../context.ts';

/** `migrate_to`: on the node that the guest leaves. */
export async function migrateTo(context: ActionContext): Promise<OcfCode> {
  if (context.environment.migrateTarget === undefined) {
    throw new OcfFailure(OCF.ERR_ARGS, `${context.guest.name}: migrate_to was called without a target node`);
  }
  return act(context, 'migrate_to');
}

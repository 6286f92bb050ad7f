import { saveConfig } from '../../../lib/guest/save-config.ts';
import type { OcfCode } from '../../../lib/ocf.ts';
import { act } from '../act.ts';
import type { ActionContext } from '../context.ts';
import { awaitMonitorScripts } from '../monitor-scripts.ts';
import { updateUtilization } from '../utilization.ts';

/** `migrate_from`: on the node that the guest comes to; ends when it runs there. */
export async function migrateFrom(context: ActionContext): Promise<OcfCode> {
  const { guest, parameters, deadline, log } = context;
  const code = await act(context, 'migrate_from');
  const uuid = guest.uuid ?? (await guest.virsh.uuidOf(guest.name, deadline));
  if (parameters.save_config_on_stop && uuid !== undefined) {
    await saveConfig(guest, uuid, parameters.config, parameters.sync_config_on_stop, deadline, log);
  }
  await awaitMonitorScripts(context);
  await updateUtilization(context, true);
  return code;
}

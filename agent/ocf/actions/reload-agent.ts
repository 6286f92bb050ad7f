import { findLocalProblems } from '../../../lib/local-problems.ts';
import { OCF, type OcfCode, OcfFailure } from '../../../lib/ocf.ts';
import { refuseProblems } from '../../../lib/parameters.ts';
import { act, rememberResource } from '../act.ts';
import type { ActionContext } from '../context.ts';
import { updateUtilization } from '../utilization.ts';
import { validateFiles } from './validate-all.ts';

/**
 * `reload-agent`: the parameters changed. No process of ours keeps old ones, so the new ones are checked and what is
 * derived from them is brought up to date; the guest goes on untouched.
 */
export async function reloadAgent(context: ActionContext): Promise<OcfCode> {
  refuseProblems(await findLocalProblems(context.parameters));
  await validateFiles(context.parameters);
  // The cluster stops a guest with the parameters of its last successful start, probe or reload: new ones that do
  // not find it must not take their place.
  const code = await act(context, 'probe');
  if ((code !== OCF.SUCCESS && code !== OCF.DEGRADED) || (await isUnknownToLibvirt(context))) {
    throw new OcfFailure(
      OCF.ERR_GENERIC,
      `${context.guest.name} does not run by the new parameters, it must be restarted`,
    );
  }
  rememberResource(context, undefined);
  await updateUtilization(context, true);
  return OCF.SUCCESS;
}

/** Its own monitor tells that a guest runs, also to one who asks another libvirt for it. */
async function isUnknownToLibvirt({ guest, deadline }: ActionContext): Promise<boolean> {
  const uuid = guest.uuid ?? (await guest.virsh.uuidOf(guest.name, deadline));
  return uuid === undefined || (await guest.virsh.look(uuid, deadline)).kind === 'no-domain';
}

import { Journal } from '../../lib/journal.ts';
import { OCF, type OcfCode } from '../../lib/ocf.ts';
import { problemsForAction, readParameters, refuseProblems } from '../../lib/parameters.ts';
import { metadata } from '../built-in.ts';
import { print, printError } from '../output.ts';
import { actionDeadline } from './action-deadline.ts';
import { type ActionContext, makeContext } from './context.ts';
import type { OcfEnvironment } from './environment.ts';
import { guarded } from './guarded.ts';
import type { Log } from './log.ts';

const USAGE = `usage: KvmGuest {start|stop|status|monitor|migrate_to|migrate_from|reload|reload-agent|validate-all|meta-data|usage}

The OCF resource agent ocf:kvmha:KvmGuest, called by Pacemaker. Parameters come in the environment as
OCF_RESKEY_NAME; "KvmGuest meta-data" describes them. For people there is the command kvmha.
`;

type Action = (context: ActionContext) => Promise<OcfCode>;

/** Each action is loaded when it is called, so that a monitor does not pay for what only a start needs. */
const ACTIONS: { readonly [action: string]: () => Promise<Action> } = {
  start: async () => (await import('./actions/start.ts')).start,
  stop: async () => (await import('./actions/stop.ts')).stop,
  monitor: async () => (await import('./actions/monitor.ts')).monitor,
  status: async () => (await import('./actions/monitor.ts')).monitor,
  migrate_to: async () => (await import('./actions/migrate-to.ts')).migrateTo,
  migrate_from: async () => (await import('./actions/migrate-from.ts')).migrateFrom,
  // The same by the name that Pacemaker calls an agent with OCF 1.0 metadata by.
  reload: async () => (await import('./actions/reload-agent.ts')).reloadAgent,
  'reload-agent': async () => (await import('./actions/reload-agent.ts')).reloadAgent,
};

/** Actions that must not fail for a configuration that cannot be used: what runs must be seen and stopped. */
const STOPPING: readonly string[] = ['stop', 'monitor', 'status'];

/**
 * Performs one action of the resource agent.
 *
 * @param quickLookFailed it was looked quickly whether the guest runs well, in vain (quick.ts)
 * @returns the OCF exit code
 */
export async function runAgent(args: readonly string[], quickLookFailed: boolean): Promise<OcfCode> {
  const action = args[0] ?? process.env['__OCF_ACTION'] ?? '';
  switch (action) {
    case 'meta-data':
      print(metadata());
      return OCF.SUCCESS;
    case 'validate-all':
      return guarded('KvmGuest', args, async (environment) => {
        const { validateAll } = await import('./actions/validate-all.ts');
        return validateAll(environment, readParameters(process.env));
      });
    case 'usage':
    case 'help':
      print(USAGE);
      return OCF.SUCCESS;
    default: {
      const load = Object.hasOwn(ACTIONS, action) ? ACTIONS[action] : undefined;
      if (load === undefined) {
        printError(USAGE);
        return OCF.ERR_UNIMPLEMENTED;
      }
      return perform(args, load, quickLookFailed);
    }
  }
}

async function perform(
  args: readonly string[],
  load: () => Promise<Action>,
  quickLookFailed: boolean,
): Promise<OcfCode> {
  return guarded('KvmGuest', args, async (environment, log) => {
    const { parameters, problems } = readParameters(process.env);
    const hindering = problemsForAction(environment.action, problems);
    if (STOPPING.includes(environment.action)) {
      for (const { reason } of hindering) {
        log.warn(reason);
      }
      if (parameters.config === '') {
        return cannotExist(environment, log);
      }
    } else {
      refuseProblems(hindering);
    }
    if (environment.action === 'start') {
      const { findLocalProblems } = await import('../../lib/local-problems.ts');
      refuseProblems(await findLocalProblems(parameters));
    }
    const journal = new Journal('agent', log);
    const context = await makeContext({
      environment,
      variables: process.env,
      parameters,
      deadline: actionDeadline(environment),
      log,
      journal,
      quickLookFailed,
    });
    try {
      return await (await load())(context);
    } finally {
      await journal.settled();
    }
  });
}

/** A resource without a usable `config` has never been started: a start refuses it. */
function cannotExist(environment: OcfEnvironment, log: Log): OcfCode {
  if (environment.action === 'stop') {
    return OCF.SUCCESS;
  }
  if (!environment.isProbe) {
    log.exitReason('config: required parameter not set, so there is no guest to look for');
  }
  return OCF.NOT_RUNNING;
}

import { isKvmhaError, messageOf } from '../../lib/error.ts';
import { OCF, type OcfCode, OcfFailure } from '../../lib/ocf.ts';
import { printError } from '../output.ts';
import { type AgentName, type OcfEnvironment, readEnvironment } from './environment.ts';
import { Log } from './log.ts';

/** Runs `work`; what it throws becomes an exit code and an exit reason, and never a stack trace for the user. */
export async function guarded(
  agent: AgentName,
  args: readonly string[],
  work: (environment: OcfEnvironment, log: Log) => Promise<OcfCode>,
): Promise<OcfCode> {
  let log: Log | undefined;
  try {
    const environment = readEnvironment(args, process.env, agent);
    log = new Log(environment);
    return await work(environment, log);
  } catch (error) {
    const reason = messageOf(error);
    if (log === undefined) {
      printError(`ocf-exit-reason:${reason}\n`);
    } else {
      log.exitReason(reason);
      log.debug(error instanceof Error ? (error.stack ?? '') : '');
    }
    if (error instanceof OcfFailure) {
      return error.code;
    }
    if (!isKvmhaError(error)) {
      log?.err('this is a defect of kvmha; please report it with the log at debug level (HA_debug=1)');
    }
    return OCF.ERR_GENERIC;
  }
}

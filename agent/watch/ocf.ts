import { closeSync, mkdirSync, openSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Deadline } from '../../lib/deadline.ts';
import { isKvmhaError, messageOf } from '../../lib/error.ts';
import { isAlive, type ProcessIdentity, signalProcess } from '../../lib/linux/process.ts';
import { OCF, type OcfCode, OcfFailure } from '../../lib/ocf.ts';
import { DEFAULT_POLICY_PATH } from '../../lib/parameters.ts';
import { loadPolicy } from '../../lib/policy.ts';
import { STATE_DIRECTORY } from '../../lib/record/directory.ts';
import { askStatus, watcherProcess } from '../../lib/watch/status.ts';
import { isBinary, watchMetadata } from '../built-in.ts';
import { actionDeadline } from '../ocf/action-deadline.ts';
import type { OcfEnvironment } from '../ocf/environment.ts';
import { guarded } from '../ocf/guarded.ts';
import type { Log } from '../ocf/log.ts';
import { print, printError } from '../output.ts';

const USAGE = `usage: KvmWatch {start|stop|status|monitor|reload|reload-agent|validate-all|meta-data|usage}

The OCF resource agent ocf:kvmha:KvmWatch, called by Pacemaker, which runs "kvmha watch" as a resource.
`;

/** What the watcher prints: why it cannot watch, and its log where no other is configured. */
const OUTPUT = join(STATE_DIRECTORY, 'watch.output');

/** Milliseconds in which a watcher that lives answers. */
const ANSWER_PATIENCE = 8000;

/** Milliseconds of a stop that are kept for SIGKILL. */
const KILL_RESERVE = 3000;

const PAUSE = 50;

/** OCF_CHECK_LEVEL from which validate-all looks at the local machine. */
const LOCAL_LEVEL = 10;

interface Call {
  readonly environment: OcfEnvironment;
  readonly deadline: Deadline;
  readonly log: Log;
}

const ACTIONS: { readonly [action: string]: (call: Call) => Promise<OcfCode> } = {
  start,
  stop,
  monitor,
  status: monitor,
  reload,
  'reload-agent': reload,
  'validate-all': validateAll,
};

/**
 * Performs one action of the resource agent KvmWatch.
 *
 * @returns the OCF exit code
 */
export async function runWatchAgent(args: readonly string[]): Promise<OcfCode> {
  const action = args[0] ?? process.env['__OCF_ACTION'] ?? '';
  if (action === 'meta-data') {
    print(watchMetadata());
    return OCF.SUCCESS;
  }
  if (action === 'usage' || action === 'help') {
    print(USAGE);
    return OCF.SUCCESS;
  }
  const perform = Object.hasOwn(ACTIONS, action) ? ACTIONS[action] : undefined;
  if (perform === undefined) {
    printError(USAGE);
    return OCF.ERR_UNIMPLEMENTED;
  }
  return guarded('KvmWatch', args, async (environment, log) => {
    return perform({ environment, deadline: actionDeadline(environment), log });
  });
}

/** Ends when the watcher watches. One that somebody else has started is as good. */
async function start({ deadline, log }: Call): Promise<OcfCode> {
  const running = watcherProcess();
  if (running !== undefined) {
    await answering(running, deadline);
    return OCF.SUCCESS;
  }
  mkdirSync(STATE_DIRECTORY, { recursive: true, mode: 0o700 });
  const output = openSync(OUTPUT, 'w', 0o600);
  const { spawn } = await import('node:child_process');
  const child = spawn(process.execPath, commandLine(), {
    cwd: '/',
    detached: true,
    stdio: ['ignore', output, output],
    env: environmentOfWatcher(),
  });
  closeSync(output);
  let ended: string | undefined;
  child.on('error', (error) => {
    ended = messageOf(error);
  });
  child.on('exit', (code, signal) => {
    ended = `it ended with ${code ?? signal}`;
  });
  child.unref();
  const ready = await deadline.poll(PAUSE, async () =>
    ended !== undefined || (await isReady(child.pid)) ? true : undefined,
  );
  if (ended !== undefined || ready === undefined) {
    child.kill('SIGKILL');
    const why = ended ?? 'it does not say that it is ready';
    throw new OcfFailure(OCF.ERR_GENERIC, `the watcher was not started: ${why}: ${lastOutput()}`);
  }
  log.info(`the watcher is running, process ${child.pid}`);
  return OCF.SUCCESS;
}

async function isReady(pid: number | undefined): Promise<boolean> {
  try {
    return (await askStatus(Deadline.in(ANSWER_PATIENCE))).watcher.pid === pid;
  } catch (error) {
    if (isKvmhaError(error)) {
      return false;
    }
    throw error;
  }
}

/** The binary goes by the name it is called under; run from the sources, the first argument is the script. */
function commandLine(): string[] {
  const script = isBinary() ? [] : [join(import.meta.dirname, '../main.ts')];
  return [...script, 'watch'];
}

/** What Pacemaker says of this action concerns no guest. */
function environmentOfWatcher(): NodeJS.ProcessEnv {
  const { HA_LOGTAG: _, ...env } = process.env;
  return Object.fromEntries(Object.entries(env).filter(([name]) => !name.startsWith('OCF_RESKEY_')));
}

function lastOutput(): string {
  try {
    return readFileSync(OUTPUT, 'utf8').trim().split('\n').at(-1) ?? '';
  } catch (error) {
    return messageOf(error);
  }
}

/** Ends when the watcher is gone. It is given time to finish what it is doing about a guest. */
async function stop({ deadline, log }: Call): Promise<OcfCode> {
  const watcher = watcherProcess();
  if (watcher === undefined) {
    return OCF.SUCCESS;
  }
  const gone = (patience: Deadline) => patience.poll(PAUSE, () => (isAlive(watcher) ? undefined : true));
  signalProcess(watcher, 'SIGTERM');
  if (await gone(deadline.reserving(KILL_RESERVE))) {
    return OCF.SUCCESS;
  }
  log.warn(`the watcher, process ${watcher.pid}, does not end, killing it`);
  signalProcess(watcher, 'SIGKILL');
  if (await gone(deadline)) {
    return OCF.SUCCESS;
  }
  throw new OcfFailure(OCF.ERR_GENERIC, `the watcher, process ${watcher.pid}, does not die`);
}

async function monitor({ environment, deadline, log }: Call): Promise<OcfCode> {
  const watcher = watcherProcess();
  if (watcher === undefined) {
    if (!environment.isProbe) {
      log.exitReason(`no watcher runs on this node: ${lastOutput()}`);
    }
    return OCF.NOT_RUNNING;
  }
  await answering(watcher, deadline);
  return OCF.SUCCESS;
}

/** @throws OcfFailure when the watcher does not answer: its main loop hangs, and it hears of nothing */
async function answering({ pid }: ProcessIdentity, deadline: Deadline): Promise<void> {
  try {
    await askStatus(deadline.within(ANSWER_PATIENCE));
  } catch (error) {
    if (!isKvmhaError(error)) {
      throw error;
    }
    throw new OcfFailure(
      OCF.ERR_GENERIC,
      `the watcher, process ${pid}, does not answer: ${messageOf(error)}`,
      {
        cause: error,
      },
    );
  }
}

/** The watcher reads the policy when it needs it; here it is told that it may look at everything anew. */
async function reload(call: Call): Promise<OcfCode> {
  await validatePolicy();
  const watcher = watcherProcess();
  if (watcher === undefined || !signalProcess(watcher, 'SIGHUP')) {
    throw new OcfFailure(OCF.ERR_GENERIC, 'no watcher runs on this node');
  }
  await answering(watcher, call.deadline);
  return OCF.SUCCESS;
}

async function validateAll({ environment }: Call): Promise<OcfCode> {
  if (environment.checkLevel >= LOCAL_LEVEL) {
    await validatePolicy();
  }
  return OCF.SUCCESS;
}

async function validatePolicy(): Promise<void> {
  try {
    await loadPolicy(DEFAULT_POLICY_PATH);
  } catch (error) {
    if (isKvmhaError(error)) {
      throw new OcfFailure(OCF.ERR_ARGS, messageOf(error), { cause: error });
    }
    throw error;
  }
}

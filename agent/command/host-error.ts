import { Deadline } from '../../lib/deadline.ts';
import { isKvmhaError, messageOf } from '../../lib/error.ts';
import { describeError, type HostError } from '../../lib/host/host-error.ts';
import { HealthKeeper } from '../../lib/host/keeper.ts';
import { cleaned } from '../../lib/host/ras-event.ts';
import { errorOfTrigger } from '../../lib/host/rasdaemon.ts';
import { located } from '../../lib/host/sysfs.ts';
import { Journal } from '../../lib/journal.ts';
import { askStatus } from '../../lib/watch/status.ts';
import { print } from '../output.ts';
import { demandRoot } from './chosen.ts';
import { ConsoleLog, plain } from './console.ts';
import { EXIT, type ExitCode, UsageError } from './exit.ts';
import type { HostErrorOptions } from './host.ts';

/** Milliseconds in which a watcher answers. */
const WATCHER_PATIENCE = 3000;

/** @param patience seconds */
export async function hostError(options: HostErrorOptions, patience: number): Promise<ExitCode> {
  demandRoot();
  const { error, event } = reported(options);
  const words = plain(describeError(error));
  if (event !== undefined && (await watcherHears(event))) {
    print(`The watcher of this node hears of ${event} by itself: ${words}\n`);
    return EXIT.DONE;
  }
  const log = new ConsoleLog();
  const journal = new Journal('command', log);
  const keeper = new HealthKeeper(log, journal);
  try {
    if (!(await keeper.policy()).host.enabled) {
      print(`Not counted, the policy says host.enabled: false: ${words}\n`);
      return EXIT.DONE;
    }
    await keeper.report([located(error)], Deadline.in(patience * 1000));
    return EXIT.DONE;
  } finally {
    await journal.settled();
  }
}

function reported({ severity, component, message, count }: HostErrorOptions): {
  readonly error: HostError;
  readonly event?: string;
} {
  if (severity !== undefined) {
    if (component === undefined || cleaned(component) === '') {
      throw new UsageError('an error is reported with --severity and --component');
    }
    const words = { component: cleaned(component), message: cleaned(message ?? '') };
    return { error: { kind: 'other', severity, source: 'kvmha host-error', count, ...words } };
  }
  if (component !== undefined || message !== undefined) {
    throw new UsageError('an error is reported with --severity and --component');
  }
  const found = errorOfTrigger(process.env);
  if (found === undefined) {
    throw new UsageError(
      "no error is reported: neither with --severity and --component, nor by the variables of rasdaemon's triggers",
    );
  }
  return found;
}

async function watcherHears(event: string): Promise<boolean> {
  try {
    const { host } = await askStatus(Deadline.in(WATCHER_PATIENCE));
    return host.enabled && host.trace.includes(event);
  } catch (error) {
    if (isKvmhaError(error)) {
      return false;
    }
    throw new Error(messageOf(error), { cause: error });
  }
}

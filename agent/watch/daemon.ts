import { Deadline } from '../../lib/deadline.ts';
import { isKvmhaError, messageOf } from '../../lib/error.ts';
import { makeSocketDirectories, WATCHER_SOCKETS } from '../../lib/guest/sockets.ts';
import { HealthKeeper } from '../../lib/host/keeper.ts';
import { Journal } from '../../lib/journal.ts';
import { readStat } from '../../lib/linux/process.ts';
import { makeStateDirectory } from '../../lib/record/directory.ts';
import { lockFile } from '../../lib/record/lock.ts';
import { HostWatch } from '../../lib/watch/host-watch.ts';
import { LOCK, type Status, StatusServer } from '../../lib/watch/status.ts';
import { Watcher } from '../../lib/watch/watcher.ts';
import { version } from '../built-in.ts';
import { readEnvironment } from '../ocf/environment.ts';
import { Log } from '../ocf/log.ts';
import { printError } from '../output.ts';
import { NodeWorld } from './node-world.ts';

/** Milliseconds in which a watcher that is just ending may still hold the lock. */
const LOCK_PATIENCE = 2000;

/** Milliseconds in which what is being done about guests must be finished when the watcher is to end. */
const END_PATIENCE = 25_000;

/** The log of a process that is no action: the reason of an action's end is one message among others. */
class WatchLog extends Log {
  override exitReason(reason: string): void {
    this.warn(reason);
  }
}

/**
 * Watches the guests of this node until it is told to end (SIGTERM, SIGINT). SIGHUP makes it look at everything anew;
 * the policy needs none, it is read when it is needed.
 *
 * @returns the exit code
 */
export async function watchGuests(): Promise<number> {
  const tag = process.env['HA_LOGTAG'] || `kvmha-watch[${process.pid}]`;
  const variables = { OCF_RESOURCE_INSTANCE: 'watch', ...process.env, HA_LOGTAG: tag };
  const log = new WatchLog(readEnvironment(['watch'], variables));
  const journal = new Journal('watcher', log);
  const ended = untilTold();
  try {
    makeStateDirectory();
    const lock = await lockFile(LOCK, 'another watcher runs on this node', Deadline.in(LOCK_PATIENCE));
    makeSocketDirectories();
    await loadEverything();
    const host = new HostWatch(new HealthKeeper(log, journal), log, journal);
    const world = new NodeWorld(log, journal, ({ name }) => host.guestHit(name));
    const watcher = new Watcher(WATCHER_SOCKETS, world);
    watcher.start();
    // Nobody waits for it: the guests matter more.
    void host.start();
    const server = await StatusServer.listen(statusOf(watcher, host));
    process.on('SIGHUP', () => {
      log.info('looking at all guests of this node anew');
      watcher.reread();
      watcher.lookAtAll();
    });
    if (process.versions['bun'] !== undefined) {
      // Node.js holds this signal back (scripts/build/with-pkg.ts); here it would be the watcher's end.
      process.on('SIGUSR1', () => undefined);
    }
    log.info('watching the guests of this node');
    const signal = await ended;
    log.info(`${signal}: no longer watching the guests of this node`);
    const ending = Promise.all([watcher.stop(), host.stop()]);
    await Deadline.in(END_PATIENCE).race(ending, 'what is being done about guests');
    server.close();
    lock.release();
    return 0;
  } catch (error) {
    if (!isKvmhaError(error)) {
      throw error;
    }
    log.err(messageOf(error));
    // For who has started it, wherever the log goes.
    printError(`kvmha watch: ${messageOf(error)}\n`);
    return 1;
  } finally {
    await journal.settled();
  }
}

/** What is otherwise loaded when it is first used, which here is when a fault has hit a guest. */
async function loadEverything(): Promise<void> {
  await Promise.all([
    import('@xmldom/xmldom'),
    import('execa'),
    import('yaml'),
    import('../../lib/cluster/cluster-view.ts'),
    import('../ocf/carry-out.ts'),
  ]);
}

function untilTold(): Promise<NodeJS.Signals> {
  return new Promise((resolve) => {
    process.once('SIGTERM', resolve);
    process.once('SIGINT', resolve);
  });
}

function statusOf(watcher: Watcher, host: HostWatch): () => Status {
  const since = new Date().toISOString();
  const identity = { pid: process.pid, startTime: readStat(process.pid)?.startTime ?? 0 };
  return () => ({
    watcher: identity,
    version: version(),
    since,
    guests: watcher.status(),
    host: host.status(),
  });
}

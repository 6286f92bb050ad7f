import type { Deadline } from '../deadline.ts';
import { isKvmhaError, KvmhaError, messageOf } from '../error.ts';
import { Virsh } from '../libvirt/virsh.ts';
import { holdsOf, identify } from '../linux/open-files.ts';
import { isAlive } from '../linux/process.ts';
import type { Log } from '../log.ts';
import type { QemuProcess } from '../qemu/qemu-process.ts';
import type { LibvirtView } from '../state/observation.ts';
import type { Guest } from './guest.ts';
import { imagesOf } from './look.ts';

export interface MigrationOptions {
  /** libvirt connection to the target, and where QEMU's stream goes, if libvirt is not to choose. */
  readonly remoteUri: string;
  readonly migrateUri: string | undefined;
  /** Further words for `virsh migrate`. */
  readonly words: readonly string[];
  /** Milliseconds that the guest may stand still; 0 leaves libvirt's setting. */
  readonly downtime: number;
  /** MiB/s; 0 leaves libvirt's setting. */
  readonly speed: number;
}

/** Milliseconds kept for cancelling a migration that does not end, and for finding out where the guest is. */
const CANCEL_RESERVE = 15_000;

/**
 * Migrates a running guest to another node. However the migration ends, the guest runs on exactly one side, as far
 * as libvirt there and here lets it be seen.
 *
 * @throws KvmhaError when the guest is not on the target; the message says where it is
 */
export async function migrate(
  guest: Guest,
  uuid: string,
  qemu: QemuProcess,
  options: MigrationOptions,
  deadline: Deadline,
  log: Log,
): Promise<void> {
  if (options.speed > 0) {
    await guest.virsh.command(['migrate-setspeed', uuid, String(options.speed)], deadline);
  }
  if (options.downtime > 0) {
    await guest.virsh.command(['migrate-setmaxdowntime', uuid, String(options.downtime)], deadline);
  }
  const reserve = Math.min(CANCEL_RESERVE, deadline.remaining() / 3);
  log.info(`${guest.name}: migrating it to ${options.remoteUri}`);
  try {
    await guest.virsh.command(migrateWords(uuid, options), deadline.reserving(reserve));
  } catch (error) {
    if (!isKvmhaError(error)) {
      throw error;
    }
    await cancel(guest, uuid, deadline, log);
    await settle(guest, uuid, qemu, options, error, deadline, log);
  }
}

/** The words of `virsh migrate`. */
export function migrateWords(uuid: string, options: MigrationOptions): string[] {
  return [
    'migrate',
    '--live',
    ...options.words,
    '--domain',
    uuid,
    '--desturi',
    options.remoteUri,
    ...(options.migrateUri === undefined ? [] : ['--migrateuri', options.migrateUri]),
  ];
}

/** libvirtd goes on with a peer-to-peer migration when virsh is gone. */
async function cancel(guest: Guest, uuid: string, deadline: Deadline, log: Log): Promise<void> {
  try {
    if (await guest.virsh.hasJob(uuid, deadline.within(5000))) {
      log.warn(`${guest.name}: cancelling the migration`);
      await guest.virsh.command(['domjobabort', uuid], deadline.within(5000));
    }
  } catch (error) {
    if (!isKvmhaError(error)) {
      throw error;
    }
    log.debug(`${guest.name}: ${messageOf(error)}`);
  }
}

/** After `virsh migrate` failed: it may have succeeded all the same, so both sides are asked where the guest runs. */
async function settle(
  guest: Guest,
  uuid: string,
  qemu: QemuProcess,
  options: MigrationOptions,
  failure: KvmhaError,
  deadline: Deadline,
  log: Log,
): Promise<void> {
  const [here, there] = await Promise.all([
    settled(guest.virsh, uuid, deadline.reserving(1000)),
    settled(new Virsh(options.remoteUri), uuid, deadline.reserving(1000)),
  ]);
  const what = `migration to ${options.remoteUri} failed (${failure.message})`;
  if (runs(there) && !runs(here)) {
    if (isAlive(qemu) && holdsImage(qemu)) {
      throw new KvmhaError(
        'program-failed',
        `${what}; it runs there, but the qemu here still holds its images`,
      );
    }
    log.warn(`${guest.name}: ${what}, but the guest runs there`);
    if (here.kind === 'state' && here.state !== 'shut off') {
      await guest.virsh.command(['destroy', uuid], deadline);
    }
    return;
  }
  if (runs(here)) {
    const both = runs(there) ? ', and it seems to run on the target, too' : '';
    throw new KvmhaError('program-failed', `${what}; it still runs here${both}`, { cause: failure });
  }
  throw new KvmhaError(
    'program-failed',
    `${what}; here it is ${words(here)}, on the target it is ${words(there)}`,
    { cause: failure },
  );
}

/** What one side says once it is no longer in the middle of the migration. */
async function settled(virsh: Virsh, uuid: string, deadline: Deadline): Promise<LibvirtView> {
  let view: LibvirtView = { kind: 'not-asked' };
  await deadline.poll(500, async () => {
    view = await virsh.look(uuid, deadline.within(5000));
    return isMoving(view) ? undefined : view;
  });
  return view;
}

function isMoving(view: LibvirtView): boolean {
  return view.kind === 'state' && view.state === 'paused' && /migrat|starting up/.test(view.reason);
}

function runs(view: LibvirtView): boolean {
  return view.kind === 'state' && (view.state === 'running' || view.state === 'idle');
}

function holdsImage(qemu: QemuProcess): boolean {
  return holdsOf(
    qemu.pid,
    imagesOf(qemu).map(({ path }) => identify(path)),
  ).some((hold) => hold.by === 'lock');
}

function words(view: LibvirtView): string {
  switch (view.kind) {
    case 'state':
      return `${view.state} (${view.reason})`;
    case 'no-domain':
      return 'not known';
    case 'silent':
      return `not to be seen (${view.why})`;
    case 'not-asked':
      return 'not to be seen in time';
  }
}

import { chmodSync, chownSync, mkdirSync, statSync } from 'node:fs';
import { KvmhaError, messageOf } from '../error.ts';

/**
 * Where a guest's own QMP sockets are: one for the agent, one for the watcher, since a QMP monitor serves one
 * client at a time. The same on every node, so that they are valid on a migration target, too.
 *
 * The folder and the names follow from what confines qemu: SELinux lets it create sockets below /run/libvirt/qemu
 * (qemu_var_run_t), and AppArmor only what virt-aa-helper's profile allows it, which is
 * `/run/libvirt/**\/NAME.pid`.
 */
const SOCKET_DIRECTORY = '/run/libvirt/qemu/kvmha';

/** The folder of the watcher's sockets: one per guest that was started with them, `NAME.pid`. */
export const WATCHER_SOCKETS = `${SOCKET_DIRECTORY}/watcher`;

/** Where libvirt's qemu user may write; its owner is that user. */
const QEMU_DIRECTORY = '/var/lib/libvirt/qemu';

/** sun_path of unix(7) holds 108 bytes with the NUL at its end. */
const MAX_SOCKET_PATH_BYTES = 107;

export interface Sockets {
  readonly agent: string;
  readonly watcher: string;
}

/** The sockets of a domain; undefined when its name is too long for a socket's path. */
export function socketsOf(name: string): Sockets | undefined {
  const sockets = {
    agent: `${SOCKET_DIRECTORY}/agent/${name}.pid`,
    watcher: `${WATCHER_SOCKETS}/${name}.pid`,
  };
  return Buffer.byteLength(sockets.watcher) <= MAX_SOCKET_PATH_BYTES ? sockets : undefined;
}

/**
 * Makes the folders of the sockets, for qemu's user to create them in. /run is empty after a boot, so they must
 * be made before a guest is started here or migrated to this node.
 *
 * @throws KvmhaError `file`
 */
export function makeSocketDirectories(): void {
  try {
    const owner = statSync(QEMU_DIRECTORY);
    mkdirSync(SOCKET_DIRECTORY, { recursive: true });
    chmodSync(SOCKET_DIRECTORY, 0o755);
    for (const directory of [`${SOCKET_DIRECTORY}/agent`, WATCHER_SOCKETS]) {
      mkdirSync(directory, { recursive: true });
      chownSync(directory, owner.uid, owner.gid);
      chmodSync(directory, 0o700);
    }
  } catch (cause) {
    throw new KvmhaError('file', `${SOCKET_DIRECTORY} cannot be made: ${messageOf(cause)}`, { cause });
  }
}

import { chmodSync, chownSync, mkdirSync, statSync } from 'node:fs';
import { KvmhaError, messageOf } from '../error.ts';
import { uuidForName } from '../record/directory.ts';

/**
 * Where a guest's own QMP sockets are: one for the agent, one for the watcher, since a QMP monitor serves one
 * client at a time. The same on every node, so that they are valid on a migration target, too.
 *
 * The folder and the names follow from what confines qemu: SELinux lets it create sockets below /run/libvirt/qemu
 * (qemu_var_run_t), and AppArmor only what virt-aa-helper's profile allows it, which is
 * `/run/libvirt/**\/NAME.pid`.
 */
export const SOCKET_DIRECTORY = '/run/libvirt/qemu/kvmha';

/** The folder of the watcher's sockets: one per guest that was started with them (see `socketFile`). */
export const WATCHER_SOCKETS = `${SOCKET_DIRECTORY}/watcher`;

/** Where libvirt's qemu user may write; its owner is that user. */
const QEMU_DIRECTORY = '/var/lib/libvirt/qemu';

/** sun_path of unix(7) holds 108 bytes with the NUL at its end. */
const MAX_SOCKET_PATH_BYTES = 107;

/** What the name of a socket's file ends with, for AppArmor. */
const SUFFIX = '.pid';

/** The file that stands for a name that does not fit; a name of this form is replaced, too, so that no two are alike. */
const REPLACED = /^long-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\.pid$/;

export interface Sockets {
  readonly agent: string;
  readonly watcher: string;
}

/** The sockets of a domain. */
export function socketsOf(name: string): Sockets {
  const file = socketFile(name);
  return { agent: `${SOCKET_DIRECTORY}/agent/${file}`, watcher: `${WATCHER_SOCKETS}/${file}` };
}

/**
 * The name of the file of a domain's sockets, the same in both folders: `NAME.pid`, or where the path would be too long
 * (names of more than 71 bytes), `long-UUID.pid` with a UUID that is made from the name.
 */
export function socketFile(name: string): string {
  return `${hasReplacedName(name) ? `long-${uuidForName(name)}` : name}${SUFFIX}`;
}

/** Whether a domain's sockets are not called by its name, which AppArmor by itself does not allow. */
export function hasReplacedName(name: string): boolean {
  const file = `${name}${SUFFIX}`;
  return Buffer.byteLength(`${WATCHER_SOCKETS}/${file}`) > MAX_SOCKET_PATH_BYTES || REPLACED.test(file);
}

/**
 * The domain whose socket's file is called `file`.
 *
 * @returns undefined where that is no socket's; `name` is undefined where only its QEMU can tell
 */
export function domainOfSocket(file: string): { readonly name: string | undefined } | undefined {
  if (!file.endsWith(SUFFIX)) {
    return undefined;
  }
  return { name: REPLACED.test(file) ? undefined : file.slice(0, -SUFFIX.length) };
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

import { type ChildProcess, spawn } from 'node:child_process';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Deadline } from '../deadline.ts';
import { errnoOf, KvmhaError, messageOf } from '../error.ts';
import { libvirtDaemon } from '../libvirt/daemon.ts';
import { domainDirectory, makeDomainDirectory } from '../record/directory.ts';
import { runChecked } from '../run.ts';

/** Images that are hidden from libvirt. */
export interface ImageShadow {
  /** Lets them be seen again. @throws KvmhaError naming what stayed hidden, and how to undo that */
  lift(): Promise<void>;
}

/**
 * For one image, in a child of its own: the mount is undone when standard input ends, however this process dies;
 * and storage that hangs keeps only the child waiting. Without an order to lift it, this process was killed in the
 * middle, and libvirt gets a moment to be done with the image.
 */
const SCRIPT = `
trap '' HUP INT TERM
[ -f "$2" ] || { echo no-file; exit 0; }
mount --bind -- "$1" "$2" || exit 1
echo hidden
read -r order || sleep 5
umount -- "$2" 2>/dev/null || umount -l -- "$2" || exit 1
echo lifted
`;

/**
 * Hides images from libvirt while it cleans up behind a qemu: it finds an empty file under their names.
 *
 * Whenever a qemu ends, libvirt gives its images back to whom it thinks they belonged before (owner, and SELinux
 * label), which hurts the guest that uses them on another node by then. Measured with libvirt 9.0 and
 * dynamic_ownership, the guest running on another node: after destroy and after SIGKILL the image belongs to root,
 * with remember_owner sometimes; and so it does when the daemon was dead meanwhile. libvirt does it by name, and
 * nothing tells it not to. With another file mounted over the name, that file is what it changes, and the image
 * keeps its owner: there is no moment at which it has another.
 *
 * Only regular files are hidden: a block device's owner is each node's own.
 *
 * @param uuid of the domain
 * @throws KvmhaError when one cannot be hidden; none is then
 */
export async function shadowImages(
  uuid: string,
  paths: readonly string[],
  deadline: Deadline,
): Promise<ImageShadow> {
  await liftLeftShadows(uuid, deadline);
  const placeholder = makePlaceholder(uuid);
  const hiding = await Promise.allSettled(paths.map((path) => Hidden.hide(placeholder, path, deadline)));
  const hidden = hiding.flatMap((each) => (each.status === 'fulfilled' ? (each.value ?? []) : []));
  const lift = async () => {
    const lifting = await Promise.allSettled(hidden.map((each) => each.lift()));
    const failed = lifting.find((each) => each.status === 'rejected');
    if (failed !== undefined) {
      throw failed.reason;
    }
    rmSync(placeholder, { force: true });
  };
  try {
    const failed = hiding.find((each) => each.status === 'rejected');
    if (failed !== undefined) {
      throw failed.reason;
    }
    assertSeenByLibvirt(placeholder, hidden.length);
  } catch (error) {
    await lift();
    throw error;
  }
  return { lift };
}

/**
 * Unmounts what an earlier shadow left behind because it was killed with its child. The caller holds the domain's
 * lock, so none is in use.
 *
 * @throws KvmhaError when an image stays hidden
 */
export async function liftLeftShadows(uuid: string, deadline: Deadline): Promise<void> {
  for (const mount of shadowMounts('self', placeholderOf(uuid))) {
    await runChecked('umount', ['--', mount], { deadline });
  }
}

function placeholderOf(uuid: string): string {
  return join(domainDirectory(uuid), 'hidden-image');
}

/** Nobody can use it by mistake: it is empty, and not even readable but for root. */
function makePlaceholder(uuid: string): string {
  const path = placeholderOf(uuid);
  makeDomainDirectory(uuid);
  try {
    writeFileSync(path, '', { mode: 0o000 });
  } catch (cause) {
    throw new KvmhaError('file', `${path} cannot be written: ${messageOf(cause)}`, { cause });
  }
  return path;
}

/** A daemon in a mount namespace of its own would still find the image. */
function assertSeenByLibvirt(placeholder: string, count: number): void {
  const daemon = libvirtDaemon();
  if (daemon === undefined || count === 0) {
    return;
  }
  if (shadowMounts(daemon.pid, placeholder).length < count) {
    throw new KvmhaError(
      'program-failed',
      `libvirt's daemon, process ${daemon.pid}, has a mount namespace of its own and cannot be kept from the images`,
    );
  }
}

/** Where a process sees the placeholder mounted (/proc/PID/mountinfo in proc(5)). */
function shadowMounts(pid: number | 'self', placeholder: string): string[] {
  let text: string;
  try {
    text = readFileSync(`/proc/${pid}/mountinfo`, 'utf8');
  } catch (cause) {
    if (errnoOf(cause) === 'ENOENT') {
      return [];
    }
    throw new KvmhaError('file', `/proc/${pid}/mountinfo: ${messageOf(cause)}`, { cause });
  }
  return mountPointsOf(placeholder, text);
}

/** @param mountinfo the text of /proc/PID/mountinfo: `36 35 98:0 /mounted /where ...` */
export function mountPointsOf(placeholder: string, mountinfo: string): string[] {
  // What is mounted is named by its path in its own file system, of which /run or /run/kvmha may be the root.
  const tail = placeholder.slice(placeholder.indexOf('/guests/'));
  return mountinfo.split('\n').flatMap((line) => {
    const [, , , mounted, where] = line.split(' ');
    const octal = (_: string, digits: string) => String.fromCharCode(Number.parseInt(digits, 8));
    return mounted?.endsWith(tail) && where !== undefined ? [where.replace(/\\([0-7]{3})/g, octal)] : [];
  });
}

/** How long an unmount may take, in milliseconds: nothing waits for storage there. */
const LIFT = 10_000;

class Hidden {
  readonly #path: string;
  readonly #child: ChildProcess;
  readonly #said: { text: string; errors: string } = { text: '', errors: '' };
  readonly #ended: Promise<void>;
  readonly #answered: Promise<void>;

  private constructor(placeholder: string, path: string) {
    this.#path = path;
    const child = spawn('sh', ['-c', SCRIPT, 'kvmha-shadow', placeholder, path], {
      stdio: ['pipe', 'pipe', 'pipe'],
      // Not in the terminal's process group: Ctrl-C must not leave an image hidden.
      detached: true,
    });
    this.#child = child;
    child.stdin?.on('error', () => {
      // It has ended; its output says why.
    });
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.#said.errors += text;
    });
    this.#ended = new Promise((resolve, reject) => {
      child.on('error', reject);
      child.on('close', () => resolve());
    });
    this.#answered = new Promise((resolve) => {
      child.stdout?.setEncoding('utf8').on('data', (text: string) => {
        this.#said.text += text;
        resolve();
      });
    });
  }

  /** @returns undefined when there is no regular file to hide */
  static async hide(placeholder: string, path: string, deadline: Deadline): Promise<Hidden | undefined> {
    const hidden = new Hidden(placeholder, path);
    try {
      await deadline.race(Promise.race([hidden.#answered, hidden.#ended]), `${path} to be hidden`);
    } catch (error) {
      hidden.#child.stdin?.end();
      hidden.#child.unref();
      throw error;
    }
    if (hidden.#said.text.startsWith('hidden')) {
      return hidden;
    }
    await hidden.#ended;
    if (hidden.#said.text.startsWith('no-file')) {
      return undefined;
    }
    throw new KvmhaError('program-failed', `${path} cannot be hidden: ${hidden.#said.errors.trim()}`);
  }

  async lift(): Promise<void> {
    this.#child.stdin?.end('lift\n');
    await Deadline.in(LIFT).race(this.#ended, `${this.#path} to be unmounted`);
    if (!this.#said.text.includes('lifted')) {
      throw new KvmhaError(
        'program-failed',
        `${this.#path} is still hidden by an empty file that is mounted over it (${this.#said.errors.trim()}): run ` +
          `"umount ${this.#path}"`,
      );
    }
  }
}

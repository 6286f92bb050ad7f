import { readFileSync, readlinkSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { errnoOf } from '../error.ts';

/**
 * File systems whose stat(2) of a file that is open, and of the names that lead to it, needs nothing but this node's
 * memory. Any other one may ask a server, a process or another node, and hang with it for ever.
 */
const LOCAL_TYPES: ReadonlySet<string> = new Set([
  ...['ext2', 'ext3', 'ext4', 'xfs', 'btrfs', 'f2fs', 'overlay', 'rootfs', 'squashfs', 'iso9660', 'vfat'],
  ...['tmpfs', 'ramfs', 'devtmpfs', 'hugetlbfs', 'proc', 'sysfs', 'devpts'],
]);

/** The names of symbolic links that lead from one to another before that is taken for a loop (path_resolution(7)). */
const MOST_LINKS = 40;

/** A mount of a process, as /proc/PID/mountinfo shows it (proc(5)). */
interface Mount {
  readonly point: string;
  readonly local: boolean;
  /** Device number of its file system, as stat(2) gives it. */
  readonly dev: number;
}

/** The mounts that a process sees, and which of them may hang. Nothing of this asks a file system that may. */
export class Mounts {
  readonly #byId = new Map<string, Mount>();

  /** @throws the error of reading /proc/PID/mountinfo */
  constructor(pid: number | 'self') {
    for (const line of readFileSync(`/proc/${pid}/mountinfo`, 'utf8').split('\n')) {
      const match = /^(\d+) \d+ (\d+):(\d+) \S+ (\S+) .* - (\S+) /.exec(line);
      if (match !== null) {
        const [, id = '', major, minor, point = '', type = ''] = match;
        const dev = deviceNumber(Number(major), Number(minor));
        this.#byId.set(id, { point: unescaped(point), local: LOCAL_TYPES.has(type), dev });
      }
    }
  }

  /** The mount of a descriptor, by `mnt_id` of its fdinfo; undefined for what is on none of them, as a socket. */
  byId(id: string): Mount | undefined {
    return this.#byId.get(id);
  }

  /** A path without the symbolic links in it, as far as it leads through file systems that cannot hang. */
  resolve(path: string): string {
    let done = '/';
    let rest = resolve('/', path).split('/').slice(1);
    for (let links = 0; rest.length > 0 && this.#isLocal(done); ) {
      const [name = '', ...others] = rest;
      const next = resolve(done, name);
      const target = this.#isLocal(next) && links < MOST_LINKS ? linkTarget(next) : undefined;
      if (target === undefined) {
        [done, rest] = [next, others];
      } else {
        links += 1;
        rest = [...resolve(dirname(next), target).split('/').slice(1), ...others];
        done = '/';
      }
    }
    return resolve(done, ...rest);
  }

  /** Of the deepest mount, and of several at one place of the last. */
  #isLocal(path: string): boolean {
    let best: Mount | undefined;
    for (const mount of this.#byId.values()) {
      const { point } = mount;
      const above = point === '/' || path === point || path.startsWith(`${point}/`);
      if (above && (best === undefined || point.length >= best.point.length)) {
        best = mount;
      }
    }
    return best?.local === true;
  }
}

function linkTarget(path: string): string | undefined {
  try {
    return readlinkSync(path);
  } catch (error) {
    const errno = errnoOf(error);
    if (errno === 'EINVAL' || errno === 'ENOENT' || errno === 'ENOTDIR' || errno === 'EACCES') {
      return undefined; // no symbolic link
    }
    throw error;
  }
}

/** The kernel's userland device number (makedev(3)) for devices below 4096 majors and 1048576 minors. */
export function deviceNumber(major: number, minor: number): number {
  return (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & ~0xff) * 0x1000);
}

/** The kernel writes blanks and backslashes as three octal digits. */
function unescaped(word: string): string {
  return word.replace(/\\([0-7]{3})/g, (_, digits: string) =>
    String.fromCharCode(Number.parseInt(digits, 8)),
  );
}

import { readdirSync, readFileSync, readlinkSync, type Stats, statSync } from 'node:fs';
import { errnoOf, KvmhaError, messageOf } from '../error.ts';

/** A file or block device, known by what it is and not only by a name. */
export interface FileIdentity {
  readonly path: string;
  readonly dev: number;
  readonly ino: number;
  /** Device number of a block device, 0 for other files: two device nodes can name one disk. */
  readonly rdev: number;
}

/** How a process holds a file. */
export interface Hold {
  readonly file: FileIdentity;
  readonly by: 'descriptor' | 'lock' | 'mapping';
  /** For people: "file descriptor 13, open for writing". */
  readonly seen: string;
  readonly writable: boolean;
}

/**
 * Identifies the file at `path`.
 *
 * @throws KvmhaError `file`
 */
export function identify(path: string): FileIdentity {
  try {
    return identityOf(path, statSync(path));
  } catch (error) {
    throw new KvmhaError('file', `${path}: ${messageOf(error)}`, { cause: error });
  }
}

/**
 * Every way in which process `pid` holds one of `files`: open descriptors (/proc/PID/fd), locks taken through
 * them (/proc/PID/fdinfo; /proc/locks does not say whose an OFD lock is) and mappings (/proc/PID/maps). A file
 * counts as held when either its identity or its path matches, since overlay file systems show differing ones.
 *
 * @throws KvmhaError `file` when /proc cannot be read
 */
export function holdsOf(pid: number, files: readonly FileIdentity[]): Hold[] {
  try {
    return [...descriptorHolds(pid, files), ...mappingHolds(pid, files)];
  } catch (error) {
    throw new KvmhaError('file', `the open files of process ${pid}: ${messageOf(error)}`, { cause: error });
  }
}

/**
 * The descriptors process `pid` has on the file that is, or was until it was unlinked, at `path`.
 *
 * @throws KvmhaError `file` when /proc cannot be read
 */
export function openedAt(pid: number, path: string): { readonly size: number; readonly writable: boolean }[] {
  try {
    return descriptors(pid).filter(({ target }) => target === path || target === `${path} (deleted)`);
  } catch (error) {
    throw new KvmhaError('file', `the open files of process ${pid}: ${messageOf(error)}`, { cause: error });
  }
}

/** A descriptor that a disk image could be open through. */
export interface StorageDescriptor {
  readonly path: string;
  /** For people: "file descriptor 13 on a block device". */
  readonly seen: string;
}

/**
 * Whatever process `pid` has open as images are: block devices in any way, and regular files for reading and writing.
 *
 * @throws KvmhaError `file` when /proc cannot be read
 */
export function openStorage(pid: number): StorageDescriptor[] {
  try {
    return descriptors(pid).flatMap(({ number, target, stats, readsAndWrites }) => {
      if (stats.isBlockDevice()) {
        return [{ path: target, seen: `file descriptor ${number} on a block device` }];
      }
      return stats.isFile() && readsAndWrites
        ? [{ path: target, seen: `file descriptor ${number}, open for reading and writing` }]
        : [];
    });
  } catch (error) {
    throw new KvmhaError('file', `the open files of process ${pid}: ${messageOf(error)}`, { cause: error });
  }
}

interface Descriptor {
  readonly number: string;
  readonly target: string;
  readonly stats: Stats;
  readonly size: number;
  readonly writable: boolean;
  readonly readsAndWrites: boolean;
  /** The lock taken through it, as fdinfo prints it. */
  readonly lock: string | undefined;
}

function descriptors(pid: number): Descriptor[] {
  return readdirSync(`/proc/${pid}/fd`).flatMap((number) => {
    const link = `/proc/${pid}/fd/${number}`;
    try {
      const stats = statSync(link);
      const info = readFileSync(`/proc/${pid}/fdinfo/${number}`, 'utf8');
      // O_ACCMODE is 3, O_RDONLY 0, O_WRONLY 1 and O_RDWR 2 (fcntl.h); fdinfo prints the flags in octal.
      const mode = Number.parseInt(/^flags:\s*([0-7]+)/m.exec(info)?.[1] ?? '2', 8) & 3;
      const lock = /^lock:\s*(.*)$/m.exec(info)?.[1];
      return [
        {
          number,
          target: readlinkSync(link),
          stats,
          size: stats.size,
          writable: mode !== 0,
          readsAndWrites: mode === 2,
          lock,
        },
      ];
    } catch (error) {
      if (errnoOf(error) === 'ENOENT') {
        return []; // closed between the listing and the look
      }
      throw error;
    }
  });
}

function descriptorHolds(pid: number, files: readonly FileIdentity[]): Hold[] {
  return descriptors(pid).flatMap(({ number, target, stats, writable, lock }) => {
    const opened = identityOf(target, stats);
    return files
      .filter((file) => isSame(file, opened))
      .flatMap((file) => {
        const how = `file descriptor ${number}, open ${writable ? 'for writing' : 'read-only'}`;
        const hold: Hold = { file, by: 'descriptor', seen: how, writable };
        return lock === undefined
          ? [hold]
          : [hold, { file, by: 'lock', seen: `a lock through file descriptor ${number}: ${lock}`, writable }];
      });
  });
}

function mappingHolds(pid: number, files: readonly FileIdentity[]): Hold[] {
  const holds: Hold[] = [];
  for (const line of readFileSync(`/proc/${pid}/maps`, 'utf8').split('\n')) {
    const match = /^\S+ (\S+) \S+ ([0-9a-f]+):([0-9a-f]+) (\d+)\s+(.*)$/.exec(line);
    if (match === null || match[4] === '0') {
      continue;
    }
    const [, permissions = '', major = '', minor = '', ino = '', path = ''] = match;
    const dev = deviceNumber(Number.parseInt(major, 16), Number.parseInt(minor, 16));
    for (const file of files) {
      if (path === file.path || (dev === file.dev && Number(ino) === file.ino)) {
        const writable = permissions.includes('w') && permissions.includes('s');
        holds.push({ file, by: 'mapping', seen: `mapped into memory (${permissions})`, writable });
      }
    }
  }
  return holds;
}

function isSame(file: FileIdentity, opened: FileIdentity): boolean {
  return (
    opened.path === file.path ||
    (opened.dev === file.dev && opened.ino === file.ino) ||
    (file.rdev !== 0 && opened.rdev === file.rdev)
  );
}

function identityOf(path: string, stats: Stats): FileIdentity {
  return { path, dev: stats.dev, ino: stats.ino, rdev: stats.isBlockDevice() ? stats.rdev : 0 };
}

/** The kernel's userland device number (makedev(3)) for devices below 4096 majors and 1048576 minors. */
function deviceNumber(major: number, minor: number): number {
  return (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & ~0xff) * 0x1000);
}

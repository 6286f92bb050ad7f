import { readdirSync, readFileSync, readlinkSync, type Stats, statSync } from 'node:fs';
import type { Deadline } from '../deadline.ts';
import { errnoOf, isKvmhaError, KvmhaError, messageOf } from '../error.ts';
import { runChecked } from '../run.ts';
import { deviceNumber, Mounts } from './local-mounts.ts';

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
 * Identifies the files that process `pid` sees at `paths`. A name on a file system that may hang is looked up by a child,
 * and so is one that the process has not open by that very name.
 *
 * @throws KvmhaError `file` when one is not there or its storage does not answer in time
 */
export async function identifyFiles(
  pid: number,
  paths: readonly string[],
  deadline: Deadline,
): Promise<FileIdentity[]> {
  const local = paths.length === 0 ? new Set() : openedLocally(pid, paths);
  const seen = (path: string) => `/proc/${pid}/root${path}`;
  const others = paths.filter((path) => !local.has(path));
  const told = (await identifyByChild(others.map(seen), deadline)).values();
  return paths.map((path) => ({
    ...(local.has(path) ? identify(seen(path)) : (told.next().value ?? identify(seen(path)))),
    path,
  }));
}

/**
 * Those of `paths` that process `pid` has files open by, on file systems that cannot hang.
 *
 * @throws KvmhaError `file`
 */
export function openedLocally(pid: number, paths: readonly string[]): ReadonlySet<string> {
  const named = new Set(paths);
  return new Set(
    read(pid, (target) => named.has(target)).flatMap(({ local, target }) => (local ? [target] : [])),
  );
}

function identify(path: string): FileIdentity {
  try {
    const stats = statSync(path);
    return { path, dev: stats.dev, ino: stats.ino, rdev: stats.isBlockDevice() ? stats.rdev : 0 };
  } catch (error) {
    throw new KvmhaError('file', `${path}: ${messageOf(error)}`, { cause: error });
  }
}

/** Milliseconds in which storage must tell of a file. */
const STAT_PATIENCE = 5000;

async function identifyByChild(paths: readonly string[], deadline: Deadline): Promise<FileIdentity[]> {
  if (paths.length === 0) {
    return [];
  }
  const format = '--printf=%d %i %f %t %T\\n';
  let printed: string;
  try {
    printed = await runChecked('stat', ['--dereference', format, '--', ...paths], {
      deadline: deadline.within(STAT_PATIENCE),
      what: `stat ${paths.join(' ')}`,
    });
  } catch (cause) {
    const hangs = isKvmhaError(cause, 'deadline') ? 'the storage does not answer: ' : '';
    throw new KvmhaError('file', `${hangs}${messageOf(cause)}`, { cause });
  }
  return printed
    .trimEnd()
    .split('\n')
    .map((line, index) => {
      const [dev, ino, mode = '', major = '', minor = ''] = line.split(' ');
      // File type and S_IFBLK of st_mode (inode(7)).
      const isBlockDevice = (Number.parseInt(mode, 16) & 0o170000) === 0o060000;
      const rdev = isBlockDevice ? deviceNumber(Number.parseInt(major, 16), Number.parseInt(minor, 16)) : 0;
      return { path: paths[index] ?? '', dev: Number(dev), ino: Number(ino), rdev };
    });
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

/** A descriptor, as `openedAt` finds it. */
export interface Opened {
  /** Bytes. */
  readonly size: number;
  readonly writable: boolean;
}

/**
 * The descriptors process `pid` has on each of the files that are, or were until they were unlinked, at `paths`: files of
 * our own, on storage of this node.
 *
 * @throws KvmhaError `file` when /proc cannot be read
 */
export function openedAt(pid: number, paths: readonly string[]): ReadonlyMap<string, readonly Opened[]> {
  try {
    const named = new Map(
      paths.flatMap((path) => [path, `${path} (deleted)`].map((target) => [target, path])),
    );
    const all = descriptors(pid, (target) => named.has(target));
    return new Map(
      paths.map((path) => [
        path,
        all
          .filter(({ target }) => named.get(target) === path)
          .map(({ link, writable }) => ({ size: statSync(link).size, writable })),
      ]),
    );
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
    return descriptors(pid).flatMap(({ number, target, kind, readsAndWrites }) => {
      if (kind === 'block-device') {
        return [{ path: target, seen: `file descriptor ${number} on a block device` }];
      }
      return kind === 'file' && readsAndWrites
        ? [{ path: target, seen: `file descriptor ${number}, open for reading and writing` }]
        : [];
    });
  } catch (error) {
    throw new KvmhaError('file', `the open files of process ${pid}: ${messageOf(error)}`, { cause: error });
  }
}

interface Descriptor {
  readonly number: string;
  /** Its name in /proc, and where that leads. */
  readonly link: string;
  readonly target: string;
  /** On a file system that cannot hang. */
  readonly local: boolean;
  readonly identity: FileIdentity;
  readonly kind: 'file' | 'block-device' | 'other';
  readonly writable: boolean;
  readonly readsAndWrites: boolean;
  /** The lock taken through it, as fdinfo prints it. */
  readonly lock: string | undefined;
}

function read(pid: number, wanted: (target: string) => boolean): Descriptor[] {
  try {
    return descriptors(pid, wanted);
  } catch (error) {
    throw new KvmhaError('file', `the open files of process ${pid}: ${messageOf(error)}`, { cause: error });
  }
}

/** @param wanted by what a descriptor's name in /proc leads to: the others are not looked at */
function descriptors(pid: number, wanted: (target: string) => boolean = () => true): Descriptor[] {
  const mounts = new Mounts(pid);
  return readdirSync(`/proc/${pid}/fd`).flatMap((number) => {
    const link = `/proc/${pid}/fd/${number}`;
    try {
      const target = readlinkSync(link);
      if (!wanted(target)) {
        return [];
      }
      const info = readFileSync(`/proc/${pid}/fdinfo/${number}`, 'utf8');
      // O_ACCMODE is 3, O_RDONLY 0, O_WRONLY 1 and O_RDWR 2 (fcntl.h); fdinfo prints the flags in octal.
      const mode = Number.parseInt(/^flags:\s*([0-7]+)/m.exec(info)?.[1] ?? '2', 8) & 3;
      const mount = mounts.byId(/^mnt_id:\s*(\d+)/m.exec(info)?.[1] ?? '');
      const what =
        mount === undefined || mount.local
          ? ofStats(target, statSync(link))
          : {
              identity: { path: target, dev: mount.dev, ino: inodeIn(info), rdev: 0 },
              kind: 'file' as const,
            };
      return [
        {
          number,
          link,
          target,
          local: mount?.local === true,
          ...what,
          writable: mode !== 0,
          readsAndWrites: mode === 2,
          lock: /^lock:\s*(.*)$/m.exec(info)?.[1],
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

/** Linux tells it from 5.14 on; without it, the file's name has to do. */
function inodeIn(info: string): number {
  return Number(/^ino:\s*(\d+)/m.exec(info)?.[1] ?? Number.NaN);
}

function ofStats(path: string, stats: Stats): Pick<Descriptor, 'identity' | 'kind'> {
  const isBlockDevice = stats.isBlockDevice();
  return {
    identity: { path, dev: stats.dev, ino: stats.ino, rdev: isBlockDevice ? stats.rdev : 0 },
    kind: isBlockDevice ? 'block-device' : stats.isFile() ? 'file' : 'other',
  };
}

function descriptorHolds(pid: number, files: readonly FileIdentity[]): Hold[] {
  return descriptors(pid).flatMap(({ number, identity: opened, writable, lock }) => {
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

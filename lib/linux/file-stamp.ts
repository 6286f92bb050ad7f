import { statSync } from 'node:fs';
import type { Deadline } from '../deadline.ts';
import { KvmhaError, messageOf } from '../error.ts';
import { runChecked } from '../run.ts';

/** What is different afterwards when anybody has written to a file, replaced it, or changed its owner. */
export interface FileStamp {
  readonly dev: number;
  readonly ino: number;
  readonly kind: 'file' | 'block-device' | 'other';
  /** Bytes. */
  readonly size: number;
  /** Seconds since the epoch with nine decimals, at which its content was changed (st_mtim of stat(2)). */
  readonly modified: string;
  /** As `modified`, of its content or its inode (st_ctim). Nobody can set it but by setting the clock. */
  readonly changed: string;
}

/**
 * What the storage says of files now, past all that this node has cached of it (AT_STATX_FORCE_SYNC of statx(2)): asked
 * by a child, so that storage which hangs blocks the child and not this process.
 *
 * @throws KvmhaError `program-failed` when one cannot be asked for, or the stat of this system (before coreutils 8.32)
 *   cannot ask the storage; `deadline` when it hangs
 */
export async function stampFiles(paths: readonly string[], deadline: Deadline): Promise<FileStamp[]> {
  if (paths.length === 0) {
    return [];
  }
  const format = '--printf=%d %i %f %s %.9Y %.9Z\\n';
  const printed = await runChecked('stat', ['--dereference', '--cached=never', format, '--', ...paths], {
    deadline,
    what: `stat ${paths[0]}`,
  });
  const stamps = printed.trimEnd().split('\n').map(stampOf);
  if (stamps.length !== paths.length) {
    throw new KvmhaError(
      'malformed',
      `stat tells of ${stamps.length} files, and was asked for ${paths.length}`,
    );
  }
  return stamps;
}

/**
 * As `stampFiles`, at once, for a file on a file system of this node alone, which keeps nothing from whoever asks.
 *
 * @throws KvmhaError `file`
 */
export function stampLocalFile(path: string): FileStamp {
  try {
    const { dev, ino, mode, size, mtimeNs, ctimeNs } = statSync(path, { bigint: true });
    return {
      dev: Number(dev),
      ino: Number(ino),
      kind: KINDS.get(Number(mode) & S_IFMT) ?? 'other',
      size: Number(size),
      modified: seconds(mtimeNs),
      changed: seconds(ctimeNs),
    };
  } catch (cause) {
    throw new KvmhaError('file', `${path}: ${messageOf(cause)}`, { cause });
  }
}

/** With nine decimals, as stat(1) prints it. */
function seconds(nanoseconds: bigint): string {
  const digits = String(nanoseconds).padStart(10, '0');
  return `${digits.slice(0, -9)}.${digits.slice(-9)}`;
}

/** The file types of st_mode (inode(7)). */
const S_IFMT = 0o170000;
const KINDS: ReadonlyMap<number, FileStamp['kind']> = new Map([
  [0o100000, 'file'],
  [0o060000, 'block-device'],
]);

function stampOf(line: string): FileStamp {
  const match = /^(\d+) (\d+) ([0-9a-f]+) (\d+) (-?\d+\.\d{9}) (-?\d+\.\d{9})$/.exec(line);
  if (match === null) {
    throw new KvmhaError('malformed', `stat printed "${line}"`);
  }
  const [, dev, ino, mode = '', size, modified = '', changed = ''] = match;
  const kind = KINDS.get(Number.parseInt(mode, 16) & S_IFMT) ?? 'other';
  return { dev: Number(dev), ino: Number(ino), kind, size: Number(size), modified, changed };
}

/** statfs(2) magic numbers (linux/magic.h) of the file systems that files are on. @throws as `stampFiles` */
export async function fileSystemsOf(paths: readonly string[], deadline: Deadline): Promise<number[]> {
  const printed = await runChecked('stat', ['--file-system', '--printf=%t\\n', '--', ...paths], {
    deadline,
    what: `stat --file-system ${paths[0]}`,
  });
  return printed
    .trimEnd()
    .split('\n')
    .map((line) => Number.parseInt(line, 16));
}

import { existsSync, lstatSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { errnoOf, KvmhaError, messageOf } from '../error.ts';
import { allJobs } from '../record/postmortem-job.ts';
import { PARTIAL } from './memory-dump.ts';

/** A post-mortem in the policy's folder. */
export interface StoredPostmortem {
  readonly path: string;
  /** When it was begun, in a form that sorts by time. */
  readonly moment: string;
  readonly bytes: number;
  /** It was completed; else it was interrupted, or is being collected. */
  readonly whole: boolean;
  /** It belongs to a guest that is still on this node. */
  readonly inUse: boolean;
}

/** 0 sets no limit. */
export interface Limits {
  readonly number: number;
  readonly bytes: number;
}

/** A folder of its own for each post-mortem, of a name that sorts by time and has no characters of its own. */
export function folderFor(name: string, moment: Date, parent: string): string {
  const time = moment
    .toISOString()
    .replace(/\.\d+Z$/, 'Z')
    .replaceAll(':', '-');
  return join(parent, `${encodeURIComponent(name)}-${time}`);
}

/** What `folderFor` and the archive made of it are called. */
const NAME = /-(\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ)(\.tar(?:\.partial)?)?$/;

/**
 * Which post-mortems are to be removed: first those that were never completed, then the oldest, until the rest keeps
 * the limits. Neither the newest whole one is removed nor any that is in use.
 */
export function surplus(stored: readonly StoredPostmortem[], limits: Limits): StoredPostmortem[] {
  const byAge = stored.toSorted((a, b) => (a.moment < b.moment ? -1 : a.moment > b.moment ? 1 : 0));
  const newest = byAge.findLast(({ whole }) => whole);
  const removable = byAge.filter((each) => each !== newest && !each.inUse);
  let number = stored.length;
  let bytes = stored.reduce((sum, each) => sum + each.bytes, 0);
  const removed: StoredPostmortem[] = [];
  for (const each of [
    ...removable.filter(({ whole }) => !whole),
    ...removable.filter(({ whole }) => whole),
  ]) {
    const fits =
      (limits.number === 0 || number <= limits.number) && (limits.bytes === 0 || bytes <= limits.bytes);
    if (fits) {
      break;
    }
    removed.push(each);
    number -= 1;
    bytes -= each.bytes;
  }
  return removed;
}

/**
 * Removes what the limits leave no room for from the policy's folder.
 *
 * @returns what was removed
 * @throws KvmhaError `file`, `malformed`: when it is not known what is in use, nothing is removed
 */
export function removeSurplus(directory: string, limits: Limits): string[] {
  if (limits.number === 0 && limits.bytes === 0) {
    return [];
  }
  const inUse = new Set(allJobs().map((job) => job.directory));
  try {
    const stored = readdirSync(directory).flatMap((name) => describe(directory, name, inUse) ?? []);
    return surplus(stored, limits).map(({ path }) => {
      rmSync(path, { recursive: true });
      return path;
    });
  } catch (cause) {
    throw new KvmhaError('file', `${directory}: ${messageOf(cause)}`, { cause });
  }
}

function describe(directory: string, name: string, inUse: ReadonlySet<string>): StoredPostmortem | undefined {
  const [, moment, suffix = ''] = NAME.exec(name) ?? [];
  const path = join(directory, name);
  if (moment === undefined) {
    return undefined;
  }
  try {
    const file = lstatSync(path);
    if (!(suffix === '' ? file.isDirectory() : file.isFile())) {
      return undefined;
    }
    const bytes = file.isFile()
      ? file.size
      : readdirSync(path).reduce((sum, each) => sum + lstatSync(join(path, each)).size, 0);
    const whole = suffix === '' ? existsSync(join(path, 'manifest.json')) : !suffix.endsWith(PARTIAL);
    // A folder is in use while its archive is being made, and the other way round.
    const folder = path.slice(0, path.length - suffix.length);
    return { path, moment, bytes, whole, inUse: inUse.has(folder) || inUse.has(`${folder}.tar`) };
  } catch (cause) {
    if (errnoOf(cause) === 'ENOENT') {
      return undefined; // It is being removed, or has become an archive.
    }
    throw cause;
  }
}

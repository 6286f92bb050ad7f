import { constants } from 'node:fs';
import { open, rename, stat, unlink, writeFile } from 'node:fs/promises';
import { errnoOf, KvmhaError, messageOf } from '../error.ts';

/** What tells a guest apart from others. */
export interface DomainIdentity {
  readonly name: string;
  /** In lower case with hyphens; undefined if the domain XML has none. */
  readonly uuid: string | undefined;
}

/** What a cache file remembers: the identity, and which state of which file it was read from (or UNSETTLED). */
interface Entry extends DomainIdentity {
  readonly path: string;
  readonly stamp: string;
}

const MAX_CACHE_BYTES = 16 * 1024;

/**
 * A file that changed less than this before it was read may change again without a visible difference: file
 * systems stamp with the resolution of a clock tick, network file systems with that of another host's clock.
 */
const SETTLED_AFTER_MS = 3000;

/** The stamp of no file: the entry is only to be remembered when the file is lost. */
const UNSETTLED = '';

/**
 * The identity of the guest whose domain XML is at `path`, without loading the XML library if the file is the
 * one (by device, inode, size, time of modification and of change) that the cache file describes. Otherwise
 * the XML is read, and the cache file replaced (atomically, mode 0600). Until the file has settled, the cache file only
 * serves `lastDomainIdentityOf`. A cache file that is missing, damaged
 * or writable for others is ignored, and that it cannot be written is no failure.
 *
 * @param cachePath a file of its own for each resource, in an existing directory of root's
 * @throws KvmhaError `file` or `malformed` as readDomainXml does
 */
export async function domainIdentityOf(path: string, cachePath: string): Promise<DomainIdentity> {
  const [stamp, cached] = await Promise.all([stampOf(path), readCache(path, cachePath)]);
  if (cached !== undefined && cached.stamp === stamp.text) {
    return { name: cached.name, uuid: cached.uuid };
  }
  const { readDomainXml } = await import('./domain-xml.ts');
  const { name, uuid } = await readDomainXml(path);
  const after = await stampOf(path);
  const isSettled = after.text === stamp.text && Date.now() - after.changedMs > SETTLED_AFTER_MS;
  if (isSettled || cached?.name !== name || cached.uuid !== uuid) {
    await writeCache(cachePath, { path, stamp: isSettled ? after.text : UNSETTLED, name, uuid });
  }
  return { name, uuid };
}

/**
 * The identity that was last read from `path`, whether or not the file is still the same or there at all: a
 * guest that runs keeps its name when its configuration is lost, and must still be found to be stopped.
 */
export async function lastDomainIdentityOf(
  path: string,
  cachePath: string,
): Promise<DomainIdentity | undefined> {
  const cached = await readCache(path, cachePath);
  return cached === undefined ? undefined : { name: cached.name, uuid: cached.uuid };
}

async function stampOf(path: string): Promise<{ text: string; changedMs: number }> {
  try {
    const { dev, ino, size, mtimeNs, ctimeNs, ctimeMs } = await stat(path, { bigint: true });
    return { text: [dev, ino, size, mtimeNs, ctimeNs].join(':'), changedMs: Number(ctimeMs) };
  } catch (error) {
    throw new KvmhaError('file', `cannot read ${path}: ${errnoOf(error) ?? messageOf(error)}`, {
      cause: error,
    });
  }
}

async function readCache(path: string, cachePath: string): Promise<Entry | undefined> {
  try {
    const file = await open(cachePath, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    try {
      const { uid, mode, size } = await file.stat();
      if (uid !== process.geteuid?.() || (mode & 0o22) !== 0 || size > MAX_CACHE_BYTES) {
        return undefined;
      }
      const entry: unknown = JSON.parse(await file.readFile('utf8'));
      return isEntry(entry) && entry.path === path ? entry : undefined;
    } finally {
      await file.close();
    }
  } catch {
    return undefined;
  }
}

async function writeCache(cachePath: string, entry: Entry): Promise<void> {
  const temporary = `${cachePath}.${process.pid}.tmp`;
  try {
    await writeFile(temporary, JSON.stringify(entry), { mode: 0o600, flag: 'wx' });
    await rename(temporary, cachePath);
  } catch {
    // Without a cache every monitor reads the XML: slower, not wrong.
    await unlink(temporary).catch(() => undefined);
  }
}

function isEntry(value: unknown): value is Entry {
  return (
    typeof value === 'object' &&
    value !== null &&
    'path' in value &&
    typeof value.path === 'string' &&
    'stamp' in value &&
    typeof value.stamp === 'string' &&
    'name' in value &&
    typeof value.name === 'string' &&
    value.name !== '' &&
    (!('uuid' in value) || typeof value.uuid === 'string')
  );
}

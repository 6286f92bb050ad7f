import { closeSync, constants, fstatSync, openSync, readFileSync, statSync } from 'node:fs';
import { errnoOf, isShortage, KvmhaError, messageOf } from '../error.ts';

/** What tells a guest apart from others. */
export interface DomainIdentity {
  readonly name: string;
  /** In lower case with hyphens; undefined if the domain XML has none. */
  readonly uuid: string | undefined;
}

/** What a cache file remembers: the identity, and which state of which file it was read from (or UNSETTLED). */
export interface CachedIdentity extends DomainIdentity {
  readonly path: string;
  readonly stamp: string;
}

const MAX_CACHE_BYTES = 16 * 1024;

/** The stamp of no file: the entry is only to be remembered when the file is lost. */
export const UNSETTLED = '';

/**
 * The identity that the cache file holds of the domain XML at `path`, if the file is the one (by device, inode, size,
 * time of modification and of change) that it was read from.
 *
 * @returns undefined when the XML has to be read
 */
export function cachedIdentityOf(path: string, cachePath: string): DomainIdentity | undefined {
  try {
    const cached = readIdentityCache(path, cachePath);
    return cached !== undefined && cached.stamp === stampOf(path).text
      ? { name: cached.name, uuid: cached.uuid }
      : undefined;
  } catch (error) {
    if (error instanceof KvmhaError) {
      return undefined;
    }
    throw error;
  }
}

/** What shows that a file is another one, or has changed. @throws KvmhaError `file` */
export function stampOf(path: string): { readonly text: string; readonly changedMs: number } {
  try {
    const { dev, ino, size, mtimeNs, ctimeNs, ctimeMs } = statSync(path, { bigint: true });
    return { text: [dev, ino, size, mtimeNs, ctimeNs].join(':'), changedMs: Number(ctimeMs) };
  } catch (error) {
    throw new KvmhaError('file', `cannot read ${path}: ${errnoOf(error) ?? messageOf(error)}`, {
      cause: error,
    });
  }
}

/**
 * What a cache file remembers of `path`, whatever has become of it.
 *
 * @returns undefined also when the cache file is damaged, or somebody else could have written it
 * @throws KvmhaError `file` when it could not be opened for lack of something: that is no absence
 */
export function readIdentityCache(path: string, cachePath: string): CachedIdentity | undefined {
  let file: number | undefined;
  try {
    file = openSync(cachePath, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    const { uid, mode, size } = fstatSync(file);
    if (uid !== process.geteuid?.() || (mode & 0o22) !== 0 || size > MAX_CACHE_BYTES) {
      return undefined;
    }
    const entry: unknown = JSON.parse(readFileSync(file, 'utf8'));
    return isEntry(entry) && entry.path === path ? entry : undefined;
  } catch (error) {
    if (isShortage(error)) {
      throw new KvmhaError('file', `cannot read ${cachePath}: ${errnoOf(error)}`, { cause: error });
    }
    return undefined;
  } finally {
    if (file !== undefined) {
      closeSync(file);
    }
  }
}

function isEntry(value: unknown): value is CachedIdentity {
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

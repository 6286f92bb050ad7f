import { renameSync, rmSync, writeFileSync } from 'node:fs';
import {
  type CachedIdentity,
  cachedIdentityOf,
  type DomainIdentity,
  readIdentityCache,
  stampOf,
  UNSETTLED,
} from './identity-cache.ts';

/**
 * A file that changed less than this before it was read may change again without a visible difference: file
 * systems stamp with the resolution of a clock tick, network file systems with that of another host's clock.
 */
const SETTLED_AFTER_MS = 3000;

/**
 * The identity of the guest whose domain XML is at `path`, without loading the XML library if the cache file has it.
 * Otherwise the XML is read, and the cache file replaced (atomically, mode 0600). Until the file has settled, the cache
 * file only serves `lastDomainIdentityOf`. A cache file that is missing, damaged or writable for others is ignored,
 * and that it cannot be written is no failure.
 *
 * @param cachePath a file of its own for each resource, in an existing directory of root's
 * @throws KvmhaError `file` or `malformed` as readDomainXml does, and `file` as `readIdentityCache` does
 */
export async function domainIdentityOf(path: string, cachePath: string): Promise<DomainIdentity> {
  const known = cachedIdentityOf(path, cachePath);
  if (known !== undefined) {
    return known;
  }
  const stamp = stampOf(path);
  const { readDomainXml } = await import('./domain-xml.ts');
  const { name, uuid } = await readDomainXml(path);
  const after = stampOf(path);
  const isSettled = after.text === stamp.text && Date.now() - after.changedMs > SETTLED_AFTER_MS;
  const cached = readIdentityCache(path, cachePath);
  if (isSettled || cached?.name !== name || cached.uuid !== uuid) {
    writeCache(cachePath, { path, stamp: isSettled ? after.text : UNSETTLED, name, uuid });
  }
  return { name, uuid };
}

/**
 * The identity that was last read from `path`, whether or not the file is still the same or there at all: a
 * guest that runs keeps its name when its configuration is lost, and must still be found to be stopped.
 *
 * @throws KvmhaError as `readIdentityCache` does
 */
export function lastDomainIdentityOf(path: string, cachePath: string): DomainIdentity | undefined {
  const cached = readIdentityCache(path, cachePath);
  return cached === undefined ? undefined : { name: cached.name, uuid: cached.uuid };
}

function writeCache(cachePath: string, entry: CachedIdentity): void {
  const temporary = `${cachePath}.${process.pid}.tmp`;
  try {
    writeFileSync(temporary, JSON.stringify(entry), { mode: 0o600, flag: 'wx' });
    renameSync(temporary, cachePath);
  } catch {
    // Without a cache every monitor reads the XML: slower, not wrong.
    rmSync(temporary, { force: true });
  }
}

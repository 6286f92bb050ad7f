import { realpathSync } from 'node:fs';
import { KvmhaError } from '../error.ts';
import { type FileIdentity, holdsOf, identify } from '../linux/open-files.ts';

/**
 * Identifies images by the files that process `pid` has open under their names. A name alone is not enough: the
 * process may see another file system there, and the file may have been replaced since it was opened.
 *
 * @throws KvmhaError `malformed` when the process has something else open, `file` when that cannot be seen
 */
export function identifyImages(pid: number, paths: readonly string[]): FileIdentity[] {
  const images = paths.map((path) => ({ ...identify(`/proc/${pid}/root${path}`), path: resolved(path) }));
  const open = new Set(holdsOf(pid, images).flatMap((hold) => (hold.by === 'descriptor' ? [hold.file] : [])));
  const other = images.findIndex((image) => !open.has(image));
  if (other >= 0) {
    throw new KvmhaError('malformed', `the file at ${paths[other]} is not the one that qemu has open`);
  }
  return images;
}

/** As the links in /proc/PID/fd name it. */
function resolved(path: string): string {
  try {
    return realpathSync(path);
  } catch {
    return path; // another file system than the process's; then the identity has to do
  }
}

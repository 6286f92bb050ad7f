import type { Deadline } from '../deadline.ts';
import { KvmhaError } from '../error.ts';
import { Mounts } from '../linux/local-mounts.ts';
import { type FileIdentity, holdsOf, identifyFiles } from '../linux/open-files.ts';

/**
 * Identifies images by the files that process `pid` has open under their names. A name alone is not enough: the
 * process may see another file system there, and the file may have been replaced since it was opened.
 *
 * @throws KvmhaError `malformed` when the process has something else open, `file` when that cannot be seen, or not in
 *   time
 */
export async function identifyImages(
  pid: number,
  paths: readonly string[],
  deadline: Deadline,
): Promise<FileIdentity[]> {
  if (paths.length === 0) {
    return [];
  }
  const mounts = new Mounts('self');
  // As the links in /proc/PID/fd name them.
  const images = (await identifyFiles(pid, paths, deadline)).map((image) => ({
    ...image,
    path: mounts.resolve(image.path),
  }));
  const open = new Set(holdsOf(pid, images).flatMap((hold) => (hold.by === 'descriptor' ? [hold.file] : [])));
  const other = images.findIndex((image) => !open.has(image));
  if (other >= 0) {
    throw new KvmhaError('malformed', `the file at ${paths[other]} is not the one that qemu has open`);
  }
  return images;
}

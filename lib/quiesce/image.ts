import { realpathSync } from 'node:fs';
import { isKvmhaError, KvmhaError } from '../error.ts';
import { type FileIdentity, holdsOf, identify } from '../linux/open-files.ts';

/**
 * Identifies an image by the file that process `pid` has open under that name. The name alone is not enough: the
 * process may see another file system there, and the file may have been replaced since it was opened.
 *
 * @throws KvmhaError `malformed` when the process has something else open, `file` when that cannot be seen
 */
export function identifyImage(pid: number, path: string): FileIdentity {
  const image = { ...identify(`/proc/${pid}/root${path}`), path: resolved(path) };
  if (!holdsOf(pid, [image]).some((hold) => hold.by === 'descriptor')) {
    throw new KvmhaError('malformed', `the file at ${path} is not the one that qemu has open`);
  }
  return image;
}

/** Whether, and why, an image of the guest is not what its name says. */
export function refusedImages(pid: number, paths: readonly string[]): string[] {
  return paths.flatMap((path) => {
    try {
      identifyImage(pid, path);
      return [];
    } catch (error) {
      if (isKvmhaError(error)) {
        return [error.message];
      }
      throw error;
    }
  });
}

/** As the links in /proc/PID/fd name it. */
function resolved(path: string): string {
  try {
    return realpathSync(path);
  } catch {
    return path; // another file system than the process's; then the identity has to do
  }
}

import type { Deadline } from '../deadline.ts';
import { KvmhaError } from '../error.ts';
import { run } from '../run.ts';

const NO_FILE = 'No such file or directory';

/**
 * Writes what the host page cache holds of files to their storage: fsync(2) of each, in a child so that storage which
 * hangs blocks the child and not this process.
 *
 * @throws KvmhaError `program-failed` when the storage of one reports an error, `deadline` when it hangs, `file` when
 *   there is no such file, and no other failure
 */
export async function syncFiles(paths: readonly string[], deadline: Deadline): Promise<void> {
  // Without a path it would sync all that the node has.
  if (paths.length === 0) {
    return;
  }
  const { exitCode, stderr } = await run('sync', ['--', ...paths], { deadline, what: `sync ${paths[0]}` });
  if (exitCode !== 0) {
    // A line for each that it could not sync; the others are synced all the same.
    const said = stderr.trim();
    const isAbsence = said !== '' && said.split('\n').every((line) => line.endsWith(NO_FILE));
    throw new KvmhaError(
      isAbsence ? 'file' : 'program-failed',
      said.replace(/\n/g, '; ') || `sync ${paths[0]} exited ${exitCode}`,
    );
  }
}

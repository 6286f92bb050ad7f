import type { Deadline } from '../deadline.ts';
import { runChecked } from '../run.ts';

/**
 * Writes what the host page cache holds of a file to its storage: fsync(2), in a child so that storage which
 * hangs blocks the child and not this process.
 *
 * @throws KvmhaError `program-failed` when the storage reports an error, `deadline` when it hangs
 */
export async function syncFile(path: string, deadline: Deadline): Promise<void> {
  await runChecked('sync', ['--', path], { deadline });
}

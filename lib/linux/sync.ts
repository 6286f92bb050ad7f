import type { Deadline } from '../deadline.ts';
import { KvmhaError } from '../error.ts';
import { run } from '../run.ts';

/**
 * Writes what the host page cache holds of a file to its storage: fsync(2), in a child so that storage which
 * hangs blocks the child and not this process.
 *
 * @throws KvmhaError `program-failed` when the storage reports an error, `deadline` when it hangs, `file` when there
 *   is no such file
 */
export async function syncFile(path: string, deadline: Deadline): Promise<void> {
  const { exitCode, stderr } = await run('sync', ['--', path], { deadline });
  if (exitCode !== 0) {
    const code = stderr.includes('No such file or directory') ? 'file' : 'program-failed';
    throw new KvmhaError(code, stderr.trim() || `sync ${path} exited ${exitCode}`);
  }
}

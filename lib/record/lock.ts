import type { ChildProcess } from 'node:child_process';
import { closeSync, constants, openSync } from 'node:fs';
import { join } from 'node:path';
import type { Deadline } from '../deadline.ts';
import { KvmhaError, messageOf } from '../error.ts';
import { makeDomainDirectory } from './directory.ts';

/** A held lock. */
export interface Lock {
  release(): void;
}

/**
 * Takes the lock of one domain, which everything that changes it holds, waiting for whoever has it.
 *
 * @throws KvmhaError `locked` when another holds it until the deadline, `program-missing` without flock(1)
 */
export async function lockDomain(uuid: string, deadline: Deadline): Promise<Lock> {
  const path = join(makeDomainDirectory(uuid), 'lock');
  return lockFile(path, 'another kvmha process is changing this guest', deadline);
}

/**
 * Takes the lock of the file at `path`, which is made if needed.
 *
 * It is flock(2), held by a child (`flock FILE cat`): Node has no flock of its own, and the child ends, and with it
 * the lock, when its standard input closes, however this process dies.
 *
 * @param why what is said when another holds it
 * @throws KvmhaError `locked` when another holds it until the deadline, `program-missing` without flock(1), `file`
 */
export async function lockFile(path: string, why: string, deadline: Deadline): Promise<Lock> {
  const { spawn } = await import('node:child_process');
  try {
    // flock would make it as the umask lets it, and whoever can open a lock can hold it.
    closeSync(openSync(path, constants.O_RDONLY | constants.O_CREAT, 0o600));
  } catch (cause) {
    throw new KvmhaError('file', `${path} cannot be made: ${messageOf(cause)}`, { cause });
  }
  const child = spawn('flock', ['--no-fork', path, 'cat'], { stdio: ['pipe', 'pipe', 'ignore'] });
  const release = () => {
    child.stdin?.destroy();
  };
  try {
    await deadline.race(echoed(child), 'the lock');
    child.unref();
    return { release };
  } catch (cause) {
    child.kill('SIGKILL');
    if (cause instanceof KvmhaError && cause.code === 'deadline') {
      throw new KvmhaError('locked', `${why} (${path} is locked)`, { cause });
    }
    throw cause;
  }
}

/** `cat` runs, and so the lock is held, once it gives back what it was given. */
function echoed(child: ChildProcess): Promise<void> {
  return new Promise((resolve, reject) => {
    child.once('error', (cause) => {
      reject(new KvmhaError('program-missing', `flock could not be run: ${messageOf(cause)}`, { cause }));
    });
    child.once('exit', (code) => {
      reject(new KvmhaError('program-failed', `flock ended with ${code}`));
    });
    child.stdout?.once('data', () => resolve());
    child.stdin?.on('error', () => {
      // The child is gone; its exit says so.
    });
    child.stdin?.write('\n');
  });
}

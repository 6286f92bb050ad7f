import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, rmdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Deadline } from '../../lib/deadline.ts';

/** Where the kernel's controller for the number of tasks may be (cgroups of version 1 and 2). */
const CONTROLLERS = ['/sys/fs/cgroup/pids', '/sys/fs/cgroup'];

/** A group of processes that together may have no more than some tasks, which are processes and threads. */
export class TaskLimit implements Disposable {
  readonly #directory: string;

  private constructor(directory: string) {
    this.#directory = directory;
  }

  /** @returns why there can be none here, for a test to be skipped with */
  static of(tasks: number): TaskLimit | string {
    for (const controller of CONTROLLERS) {
      const directory = join(controller, `kvmha-test-${process.pid}`);
      try {
        mkdirSync(directory);
      } catch {
        continue;
      }
      if (existsSync(join(directory, 'pids.max'))) {
        writeFileSync(join(directory, 'pids.max'), String(tasks));
        return new TaskLimit(directory);
      }
      rmdirSync(directory);
    }
    return 'no group of processes can be limited in its number of tasks here (cgroup controller "pids")';
  }

  /** Runs a command in the group, and gives its exit code, and what it printed on standard error. */
  async run(command: readonly string[]): Promise<{ readonly exitCode: number; readonly stderr: string }> {
    const entered = ['-c', 'echo 0 >"$0/cgroup.procs" && exec "$@"', this.#directory, ...command];
    const child = spawn('/bin/sh', entered, { stdio: ['ignore', 'ignore', 'pipe'] });
    let stderr = '';
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      stderr += text;
    });
    const ended = new Promise<number>((resolve, reject) => {
      child.on('error', reject);
      child.on('close', (code) => resolve(code ?? -1));
    });
    try {
      return { exitCode: await Deadline.in(60_000).race(ended, 'a command in a group of few tasks'), stderr };
    } finally {
      child.kill('SIGKILL');
    }
  }

  [Symbol.dispose](): void {
    rmdirSync(this.#directory);
  }
}

import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { constants } from 'node:os';
import { join } from 'node:path';
import { Deadline } from '../../lib/deadline.ts';

/** What a group of processes may have together. */
export interface Limits {
  /** Processes and threads. */
  readonly tasks?: number;
  /** Bytes, the page cache that they fill among them. */
  readonly memory?: number;
  /** Of the time of one processor, as in 0.05; more than 1 for more than one. */
  readonly processor?: number;
}

/** How a command in a group has ended. */
export interface Ended {
  /** As a shell gives it: 128 and more for a signal. */
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Microseconds after which the kernel gives a group its share of the processor anew. */
const PERIOD = 100_000;

type Files = readonly (readonly [file: string, value: string])[];

/** The files of a controller by the version of its interface (cgroups(7)), with what is written to them. */
const CONTROLLERS: {
  readonly [limit in keyof Limits]-?: {
    readonly directory: string;
    readonly files: (value: number, version: 1 | 2) => Files;
  };
} = {
  tasks: { directory: 'pids', files: (tasks) => [['pids.max', String(tasks)]] },
  memory: {
    directory: 'memory',
    files: (bytes, version) => [
      [version === 1 ? 'memory.limit_in_bytes' : 'memory.max', String(Math.round(bytes))],
    ],
  },
  processor: {
    directory: 'cpu',
    files: (share, version) =>
      version === 1
        ? [
            ['cpu.cfs_period_us', String(PERIOD)],
            ['cpu.cfs_quota_us', String(Math.round(share * PERIOD))],
          ]
        : [['cpu.max', `${Math.round(share * PERIOD)} ${PERIOD}`]],
  },
};

/** Where one controller's group is, with the version of the interface. */
interface Directory {
  readonly path: string;
  readonly version: 1 | 2;
}
type Directories = Map<keyof Limits, Directory>;

const ROOT = '/sys/fs/cgroup';

let groups = 0;

/** A group of processes that together may have no more than so much of something. */
export class ControlGroup implements Disposable {
  readonly #directories: Directories;

  private constructor(directories: Directories) {
    this.#directories = directories;
  }

  /** @returns why there can be none here, for a test to be skipped with */
  static of(limits: Limits): ControlGroup | string {
    const name = `kvmha-test-${process.pid}-${++groups}`;
    const group = new ControlGroup(new Map());
    for (const limit of Object.keys(limits) as (keyof Limits)[]) {
      if (!group.#add(limit, name)) {
        group[Symbol.dispose]();
        return `no group of processes can be limited here (cgroup controller "${CONTROLLERS[limit].directory}")`;
      }
    }
    group.limit(limits);
    return group;
  }

  #add(limit: keyof Limits, name: string): boolean {
    const { directory, files } = CONTROLLERS[limit];
    for (const [path, version] of [
      [join(ROOT, directory, name), 1],
      [join(ROOT, name), 2],
    ] as const) {
      try {
        mkdirSync(path, { recursive: version === 2 && existsSync(path) });
      } catch {
        continue;
      }
      if (files(1, version).every(([file]) => existsSync(join(path, file)))) {
        this.#directories.set(limit, { path, version });
        return true;
      }
      rmdirSync(path);
    }
    return false;
  }

  /** Changes limits that the group was made with. */
  limit(limits: Limits): void {
    for (const [limit, value] of Object.entries(limits) as [keyof Limits, number][]) {
      const { path, version } = this.#directories.get(limit) ?? { path: '', version: 1 };
      for (const [file, text] of CONTROLLERS[limit].files(value, version)) {
        writeFileSync(join(path, file), text);
      }
    }
  }

  /** Moves a process, with all its threads, into the group, until it ends or `release` is called. */
  take(pid: number): void {
    this.#move(pid, ({ path }) => path);
  }

  /** Moves a process out of the group, to where this process is. */
  release(pid: number): void {
    this.#move(pid, ({ version }, limit) => ownDirectory(version, CONTROLLERS[limit].directory));
  }

  #move(pid: number, to: (from: Directory, limit: keyof Limits) => string): void {
    for (const [limit, from] of this.#directories) {
      writeFileSync(join(to(from, limit), 'cgroup.procs'), String(pid));
    }
  }

  /** The command line that runs `command` in the group. */
  command(command: readonly string[]): string[] {
    const paths = [...this.#directories.values()].map(({ path }) => `${path}/cgroup.procs`);
    const enter = paths.map((_, index) => `echo 0 >"$${index + 1}"`);
    const script = [...enter, `shift ${paths.length}`, 'exec "$@"'].join(' && ');
    return ['/bin/sh', '-c', script, 'sh', ...paths, ...command];
  }

  /**
   * Runs a command in the group, and gives its exit code, and what it printed.
   *
   * @throws KvmhaError `deadline` when it has not ended after these milliseconds; it is ended then
   */
  async run(command: readonly string[], milliseconds = 60_000): Promise<Ended> {
    const [program = '', ...args] = this.command(command);
    const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    const printed = { stdout: '', stderr: '' };
    for (const stream of ['stdout', 'stderr'] as const) {
      child[stream].setEncoding('utf8').on('data', (text: string) => {
        printed[stream] += text;
      });
    }
    const ended = new Promise<number>((resolve, reject) => {
      child.on('error', reject);
      child.on('close', (code, signal) =>
        resolve(code ?? 128 + (constants.signals[signal ?? 'SIGKILL'] ?? 0)),
      );
    });
    try {
      return { exitCode: await Deadline.in(milliseconds).race(ended, 'a command in a group'), ...printed };
    } finally {
      child.kill('SIGKILL');
    }
  }

  /** Kills everything that is in the group, and waits until it is gone. */
  async clear(): Promise<void> {
    await Deadline.in(10_000).poll(20, () => {
      const pids = this.#pids();
      for (const pid of pids) {
        try {
          process.kill(pid, 'SIGKILL');
        } catch {
          // It has just ended.
        }
      }
      return pids.length === 0 || undefined;
    });
  }

  #pids(): number[] {
    return [...this.#directories.values()].flatMap(({ path }) =>
      readFileSync(join(path, 'cgroup.procs'), 'utf8').split('\n').filter(Boolean).map(Number),
    );
  }

  [Symbol.dispose](): void {
    for (const { path } of this.#directories.values()) {
      if (existsSync(path)) {
        rmdirSync(path);
      }
    }
  }
}

/** Where this process is itself, by /proc/self/cgroup. */
function ownDirectory(version: 1 | 2, controller: string): string {
  const lines = readFileSync('/proc/self/cgroup', 'utf8').split('\n');
  const own = lines
    .map((line) => line.split(':'))
    .find(([, names]) => (version === 1 ? names?.split(',').includes(controller) : names === ''));
  return join(ROOT, version === 1 ? controller : '', own?.[2] ?? '/');
}

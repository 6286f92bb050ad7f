import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { basename, join, resolve } from 'node:path';
import { errnoOf } from '../../lib/error.ts';

/**
 * What a lab keeps on the host: one directory, and in it only what must be seen from outside. The nodes' disks
 * and the directory they share lie on a tmpfs inside the lab's own mount namespace, so they are gone with it.
 */
export class Layout {
  readonly directory: string;

  constructor(directory: string) {
    this.directory = resolve(directory);
  }

  /** Says that the directory is a lab's, and which process holds the lab (a `Mark`). */
  get mark(): string {
    return join(this.directory, 'lab.json');
  }

  /** Where the power switch listens. */
  get socket(): string {
    return join(this.directory, 'power.sock');
  }

  /** What the power switch did and met. */
  get powerLog(): string {
    return join(this.directory, 'power.log');
  }

  /** What a node's process 1 and its services printed. */
  console(node: string): string {
    return join(this.directory, `${node}.console`);
  }

  /** Holds the pid of the node's process 1 as the host sees it; absent while the node is off. */
  pidFile(node: string): string {
    return join(this.directory, `${node}.pid`);
  }

  /** The mount point of the lab's tmpfs. From the host an empty directory. */
  get inside(): string {
    return join(this.directory, 'inside');
  }

  /** Inside the lab's mount namespace: what every node sees as /shared. */
  get shared(): string {
    return join(this.inside, 'shared');
  }

  /** Inside the lab's mount namespace: the tree of `--install` as an overlay of its own (see power-switch.ts). */
  get install(): string {
    return join(this.inside, 'install');
  }

  /** Inside the lab's mount namespace: what belongs to one node. */
  nodeDirectory(node: string): string {
    return join(this.inside, node);
  }
}

/** Written into the lab's directory. `pid` and `started` together name a process that cannot be mistaken. */
export interface Mark {
  readonly pid: number;
  readonly started: string;
  readonly nodes: readonly string[];
  readonly cluster: boolean;
}

/** A UNIX socket's path has room for 107 bytes; the longest name below the directory is short. */
const LONGEST_DIRECTORY = 90;

/**
 * Makes `layout`'s directory the lab of the process `pid`. What a crashed lab left there is removed; a living lab's
 * and anything that no lab made is left alone.
 *
 * @throws Error when the directory is not free, saying what to do
 */
export function claim(layout: Layout, pid: number, nodes: readonly string[], cluster: boolean): void {
  const { directory } = layout;
  if (Buffer.byteLength(directory) > LONGEST_DIRECTORY || /[:,\\\s]/.test(directory)) {
    throw new Error(
      `${directory} cannot hold a lab: its path must be shorter than ${LONGEST_DIRECTORY} bytes, without spaces, colons, commas and backslashes`,
    );
  }
  mkdirSync(directory, { recursive: true, mode: 0o755 });
  for (;;) {
    const mark = readMark(layout);
    if (mark !== undefined) {
      if (isAlive(mark)) {
        throw new Error(
          `a lab is already up in ${directory} (pid ${mark.pid}): take it down with "lab.ts down --dir ${directory}" or choose another --dir`,
        );
      }
      for (const name of readdirSync(directory)) {
        rmSync(join(directory, name), { recursive: true, force: true });
      }
    }
    const found = readdirSync(directory);
    if (found.length > 0 && found[0] !== basename(layout.mark)) {
      throw new Error(`${directory} is not a lab's and not empty (it has ${found[0]}): choose another --dir`);
    }
    const own: Mark = { pid, started: startTime(pid) ?? '', nodes, cluster };
    try {
      writeFileSync(layout.mark, `${JSON.stringify(own)}\n`, { flag: 'wx' });
      return;
    } catch (error) {
      // Two started at the same moment: the next round sees the winner's mark.
      if (errnoOf(error) !== 'EEXIST') {
        throw error;
      }
    }
  }
}

/** @returns the mark of the lab in `layout`'s directory, undefined when there is none that can be read */
export function readMark(layout: Layout): Mark | undefined {
  try {
    return JSON.parse(readFileSync(layout.mark, 'utf8')) as Mark;
  } catch {
    return undefined;
  }
}

/** Whether the process that `mark` names still runs (and is no other that got its number). */
export function isAlive(mark: Mark): boolean {
  return startTime(mark.pid) === mark.started;
}

/** The start time of a process in clock ticks since boot; undefined when it is gone, all its threads with it. */
function startTime(pid: number): string | undefined {
  try {
    // The name in parentheses may hold anything, so count from the last one: state is field 3, the time field 22.
    const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ').at(-1)?.split(' ') ?? [];
    const isZombie = fields[0] === 'Z' && readdirSync(`/proc/${pid}/task`).length <= 1;
    return isZombie ? undefined : fields[19];
  } catch {
    return undefined;
  }
}

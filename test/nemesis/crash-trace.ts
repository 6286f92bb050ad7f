import assert from 'node:assert/strict';
import { readFileSync, rmSync } from 'node:fs';
import { errnoOf } from '../../lib/error.ts';
import type { LabNode } from '../lab/client.ts';
import { processes } from '../support/host.ts';

/**
 * A moment of an action: right before one of the system calls by which its process changes something outside of
 * itself, or starts another. Between two of them nothing can be told apart from outside, so that these are all moments
 * at which it can die.
 */
export interface CrashPoint {
  readonly call: string;
  /** Which of the calls of this name in the action's main thread, counted from 1. */
  readonly number: number;
  /** As strace(1) shows it. */
  readonly text: string;
  /** Whether something that the action has started was still at work then. */
  readonly hasChildren: boolean;
}

/** What changes files, speaks to another process, signals one or starts one. */
const CALLS = [
  ...['write', 'writev', 'sendto', 'sendmsg', 'kill', 'clone', 'clone3', 'vfork', 'connect'],
  ...['rename', 'renameat', 'renameat2', 'unlink', 'unlinkat', 'mkdir', 'mkdirat', 'rmdir', 'ftruncate'],
  ...['chmod', 'fchmod', 'link', 'symlink', 'mknod', 'mknodat'],
];

/** Wakes another thread of the same process, or starts one: pipes and an eventfd(2) of libuv's, pthread_create(3). */
const INSIDE =
  /, "\\1\\0\\0\\0\\0\\0\\0\\0", 8\)|, "\*", 1\)|, "[^"]*\\0\\0\\0\\0\\21\\0\\0\\0\\0\\0\\0\\0", 16\)|CLONE_THREAD/;

/** Starts another process. */
const STARTS = /^(?:clone|clone3|vfork)\(.* = [1-9]\d*$/;

/** strace(1) of an action's main thread, on one of some nodes. */
export class Trace {
  readonly #nodes: readonly LabNode[];
  readonly #path: string;

  /** @param name of the guest, of which one action is traced at a time */
  constructor(nodes: readonly LabNode[], name: string) {
    this.#nodes = nodes;
    this.#path = `/run/lab/${name}.trace`;
    for (const node of nodes) {
      rmSync(node.path(this.#path), { force: true });
    }
  }

  /** What an action is called under, so that `points` tells its moments. */
  watching(): string[] {
    return ['strace', '-o', this.#path, '-e', `trace=wait4,${CALLS.map((call) => `?${call}`).join(',')}`];
  }

  /** What an action is called under, so that it dies right before a system call. */
  killing({ call, number }: CrashPoint): string[] {
    return this.#injecting(call, `signal=KILL:when=${number}`);
  }

  /** What an action is called under, so that it stands still right after a system call, or before one that may wait. */
  stopping({ call, number }: CrashPoint): string[] {
    return this.#injecting(call, `signal=STOP:when=${number}`);
  }

  #injecting(call: string, what: string): string[] {
    return ['strace', '-o', this.#path, '-e', `trace=${call}`, '-e', `inject=${call}:${what}`];
  }

  get hasKilled(): boolean {
    return this.#text.includes('+++ killed by SIGKILL +++');
  }

  get hasStopped(): boolean {
    return this.#text.includes('--- stopped by SIGSTOP ---');
  }

  /** Lets an action that stands still go on. */
  goOn(): void {
    const tracer = this.#tracer;
    for (const node of this.#nodes) {
      for (const { pid } of processes(node)) {
        if (tracer !== undefined && tracerOf(pid) === tracer) {
          send(pid, 'SIGCONT');
        }
      }
    }
  }

  /** Ends the trace of a process that was there before it, and leaves that process alone. */
  detach(): void {
    const tracer = this.#tracer;
    if (tracer !== undefined) {
      send(tracer, 'SIGINT');
    }
  }

  get #tracer(): number | undefined {
    return this.#nodes
      .flatMap((node) => processes(node))
      .find(({ argv }) => argv[0] === 'strace' && argv.includes(this.#path))?.pid;
  }

  /** The moments of the action that was traced by `watching`, in order. */
  points(): CrashPoint[] {
    const numbers = new Map<string, number>();
    let children = 0;
    const calls = this.#text.split('\n').filter((line) => /^[a-z0-9_]+\(/.test(line));
    return calls.flatMap((text) => {
      const call = text.slice(0, text.indexOf('('));
      const number = (numbers.get(call) ?? 0) + 1;
      numbers.set(call, number);
      const hasChildren = children > 0;
      if (call === 'wait4') {
        children -= / = [1-9]\d*$/.test(text) ? 1 : 0;
        return [];
      }
      if (INSIDE.test(text)) {
        return [];
      }
      children += STARTS.test(text) ? 1 : 0;
      return [{ call, number, text, hasChildren }];
    });
  }

  get #text(): string {
    for (const node of this.#nodes) {
      try {
        return readFileSync(node.path(this.#path), 'utf8');
      } catch (error) {
        assert.equal(errnoOf(error), 'ENOENT');
      }
    }
    return '';
  }
}

/** The process that traces this one, by the numbers of this machine; 0 for none. */
export function tracerOf(pid: number): number {
  try {
    return Number(/^TracerPid:\s*(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? 0);
  } catch {
    return 0; // It has just ended.
  }
}

/** A signal to a process that may just have ended. */
export function send(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch {
    // It has.
  }
}

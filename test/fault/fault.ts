import { readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { errnoOf } from '../../lib/error.ts';
import { buildOnce } from '../lab/build.ts';
import type { LabNode } from '../lab/client.ts';

/** Builds the library once, wherever the tests run. */
function buildFault(): Promise<string> {
  return buildOnce('fault.so', join(import.meta.dirname, 'fault.c'), (source, output) => [
    ...(['cc', '-shared', '-fPIC', '-O2', '-o', output, source, '-ldl'] as const),
  ]);
}

/**
 * Failing storage for the guests of one node whose domain has `faultEnv` in its environment. The same domain on
 * another node is not touched, and a node's reboot mends it.
 */
export class Fault {
  readonly #node: LabNode;
  readonly #name: string;

  /** @param name as given to `faultEnv` */
  constructor(node: LabNode, name = 'fault') {
    this.#node = node;
    this.#name = name;
  }

  /**
   * From now on hurts the files whose path contains `part`, instead of what was hurt before.
   *
   * @param letters W for writes, R for reads, F for flushes; with N they fail for lack of space, with H they hang,
   *   otherwise they fail with an I/O error
   * @param part may not be empty
   */
  set(letters: string, part: string): void {
    this.setAll([[letters, part]]);
  }

  /** As `set`, for several kinds of faults at once; the first that fits a request counts. */
  setAll(rules: readonly (readonly [letters: string, part: string])[]): void {
    const file = this.#node.path(flag(this.#name));
    // In one step, so that no request meets half of it.
    writeFileSync(`${file}.new`, rules.map(([letters, part]) => `${letters} ${part}\n`).join(''));
    renameSync(`${file}.new`, file);
  }

  /** Mends the storage: what hung goes on, what comes succeeds. */
  clear(): void {
    rmSync(this.#node.path(flag(this.#name)), { force: true });
  }

  /** The requests that were hurt so far, in order: a letter and the file's path. */
  hits(): string[] {
    try {
      return readFileSync(this.#node.path(`${flag(this.#name)}.hits`), 'utf8')
        .split('\n')
        .slice(0, -1);
    } catch (error) {
      if (errnoOf(error) === 'ENOENT') {
        return [];
      }
      throw error;
    }
  }
}

/** The variables that put a qemu at the mercy of a `Fault` of the same name. */
export async function faultEnv(name = 'fault'): Promise<Record<string, string>> {
  return { LD_PRELOAD: await buildFault(), FAULT_FLAG: flag(name) };
}

function flag(name: string): string {
  return `/run/lab/${name}`;
}

import { type FSWatcher, readdirSync, statSync, watch } from 'node:fs';
import { join } from 'node:path';
import { errnoOf, messageOf } from '../error.ts';
import { QmpStream } from './qmp-stream.ts';
import type { World } from './world.ts';

/** Milliseconds between two readings of the folder: a notice of the kernel can be missed, the folder replaced. */
const REREAD = 10_000;

/** What a socket's name ends with (lib/guest/sockets.ts says why). */
const SUFFIX = '.pid';

/** One guest, as the watcher's status shows it. */
export interface GuestStatus {
  readonly name: string;
  readonly uuid: string | undefined;
  /** Why nothing is heard of it at this moment. */
  readonly silent: string | undefined;
  /** As it was seen last, by QMP alone. */
  readonly state: string | undefined;
}

/** Follows all guests of a node that have a QMP socket for the watcher. */
export class Watcher {
  readonly #directory: string;
  readonly #world: World;
  readonly #streams = new Map<string, QmpStream>();
  #timer: NodeJS.Timeout | undefined;
  #notices: { readonly watcher: FSWatcher; readonly inode: bigint } | undefined;
  #problem: string | undefined;

  /** @param directory where the sockets are */
  constructor(directory: string, world: World) {
    this.#directory = directory;
    this.#world = world;
  }

  /** Begins to follow every guest that is there, and every one that comes. */
  start(): void {
    this.#timer ??= setInterval(() => this.reread(), REREAD);
    this.reread();
  }

  /** Ends all connections, when what is being done about guests is finished. */
  async stop(): Promise<void> {
    clearInterval(this.#timer);
    this.#notices?.watcher.close();
    await Promise.all([...this.#streams.values()].map((stream) => stream.stop()));
  }

  /** Looks for guests that have come. */
  reread(): void {
    try {
      this.#subscribe();
      for (const file of readdirSync(this.#directory)) {
        if (file.endsWith(SUFFIX)) {
          this.#add(file.slice(0, -SUFFIX.length), join(this.#directory, file));
        }
      }
      this.#problem = undefined;
    } catch (error) {
      const problem = messageOf(error);
      if (problem !== this.#problem) {
        this.#world.log.err(`${this.#directory} cannot be read: ${problem}`);
      }
      this.#problem = problem;
    }
  }

  /** Looks at every guest that is followed. */
  lookAtAll(): void {
    for (const stream of this.#streams.values()) {
      stream.guest?.look();
    }
  }

  status(): GuestStatus[] {
    return [...this.#streams.values()].map((stream) => ({
      name: stream.name,
      uuid: stream.guest?.uuid,
      silent: stream.silent,
      state: stream.guest?.classification?.state,
    }));
  }

  /** Asks the kernel for notices about the folder that is there now. */
  #subscribe(): void {
    const inode = statSync(this.#directory, { bigint: true }).ino;
    if (this.#notices?.inode === inode) {
      return;
    }
    this.#notices?.watcher.close();
    const watcher = watch(this.#directory, { persistent: false }, (_, file) => {
      if (file?.endsWith(SUFFIX) && exists(join(this.#directory, file))) {
        this.#add(file.slice(0, -SUFFIX.length), join(this.#directory, file));
      }
    });
    // Then the folder is read less often, and found again when it is another one.
    watcher.on('error', () => watcher.close());
    this.#notices = { watcher, inode };
  }

  #add(name: string, path: string): void {
    if (this.#streams.has(name)) {
      return;
    }
    const stream = new QmpStream(name, path, this.#world);
    this.#streams.set(name, stream);
    stream.run().then(
      () => this.#streams.delete(name),
      (error: unknown) => {
        this.#streams.delete(name);
        this.#world.log.err(`${name} is not followed any more: ${messageOf(error)}`);
        this.#world.log.debug(error instanceof Error ? (error.stack ?? '') : '');
      },
    );
  }
}

function exists(path: string): boolean {
  try {
    statSync(path);
    return true;
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') {
      return false;
    }
    throw error;
  }
}

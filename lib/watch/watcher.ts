import { type FSWatcher, readdirSync, statSync, watch } from 'node:fs';
import { join } from 'node:path';
import { errnoOf, messageOf } from '../error.ts';
import { domainOfSocket, socketFile } from '../guest/sockets.ts';
import { LibvirtStream } from './libvirt-stream.ts';
import { QmpStream } from './qmp-stream.ts';
import type { World } from './world.ts';

/** Milliseconds between two readings of the folder: a notice of the kernel can be missed, the folder replaced. */
const REREAD = 10_000;

/** One guest, as the watcher's status shows it. */
export interface GuestStatus {
  readonly name: string;
  readonly uuid: string | undefined;
  /** How it is followed. */
  readonly by: 'qmp' | 'libvirt';
  /** Why nothing is heard of it at this moment. */
  readonly silent: string | undefined;
  /** As it was seen last, by QMP alone. */
  readonly state: string | undefined;
}

/**
 * Follows the guests of a node: all that have a QMP socket for the watcher, and by libvirt those without one that a
 * resource runs.
 */
export class Watcher {
  readonly #directory: string;
  readonly #world: World;
  /** By the file of the socket. */
  readonly #streams = new Map<string, QmpStream>();
  /** By the URI of libvirt. */
  readonly #libvirts = new Map<string, LibvirtStream>();
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
    const streams = [...this.#streams.values(), ...this.#libvirts.values()];
    await Promise.all(streams.map((stream) => stream.stop()));
  }

  /** Looks for guests that have come. */
  reread(): void {
    try {
      this.#subscribe();
      for (const file of readdirSync(this.#directory)) {
        this.#add(file);
      }
      this.#problem = undefined;
    } catch (error) {
      const problem = messageOf(error);
      if (problem !== this.#problem) {
        this.#world.log.err(`${this.#directory} cannot be read: ${problem}`);
      }
      this.#problem = problem;
    }
    this.#followByLibvirt();
  }

  /** Looks at every guest that is followed. */
  lookAtAll(): void {
    for (const stream of this.#streams.values()) {
      stream.guest?.look();
    }
    for (const stream of this.#libvirts.values()) {
      stream.lookAtAll();
    }
  }

  status(): GuestStatus[] {
    const bySocket = [...this.#streams.values()].map(
      ({ name, guest, silent }): GuestStatus => ({
        name,
        uuid: guest?.uuid,
        by: 'qmp',
        silent,
        state: guest?.classification?.state,
      }),
    );
    const byLibvirt = [...this.#libvirts.values()].flatMap(({ guests, silent }) =>
      guests.map(
        ({ name, uuid, classification }): GuestStatus => ({
          name,
          uuid,
          by: 'libvirt',
          silent,
          state: classification?.state,
        }),
      ),
    );
    return [...bySocket, ...byLibvirt];
  }

  #followByLibvirt(): void {
    const without = this.#world.guests().filter(({ name }) => !this.#streams.has(socketFile(name)));
    const uris = new Set([...this.#libvirts.keys(), ...without.map(({ hypervisor }) => hypervisor)]);
    for (const uri of uris) {
      const guests = without.filter(({ hypervisor }) => hypervisor === uri);
      const stream = this.#libvirts.get(uri) ?? this.#addLibvirt(uri);
      stream.follow(guests);
      if (guests.length === 0) {
        this.#libvirts.delete(uri);
        void stream.stop();
      }
    }
  }

  #addLibvirt(uri: string): LibvirtStream {
    const stream = new LibvirtStream(uri, this.#world);
    this.#libvirts.set(uri, stream);
    void stream.run();
    return stream;
  }

  /** Asks the kernel for notices about the folder that is there now. */
  #subscribe(): void {
    const inode = statSync(this.#directory, { bigint: true }).ino;
    if (this.#notices?.inode === inode) {
      return;
    }
    this.#notices?.watcher.close();
    const watcher = watch(this.#directory, { persistent: false }, (_, file) => {
      if (file !== null && exists(join(this.#directory, file))) {
        this.#add(file);
      }
    });
    // Then the folder is read less often, and found again when it is another one.
    watcher.on('error', () => watcher.close());
    this.#notices = { watcher, inode };
  }

  #add(file: string): void {
    const domain = domainOfSocket(file);
    if (domain === undefined || this.#streams.has(file)) {
      return;
    }
    const stream = new QmpStream(domain.name, join(this.#directory, file), this.#world);
    this.#streams.set(file, stream);
    stream.run().then(
      () => this.#streams.delete(file),
      (error: unknown) => {
        this.#streams.delete(file);
        this.#world.log.err(`${stream.name} is not followed any more: ${messageOf(error)}`);
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

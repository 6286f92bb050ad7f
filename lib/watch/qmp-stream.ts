import { basename } from 'node:path';
import { Deadline, sleep } from '../deadline.ts';
import { isKvmhaError, KvmhaError, messageOf } from '../error.ts';
import { socketFile } from '../guest/sockets.ts';
import { isObject, type QmpEvent, QmpSocket } from '../qemu/qmp.ts';
import { WatchedGuest } from './watched-guest.ts';
import type { World } from './world.ts';

/** Milliseconds in which QEMU must greet who connects. */
const PATIENCE = 8000;

/** Milliseconds between two looks at a guest of which nothing is heard: an event can be lost, and QEMU can hang. */
const HEARTBEAT = 30_000;

/** Milliseconds between two attempts to connect to a QEMU that does not answer, at first and at last. */
const FIRST_PAUSE = 100;
const LAST_PAUSE = 10_000;

/** How often nobody may listen before the socket is taken for a dead qemu's: it exists before anybody listens. */
const MOST_REFUSALS = 5;

/** Follows one guest by the events on its own QMP socket, for as long as its qemu is there. */
export class QmpStream {
  readonly path: string;
  readonly #name: string | undefined;
  readonly #world: World;
  readonly #stopped: Promise<void>;
  #stop: () => void = () => {};
  #isStopped = false;
  #session: QmpSocket | undefined;
  #guest: WatchedGuest | undefined;
  #silent: string | undefined;

  /** @param name the domain's; undefined where only its QEMU can tell */
  constructor(name: string | undefined, path: string, world: World) {
    this.#name = name;
    this.path = path;
    this.#world = world;
    this.#stopped = new Promise((resolve) => {
      this.#stop = resolve;
    });
  }

  /** The domain's name; that of its socket until its QEMU has told it. */
  get name(): string {
    return this.#name ?? this.#guest?.name ?? basename(this.path);
  }

  /** The guest, once its QEMU has said who it is. */
  get guest(): WatchedGuest | undefined {
    return this.#guest;
  }

  /** Why its QEMU is not listened to at this moment; undefined if it is. */
  get silent(): string | undefined {
    return this.#session === undefined ? (this.#silent ?? 'not connected yet') : undefined;
  }

  /** Resolves when nobody listens at the socket any more, or after `stop`. */
  async run(): Promise<void> {
    let failures = 0;
    let refusals = 0;
    while (!this.#isStopped && refusals < MOST_REFUSALS) {
      try {
        await this.#follow(() => {
          failures = 0;
          refusals = 0;
        });
      } catch (error) {
        if (!isKvmhaError(error)) {
          throw error;
        }
        if (error.code === 'unreachable') {
          refusals += 1;
        } else {
          failures += 1;
          refusals = 0;
        }
        this.#hearNothing(messageOf(error));
      }
      const pause = Math.min(FIRST_PAUSE * 2 ** failures, LAST_PAUSE);
      await Promise.race([sleep(pause), this.#stopped]);
    }
  }

  /** Ends the connection. What is being done about the guest is finished first. */
  async stop(): Promise<void> {
    this.#isStopped = true;
    this.#stop();
    await this.#guest?.idle();
    this.#session?.close();
  }

  /** One connection. @throws KvmhaError when it could not be made */
  async #follow(onConnected: () => void): Promise<void> {
    const early: QmpEvent[] = [];
    const hear = (event: QmpEvent) => {
      if (this.#session === undefined) {
        early.push(event);
      } else {
        this.#guest?.hear(event);
      }
    };
    const session = await QmpSocket.connect(this.path, Deadline.in(PATIENCE), hear);
    try {
      const uuid = await uuidOf(session);
      if (this.#guest?.uuid !== uuid) {
        const name = this.#name ?? (await nameOf(session, basename(this.path)));
        this.#guest = new WatchedGuest({ name, uuid }, this.#world);
      }
      const guest = this.#guest;
      this.#session = session;
      this.#silent = undefined;
      onConnected();
      this.#world.log.debug(`${this.name}: listening to its QEMU`);
      guest.connected(session);
      for (const event of early) {
        guest.hear(event);
      }
      const heartbeat = setInterval(() => guest.look(), HEARTBEAT);
      try {
        const ended = await Promise.race([session.ended, this.#stopped]);
        if (ended !== undefined) {
          this.#hearNothing(messageOf(ended));
        }
      } finally {
        clearInterval(heartbeat);
        guest.disconnected();
      }
      if (this.#isStopped) {
        await guest.idle();
      }
    } finally {
      this.#session = undefined;
      session.close();
    }
  }

  /** Said once, and not at each attempt to connect. */
  #hearNothing(why: string): void {
    if (this.#silent === undefined) {
      this.#world.log.debug(`${this.name}: its QEMU is not heard: ${why}`);
    }
    this.#silent = why;
  }
}

async function uuidOf(session: QmpSocket): Promise<string> {
  const answer = await session.execute('query-uuid', {}, Deadline.in(PATIENCE));
  if (!isObject(answer) || typeof answer['UUID'] !== 'string') {
    throw new KvmhaError('protocol', 'query-uuid: the answer lacks "UUID"');
  }
  return answer['UUID'].toLowerCase();
}

/** @throws KvmhaError `protocol` too where QEMU tells a name whose socket would not be called `file` */
async function nameOf(session: QmpSocket, file: string): Promise<string> {
  const answer = await session.execute('query-name', {}, Deadline.in(PATIENCE));
  const name = isObject(answer) ? answer['name'] : undefined;
  if (typeof name !== 'string' || socketFile(name) !== file) {
    throw new KvmhaError('protocol', `query-name: ${JSON.stringify(name)} is not the domain of this socket`);
  }
  return name;
}

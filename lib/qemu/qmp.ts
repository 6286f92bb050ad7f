import { type Deadline, sleep } from '../deadline.ts';
import { errnoOf, isKvmhaError, KvmhaError, messageOf } from '../error.ts';
import { openUnixSocket, type UnixSocket } from './unix-socket.ts';

export type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json };

/** An asynchronous message of QEMU (docs/interop/qmp-spec: `event`, `data`, `timestamp`). */
export interface QmpEvent {
  readonly event: string;
  readonly data: { readonly [key: string]: Json };
  /** When it happened, in milliseconds since the epoch; undefined where QEMU does not say. */
  readonly time: number | undefined;
}

/** QEMU refused a command. `class` is QAPI's error class: GenericError, CommandNotFound, ... */
export class QmpError extends KvmhaError {
  readonly class: string;

  constructor(command: string, errorClass: string, description: string) {
    super('qmp-error', `${command}: ${description}`);
    this.class = errorClass;
  }

  /** @param error what stands under `error` in the reply to `command` */
  static from(command: string, error: { readonly [key: string]: Json }): QmpError {
    const { class: errorClass, desc } = error;
    return new QmpError(
      command,
      typeof errorClass === 'string' ? errorClass : 'GenericError',
      typeof desc === 'string' ? desc : `QEMU does not say why not: ${JSON.stringify(error).slice(0, 200)}`,
    );
  }
}

/** Something that passes QMP commands to one guest's QEMU: its own socket, or libvirt. */
export interface Monitor {
  /**
   * Executes one QMP command.
   *
   * @returns the reply's `return` value, unchecked
   * @throws QmpError when QEMU refuses, KvmhaError `deadline` when it does not answer in time, `protocol`
   *   when the connection ends or speaks something else
   */
  execute(command: string, args: { readonly [key: string]: Json }, deadline: Deadline): Promise<Json>;
  close(): void;
}

/** Milliseconds between two attempts to get into the queue for a monitor. */
const QUEUE_PAUSE = 20;

/** No QMP reply of ours comes near this; a peer that sends more is not QEMU. */
const MAX_MESSAGE_BYTES = 16 * 1024 * 1024;

interface Waiting {
  readonly id: number;
  readonly command: string;
  readonly resolve: (value: Json) => void;
  readonly reject: (error: KvmhaError) => void;
}

const NEWLINE = 0x0a;

/**
 * A QMP session over a UNIX socket (`-mon mode=control`), greeted and with capabilities negotiated. Commands may be
 * sent before the answers to others have come: QEMU executes and answers them in turn (docs/interop/qmp-spec).
 */
export class QmpSocket implements Monitor {
  readonly #socket: UnixSocket;
  readonly #onEvent: ((event: QmpEvent) => void) | undefined;
  /** Resolves with the reason when the session has ended, by whoever. */
  readonly ended: Promise<KvmhaError>;
  #tellEnd: (error: KvmhaError) => void = () => {};
  /** What has come of a message that has not ended yet, and how many bytes these are. */
  #received: Uint8Array[] = [];
  #length = 0;
  #nextId = 1;
  #ended: KvmhaError | undefined;
  /** Commands without an answer, in the order in which they were sent. */
  readonly #waiting: Waiting[] = [];
  /** One of these whose answer nobody waits for any more. */
  #overdue: string | undefined;
  #greeted: () => void = () => {};
  #refused: (error: KvmhaError) => void = () => {};

  private constructor(path: string, onEvent: ((event: QmpEvent) => void) | undefined) {
    this.#onEvent = onEvent;
    this.ended = new Promise((resolve) => {
      this.#tellEnd = resolve;
    });
    this.#socket = openUnixSocket(path, {
      received: (bytes) => this.#receive(bytes),
      ended: (error) =>
        this.#end(
          error === undefined
            ? new KvmhaError('protocol', 'QEMU closed the QMP connection')
            : connectionError(error),
        ),
    });
  }

  /**
   * Connects, reads the greeting and negotiates capabilities.
   *
   * @param path of the socket
   * @param onEvent called for every event from now on
   * @throws KvmhaError `unreachable` when nobody listens at `path`, `deadline` when no greeting came (QEMU
   *   serves one client per monitor, and greets nobody while its main loop hangs), `protocol`
   */
  static async connect(
    path: string,
    deadline: Deadline,
    onEvent?: (event: QmpEvent) => void,
  ): Promise<QmpSocket> {
    for (;;) {
      try {
        return await QmpSocket.#connectOnce(path, deadline, onEvent);
      } catch (error) {
        // Others wait already for QEMU to be done with its client, and its queue is short.
        if (!(error instanceof KvmhaError && errnoOf(error.cause) === 'EAGAIN') || deadline.passed()) {
          throw error;
        }
        await sleep(Math.min(QUEUE_PAUSE, deadline.remaining()));
      }
    }
  }

  static async #connectOnce(
    path: string,
    deadline: Deadline,
    onEvent: ((event: QmpEvent) => void) | undefined,
  ): Promise<QmpSocket> {
    const session = new QmpSocket(path, onEvent);
    try {
      const greeting = new Promise<void>((resolve, reject) => {
        session.#greeted = resolve;
        session.#refused = reject;
        if (session.#ended !== undefined) {
          reject(session.#ended);
        }
      });
      await deadline.race(greeting, `the QMP greeting at ${path}`);
      // Its answer need not be awaited: nothing that is sent after it is answered before it.
      session.#send('qmp_capabilities', {}).catch((error: KvmhaError) => session.#end(error));
      return session;
    } catch (error) {
      session.close();
      throw error;
    }
  }

  execute(command: string, args: { readonly [key: string]: Json }, deadline: Deadline): Promise<Json> {
    if (this.#ended !== undefined) {
      return Promise.reject(this.#ended);
    }
    if (this.#overdue !== undefined) {
      return Promise.reject(
        new KvmhaError('protocol', `${command}: the answer to ${this.#overdue} is still awaited`),
      );
    }
    return this.#unlessOverdue(command, this.#send(command, args), deadline);
  }

  async #unlessOverdue(command: string, reply: Promise<Json>, deadline: Deadline): Promise<Json> {
    try {
      return await deadline.race(reply, `QEMU to answer ${command}`);
    } catch (error) {
      if (isKvmhaError(error, 'deadline')) {
        this.#overdue = command;
      }
      throw error;
    }
  }

  #send(command: string, args: { readonly [key: string]: Json }): Promise<Json> {
    const id = this.#nextId++;
    return new Promise<Json>((resolve, reject) => {
      this.#waiting.push({ id, command, resolve, reject });
      this.#socket.write(`${JSON.stringify({ execute: command, arguments: args, id })}\r\n`);
    });
  }

  close(): void {
    this.#end(new KvmhaError('protocol', 'the QMP connection was closed'));
    this.#socket.destroy();
  }

  #receive(bytes: Uint8Array): void {
    let from = 0;
    for (let end = bytes.indexOf(NEWLINE); end >= 0; end = bytes.indexOf(NEWLINE, from)) {
      this.#received.push(bytes.subarray(from, end));
      const line = Buffer.concat(this.#received).toString('utf8');
      this.#received = [];
      this.#length = 0;
      from = end + 1;
      if (line.trim() !== '') {
        this.#take(line);
      }
      if (this.#ended !== undefined) {
        return;
      }
    }
    this.#received.push(bytes.subarray(from));
    this.#length += bytes.length - from;
    if (this.#length > MAX_MESSAGE_BYTES) {
      this.#received = [];
      this.#fail('sent a message without end');
    }
  }

  #take(line: string): void {
    let message: Json;
    try {
      message = JSON.parse(line) as Json;
    } catch {
      this.#fail('sent something that is not JSON');
      return;
    }
    if (!isObject(message)) {
      this.#fail('sent something that is not a QMP message');
    } else if ('QMP' in message) {
      this.#greeted();
    } else if (typeof message['event'] === 'string') {
      this.#onEvent?.(eventOf(message['event'], message));
    } else {
      this.#answer(message);
    }
  }

  #answer(message: { readonly [key: string]: Json }): void {
    const [waiting] = this.#waiting;
    if (waiting === undefined || message['id'] !== waiting.id) {
      this.#fail('answered a question that was not asked');
      return;
    }
    this.#waiting.shift();
    if (this.#waiting.length === 0) {
      this.#overdue = undefined;
    }
    const error = message['error'];
    if (isObject(error)) {
      waiting.reject(QmpError.from(waiting.command, error));
    } else if ('return' in message) {
      waiting.resolve(message['return'] as Json);
    } else {
      waiting.reject(
        new KvmhaError('protocol', `${waiting.command}: the reply has neither return nor error`),
      );
    }
  }

  #fail(what: string): void {
    this.#end(new KvmhaError('protocol', `the QMP peer ${what}`));
    this.#socket.destroy();
  }

  #end(error: KvmhaError): void {
    this.#ended ??= error;
    this.#tellEnd(this.#ended);
    this.#refused(this.#ended);
    for (const { reject } of this.#waiting.splice(0)) {
      reject(this.#ended);
    }
  }
}

function eventOf(event: string, message: { readonly [key: string]: Json }): QmpEvent {
  const { data, timestamp } = message;
  const [seconds, microseconds] = isObject(timestamp)
    ? [timestamp['seconds'], timestamp['microseconds']]
    : [undefined, undefined];
  // QEMU says -1 where it could not read the clock.
  const time =
    typeof seconds === 'number' && typeof microseconds === 'number' && seconds >= 0
      ? seconds * 1000 + microseconds / 1000
      : undefined;
  return { event, data: isObject(data) ? data : {}, time };
}

/** Whether a QMP value is an object. */
export function isObject(value: Json | undefined): value is { readonly [key: string]: Json } {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function connectionError(error: Error): KvmhaError {
  const errno = errnoOf(error);
  const absent =
    errno === 'ENOENT' || errno === 'ECONNREFUSED' || errno === 'ENOTSOCK' || errno === 'ENOTDIR';
  return new KvmhaError(absent ? 'unreachable' : 'protocol', `QMP socket: ${messageOf(error)}`, {
    cause: error,
  });
}

import { createConnection, type Socket } from 'node:net';
import { type Deadline, sleep } from '../deadline.ts';
import { errnoOf, KvmhaError, messageOf } from '../error.ts';

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

/** A QMP session over a UNIX socket (`-mon mode=control`), greeted and with capabilities negotiated. */
export class QmpSocket implements Monitor {
  readonly #socket: Socket;
  readonly #onEvent: ((event: QmpEvent) => void) | undefined;
  /** Resolves with the reason when the session has ended, by whoever. */
  readonly ended: Promise<KvmhaError>;
  #tellEnd: (error: KvmhaError) => void = () => {};
  /** What has come of a message that has not ended yet, and how many characters these are. */
  #received: string[] = [];
  #length = 0;
  #nextId = 1;
  #ended: KvmhaError | undefined;
  #waiting: Waiting | undefined;
  #greeted: () => void = () => {};
  #refused: (error: KvmhaError) => void = () => {};

  private constructor(socket: Socket, onEvent: ((event: QmpEvent) => void) | undefined) {
    this.#socket = socket;
    this.#onEvent = onEvent;
    this.ended = new Promise((resolve) => {
      this.#tellEnd = resolve;
    });
    socket.setEncoding('utf8');
    socket.on('data', (text: string) => this.#receive(text));
    socket.on('error', (error) => this.#end(connectionError(error)));
    socket.on('close', () => this.#end(new KvmhaError('protocol', 'QEMU closed the QMP connection')));
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
    const session = new QmpSocket(createConnection(path), onEvent);
    try {
      const greeting = new Promise<void>((resolve, reject) => {
        session.#greeted = resolve;
        session.#refused = reject;
        if (session.#ended !== undefined) {
          reject(session.#ended);
        }
      });
      await deadline.race(greeting, `the QMP greeting at ${path}`);
      await session.execute('qmp_capabilities', {}, deadline);
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
    if (this.#waiting !== undefined) {
      return Promise.reject(
        new KvmhaError('protocol', `${command}: the answer to ${this.#waiting.command} is still awaited`),
      );
    }
    const id = this.#nextId++;
    const reply = new Promise<Json>((resolve, reject) => {
      this.#waiting = { id, command, resolve, reject };
      this.#socket.write(`${JSON.stringify({ execute: command, arguments: args, id })}\r\n`);
    });
    return deadline.race(reply, `QEMU to answer ${command}`);
  }

  close(): void {
    this.#end(new KvmhaError('protocol', 'the QMP connection was closed'));
    this.#socket.destroy();
  }

  #receive(text: string): void {
    let from = 0;
    for (let end = text.indexOf('\n'); end >= 0; end = text.indexOf('\n', from)) {
      this.#received.push(text.slice(from, end));
      const line = this.#received.join('');
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
    this.#received.push(text.slice(from));
    this.#length += text.length - from;
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
    const waiting = this.#waiting;
    if (waiting === undefined || message['id'] !== waiting.id) {
      this.#fail('answered a question that was not asked');
      return;
    }
    this.#waiting = undefined;
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
    this.#waiting?.reject(this.#ended);
    this.#waiting = undefined;
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

import { chmodSync, mkdirSync, rmSync } from 'node:fs';
import { createConnection, createServer, type Server } from 'node:net';
import { dirname, join } from 'node:path';
import type { Deadline } from '../deadline.ts';
import { errnoOf, isKvmhaError, KvmhaError, messageOf } from '../error.ts';
import { isAlive, type ProcessIdentity } from '../linux/process.ts';
import { STATE_DIRECTORY } from '../record/directory.ts';
import { readJsonFile, removeFile, writeJsonFile } from '../record/json-file.ts';
import type { HostStatus } from './host-watch.ts';
import type { GuestStatus } from './watcher.ts';

/** Held by the watcher of this node; there is one. */
export const LOCK = join(STATE_DIRECTORY, 'watch.lock');

const SOCKET = join(STATE_DIRECTORY, 'watch.sock');
const PID_FILE = join(STATE_DIRECTORY, 'watch.json');

/** More than a node's guests need. */
const MAX_BYTES = 4 * 1024 * 1024;

/** What the watcher says of itself. */
export interface Status {
  readonly watcher: ProcessIdentity;
  readonly version: string;
  /** Since when it watches (ISO 8601). */
  readonly since: string;
  readonly guests: readonly GuestStatus[];
  /** How it hears of errors of the host, and what the node's health is. */
  readonly host: HostStatus;
}

/** Tells whoever connects to the watcher's socket how it is, and that it is: an answer needs a main loop that turns. */
export class StatusServer {
  readonly #server: Server;

  private constructor(server: Server) {
    this.#server = server;
  }

  /**
   * Begins to answer. The caller holds the lock, so what is there is left from a watcher that has died.
   *
   * @throws KvmhaError `file`
   */
  static async listen(status: () => Status): Promise<StatusServer> {
    const server = createServer((socket) => {
      socket.on('error', () => socket.destroy());
      socket.end(`${JSON.stringify(status())}\n`);
    });
    try {
      mkdirSync(dirname(SOCKET), { recursive: true, mode: 0o700 });
      rmSync(SOCKET, { force: true });
      await new Promise<void>((resolve, reject) => {
        server.once('error', reject);
        server.listen(SOCKET, resolve);
      });
      chmodSync(SOCKET, 0o600);
    } catch (cause) {
      throw new KvmhaError('file', `${SOCKET} cannot be made: ${messageOf(cause)}`, { cause });
    }
    writeJsonFile(PID_FILE, status().watcher);
    return new StatusServer(server);
  }

  close(): void {
    removeFile(PID_FILE);
    this.#server.close();
  }
}

/**
 * The process of this node's watcher, as it has put it down.
 *
 * @returns undefined when none runs
 * @throws KvmhaError `file`
 */
export function watcherProcess(): ProcessIdentity | undefined {
  let identity: ProcessIdentity | undefined;
  try {
    identity = readJsonFile(PID_FILE, isIdentity);
  } catch (error) {
    if (!isKvmhaError(error, 'malformed')) {
      throw error;
    }
  }
  return identity !== undefined && isAlive(identity) ? identity : undefined;
}

/**
 * Asks the watcher how it is.
 *
 * @throws KvmhaError `unreachable` when none runs, `deadline`, `protocol`
 */
export async function askStatus(deadline: Deadline): Promise<Status> {
  const socket = createConnection(SOCKET);
  const answer = new Promise<string>((resolve, reject) => {
    let text = '';
    socket.setEncoding('utf8').on('data', (chunk: string) => {
      text += chunk;
      if (text.length > MAX_BYTES) {
        socket.destroy();
      }
    });
    socket.on('error', (cause) => {
      const absent = errnoOf(cause) === 'ENOENT' || errnoOf(cause) === 'ECONNREFUSED';
      reject(
        new KvmhaError(absent ? 'unreachable' : 'protocol', `${SOCKET}: ${messageOf(cause)}`, { cause }),
      );
    });
    socket.on('close', () => resolve(text));
  });
  try {
    const status: unknown = JSON.parse(await deadline.race(answer, 'the watcher to say how it is'));
    if (!isStatus(status)) {
      throw new KvmhaError('protocol', `${SOCKET}: that is no watcher's answer`);
    }
    return status;
  } catch (cause) {
    if (cause instanceof SyntaxError) {
      throw new KvmhaError('protocol', `${SOCKET}: the answer is not JSON`, { cause });
    }
    throw cause;
  } finally {
    socket.destroy();
  }
}

function isIdentity(value: unknown): value is ProcessIdentity {
  const identity = value as Partial<ProcessIdentity> | null;
  return typeof identity?.pid === 'number' && typeof identity.startTime === 'number';
}

function isStatus(value: unknown): value is Status {
  const status = value as Partial<Status> | null;
  return isIdentity(status?.watcher) && Array.isArray(status?.guests);
}

import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { Deadline } from '../../lib/deadline.ts';
import type { LabNode } from '../lab/client.ts';

const TIMEOUT = 10_000;
const REQUESTS = { read: 'pread', write: 'pwrite', trim: 'trim', zero: 'zero' } as const;

export type NbdRequest = keyof typeof REQUESTS;

export interface NbdOptions {
  /** Also the name of its files below /run/lab in the node. */
  readonly name?: string;
  /** What requests fail with. */
  readonly error?: 'EIO' | 'ENOSPC';
  /** The port of 127.0.0.1 to listen at, instead of a UNIX socket. */
  readonly port?: number;
}

/**
 * A raw image served over NBD by nbdkit, whose requests can be made to fail or hang: failing storage of another
 * kind than `Fault`, which needs nothing in the guest's own process. Flushes cannot be made to fail.
 */
export class NbdServer implements AsyncDisposable {
  readonly #node: LabNode;
  readonly #base: string;
  readonly #port: number | undefined;
  #command: readonly [string, ...string[]] = ['false'];

  private constructor(node: LabNode, base: string, port: number | undefined) {
    this.#node = node;
    this.#base = base;
    this.#port = port;
  }

  /** Serves the node's file `image` in the node. */
  static async start(node: LabNode, image: string, options: NbdOptions = {}): Promise<NbdServer> {
    const { name = 'nbd', error = 'EIO', port } = options;
    const server = new NbdServer(node, `/run/lab/${name}`, port);
    server.mend();
    const rules = Object.values(REQUESTS).flatMap((request) => [
      ...[`error-${request}=${error}`, `error-${request}-rate=100%`],
      `error-${request}-file=${server.#flag(request)}`,
    ]);
    const listening =
      port === undefined ? ['--unix', server.socket] : ['--ipaddr', '127.0.0.1', '--port', String(port)];
    server.#command = [
      'nbdkit',
      ...[...listening, '--pidfile', `${server.#base}.pid`],
      ...['--filter=log', '--filter=pause', '--filter=error'],
      ...['file', image, `logfile=${server.#base}.log`, 'logappend=true'],
      ...[`pause-control=${server.#base}.pause`, ...rules],
    ];
    // It goes into the background when it listens.
    await node.check(server.#command, { timeout: TIMEOUT });
    return server;
  }

  /** For `nbd` of a disk of `domainXml`. */
  get address(): string {
    return this.#port === undefined ? this.socket : `127.0.0.1:${this.#port}`;
  }

  get socket(): string {
    return `${this.#base}.sock`;
  }

  /** From now on fails these kinds of requests, and no others. */
  fail(...requests: NbdRequest[]): void {
    this.mend();
    for (const request of requests) {
      writeFileSync(this.#node.path(this.#flag(REQUESTS[request])), '');
    }
  }

  /** From now on fails nothing. */
  mend(): void {
    for (const request of Object.values(REQUESTS)) {
      rmSync(this.#node.path(this.#flag(request)), { force: true });
    }
  }

  /** How many flushes were asked for so far. */
  flushes(): number {
    return this.log().match(/ Flush /g)?.length ?? 0;
  }

  /** What it has served: a line when a connection or a request begins, and one when it ends. */
  log(): string {
    return readFileSync(this.#node.path(`${this.#base}.log`), 'utf8');
  }

  /** Lets every request hang, once those under way are done. */
  async pause(): Promise<void> {
    await this.#control('p', 'P');
  }

  /** Ends `pause`: what hung goes on. */
  async resume(): Promise<void> {
    await this.#control('r', 'R');
  }

  /** A shell's script that does to it what a fault would, as a blow in the middle of something. */
  script(fault: 'dies' | 'hangs' | 'is replaced'): string {
    const kill = `pid=$(cat ${this.#base}.pid); kill -9 $pid; while kill -0 $pid; do sleep 0.01; done; rm -f ${this.#base}.pid ${this.socket} ${this.#base}.pause`;
    switch (fault) {
      case 'dies':
        return kill;
      case 'hangs':
        return `kill -STOP $(cat ${this.#base}.pid)`;
      case 'is replaced':
        return `${kill}; ${this.#command.map((word) => `'${word}'`).join(' ')}`;
    }
  }

  /** Ends the hanging of `script`. */
  async wake(): Promise<void> {
    await this.#node.check(['sh', '-c', `kill -CONT $(cat ${this.#base}.pid)`], { timeout: TIMEOUT });
  }

  /** Ends the server, for its clients like the end of a connection. */
  async stop(): Promise<void> {
    const script = `pid=$(cat ${this.#base}.pid) && kill $pid && kill -CONT $pid; rm -f ${this.#base}.*`;
    await this.#node.exec(['sh', '-c', script], { timeout: TIMEOUT });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#node.isOn) {
      await this.stop();
    }
  }

  #flag(request: string): string {
    return `${this.#base}.${request}`;
  }

  async #control(order: string, acknowledgement: string): Promise<void> {
    const connection = connect(this.#node.path(`${this.#base}.pause`));
    try {
      const answer = new Promise<string>((resolve, reject) => {
        connection.setEncoding('utf8');
        connection.on('connect', () => connection.write(order));
        connection.on('data', resolve);
        connection.on('error', reject);
        connection.on('close', () => reject(new Error('nbdkit hung up')));
      });
      const said = await Deadline.in(TIMEOUT).race(answer, 'nbdkit to pause or resume');
      if (said !== acknowledgement) {
        throw new Error(`nbdkit answered "${said}" to "${order}"`);
      }
    } finally {
      connection.destroy();
    }
  }
}

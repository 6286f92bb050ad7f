import { globSync, readFileSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { basename, join } from 'node:path';

/** Where test/watch/record.ts has put what real QEMUs said, by version. */
const DIRECTORY = join(import.meta.dirname, '../unit/watch/recorded');

/** One recorded QMP session. */
export interface Recording {
  readonly qemu: string;
  /** What happened to the guest: the file's name. */
  readonly name: string;
  /** All lines, as they came. */
  readonly lines: readonly string[];
}

/** What was recorded of every QEMU, or of one kind of happening. */
export function recordings(name = '*'): Recording[] {
  return globSync(`qemu-*/${name}.qmp`, { cwd: DIRECTORY })
    .toSorted()
    .map((path) => ({
      qemu: path.split('/')[0]?.replace('qemu-', '') ?? '',
      name: basename(path, '.qmp'),
      lines: readFileSync(join(DIRECTORY, path), 'utf8')
        .split('\r\n')
        .filter((line) => line !== ''),
    }));
}

export function recording(name: string, qemu = '7.2'): Recording {
  const found = recordings(name).find((each) => each.qemu === qemu);
  if (found === undefined) {
    throw new Error(`nothing is recorded of ${name} with QEMU ${qemu}`);
  }
  return found;
}

/** The lines of a recording that are events, in their order. */
export function eventsOf({ lines }: Recording): string[] {
  return lines.filter((line) => 'event' in JSON.parse(line));
}

/**
 * A server on a UNIX socket that speaks QMP as a recorded QEMU did: it greets, answers `query-status` and
 * `query-block` with what was answered then, and sends the recorded events when it is told to.
 */
export class ReplayServer implements AsyncDisposable {
  readonly #server: Server;
  readonly #recording: Recording;
  readonly #uuid: string;
  readonly #clients = new Set<Socket>();
  readonly #asked: string[] = [];
  #quiet = false;
  /** What has to wait, because an event is being sent in pieces. */
  #replies: (() => void)[] | undefined;
  #status: unknown;

  private constructor(server: Server, recording: Recording, uuid: string) {
    this.#server = server;
    this.#recording = recording;
    this.#uuid = uuid;
    server.on('connection', (socket) => this.#serve(socket));
  }

  static async listen(path: string, recording: Recording, uuid: string): Promise<ReplayServer> {
    const server = createServer();
    const replay = new ReplayServer(server, recording, uuid);
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(path, resolve);
    });
    return replay;
  }

  /** The commands that were executed, in order. */
  get asked(): readonly string[] {
    return this.#asked;
  }

  get clients(): number {
    return this.#clients.size;
  }

  /** Sends bytes to every client: by default the recorded events, in pieces of `size` bytes. */
  async send(text = `${eventsOf(this.#recording).join('\r\n')}\r\n`, size = 1 << 20): Promise<void> {
    const bytes = Buffer.from(text);
    this.#replies = [];
    for (let start = 0; start < bytes.length; start += size) {
      for (const client of this.#clients) {
        client.write(bytes.subarray(start, start + size));
      }
      await new Promise((resolve) => setImmediate(resolve));
    }
    const replies = this.#replies;
    this.#replies = undefined;
    for (const reply of replies) {
      reply();
    }
  }

  /** Answers `query-status` with this from now on; with what was recorded if it is undefined. */
  say(status: { readonly status: string; readonly running: boolean } | undefined): void {
    this.#status = status;
  }

  /** Whether it accepts connections and says nothing, as a QEMU that hangs. */
  hang(quiet: boolean): void {
    this.#quiet = quiet;
  }

  /** Ends all connections, and goes on listening. */
  hangUp(): void {
    for (const client of this.#clients) {
      client.destroy();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.hangUp();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #serve(socket: Socket): void {
    this.#clients.add(socket);
    socket.on('error', () => {});
    socket.on('close', () => this.#clients.delete(socket));
    if (this.#quiet) {
      return;
    }
    socket.write(`${this.#recording.lines[0]}\r\n`);
    let received = '';
    socket.setEncoding('utf8').on('data', (text: string) => {
      const lines = `${received}${text}`.split('\n');
      received = lines.pop() ?? '';
      for (const line of lines) {
        this.#answer(socket, line);
      }
    });
  }

  #answer(socket: Socket, line: string): void {
    const { execute, id } = JSON.parse(line);
    this.#asked.push(execute);
    if (this.#quiet) {
      return;
    }
    const answer = this.#answerTo(execute);
    const reply =
      answer === undefined
        ? { error: { class: 'CommandNotFound', desc: `The command ${execute} has not been found` }, id }
        : { return: answer, id };
    const write = () => void socket.write(`${JSON.stringify(reply)}\r\n`);
    if (this.#replies === undefined) {
      write();
    } else {
      this.#replies.push(write);
    }
  }

  #answerTo(command: string): unknown {
    const returns = this.#recording.lines.map((line) => JSON.parse(line).return);
    switch (command) {
      case 'qmp_capabilities':
        return {};
      case 'query-uuid':
        return { UUID: this.#uuid };
      case 'query-status':
        return this.#status ?? returns.find((value) => value?.running !== undefined);
      case 'query-block':
        return returns.find((value) => Array.isArray(value));
      case 'query-blockstats':
        return [];
      case 'query-migrate':
        return {};
      default:
        return undefined;
    }
  }
}

import assert from 'node:assert/strict';
import type { ChildProcess } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createConnection } from 'node:net';
import { Deadline } from '../../lib/deadline.ts';
import { errnoOf } from '../../lib/error.ts';
import type { JournalEntry } from '../../lib/journal.ts';
import type { Status } from '../../lib/watch/status.ts';
import type { GuestStatus } from '../../lib/watch/watcher.ts';
import type { LabNode } from '../lab/client.ts';
import { processes } from './host.ts';

/** The log of a watcher that a test starts. */
export const WATCHER_LOG = '/var/log/watch.log';

/** Milliseconds in which anything that is waited for must have come. */
const PATIENCE = 30_000;

export interface Entry extends JournalEntry {
  readonly time: string;
  readonly by: string;
  readonly pid: number;
}

/** What is in a node's journal about a guest, the oldest first; or all of it. */
export function journal(node: LabNode, guest?: string): Entry[] {
  let text = '';
  try {
    text = readFileSync(node.path('/var/log/kvmha/events.jsonl'), 'utf8');
  } catch (error) {
    assert.equal(errnoOf(error), 'ENOENT');
  }
  return text
    .split('\n')
    .slice(0, -1)
    .map((line) => JSON.parse(line))
    .filter((entry: Entry) => guest === undefined || entry.guest === guest);
}

/** `kvmha watch` in a node of a lab. */
export class Watch implements AsyncDisposable {
  readonly #node: LabNode;
  #child: ChildProcess | undefined;
  #printed = '';

  constructor(node: LabNode) {
    this.#node = node;
  }

  /** Starts it, and waits until it watches. */
  async start(): Promise<void> {
    this.#printed = '';
    const child = this.#node.spawn(['kvmha', 'watch'], { HA_LOGFILE: WATCHER_LOG, HA_debug: '1' });
    const hear = (chunk: Buffer) => {
      this.#printed += chunk;
    };
    child.stdout?.on('data', hear);
    child.stderr?.on('data', hear);
    this.#child = child;
    const ready = await Deadline.in(PATIENCE).poll(30, async () => (await this.tryStatus()) ?? undefined);
    assert.ok(ready, `the watcher does not watch: ${this.#printed}`);
  }

  /** Its pid, as seen from the test. */
  get pid(): number {
    const found = processes(this.#node).find(({ argv }) => argv[0]?.endsWith('kvmha') && argv[1] === 'watch');
    assert.ok(found, 'no watcher runs');
    return found.pid;
  }

  get isRunning(): boolean {
    return processes(this.#node).some(({ argv }) => argv[0]?.endsWith('kvmha') && argv[1] === 'watch');
  }

  /** Ends it as an out-of-memory killer does. */
  async kill(): Promise<void> {
    process.kill(this.pid, 'SIGKILL');
    await this.#ended();
  }

  /** Ends it in an orderly way. */
  async stop(): Promise<void> {
    process.kill(this.pid, 'SIGTERM');
    await this.#ended();
  }

  async #ended(): Promise<void> {
    this.#reap();
    const gone = await Deadline.in(PATIENCE).poll(10, () => (this.isRunning ? undefined : true));
    assert.ok(gone, 'the watcher does not end');
    this.#child = undefined;
  }

  /** nsenter(1) stands still with what it has started, and stays so when that is let go on: a lab would wait for it. */
  #reap(): void {
    this.#child?.kill('SIGCONT');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#reap();
    if (this.#child !== undefined && this.#node.isOn && this.isRunning) {
      await this.kill();
    }
  }

  /** What it says of itself; undefined when it does not answer. */
  async tryStatus(): Promise<Status | undefined> {
    try {
      const socket = createConnection(this.#node.path('/run/kvmha/watch.sock'));
      const text = new Promise<string>((resolve, reject) => {
        let all = '';
        socket.setEncoding('utf8').on('data', (chunk: string) => {
          all += chunk;
        });
        socket.on('error', reject);
        socket.on('close', () => resolve(all));
      });
      return JSON.parse(await Deadline.in(2000).race(text, 'the status'));
    } catch {
      return undefined;
    }
  }

  /** What it says of one guest. */
  async guest(name: string): Promise<GuestStatus | undefined> {
    return (await this.tryStatus())?.guests.find((guest) => guest.name === name);
  }

  /** Waits until it follows a guest, and has seen that it runs. */
  async follows(name: string): Promise<GuestStatus> {
    const status = await Deadline.in(PATIENCE).poll(30, async () => {
      const guest = await this.guest(name);
      return guest?.silent === undefined && guest?.state !== undefined ? guest : undefined;
    });
    assert.ok(status, `${name} is not followed: ${JSON.stringify(await this.tryStatus())}`);
    return status;
  }

  /** Waits for an entry of the journal about a guest. */
  async writes(guest: string, what: string, fits: (entry: Entry) => boolean): Promise<Entry> {
    const found = await Deadline.in(PATIENCE).poll(30, () => journal(this.#node, guest).find(fits));
    assert.ok(found, `${what} is not in the journal: ${JSON.stringify(journal(this.#node, guest))}`);
    return found;
  }

  /** Waits until the watcher, and not an action of the agent, has proved that a guest is failover-safe. */
  proves(guest: string): Promise<Entry> {
    return this.writes(guest, 'a proof', ({ what, by }) => what === 'proved' && by === 'watcher');
  }

  /** Waits until what had to be done about a guest's fault is done; the clause that says how it ended. */
  async settles(guest: string): Promise<string> {
    const { why } = await this.writes(guest, 'the end', ({ action }) => action === 'fail-over');
    return String(why);
  }

  /** What it wrote down that it has decided about a guest, in order. */
  decisions(guest: string): string[] {
    return journal(this.#node, guest)
      .filter(({ what, by }) => what === 'decided' && by === 'watcher')
      .map((entry) => String(entry['do']));
  }
}

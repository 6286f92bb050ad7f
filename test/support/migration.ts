import assert from 'node:assert/strict';
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { sleep } from '../../lib/deadline.ts';
import type { Json } from '../../lib/qemu/qmp.ts';
import { readWitness, type Witness } from '../guest/witness.ts';
import type { Lab } from '../lab/client.ts';
import type { Answer, Call } from './agent.ts';
import { type GuestOptions, Host, processes, TestGuest, until } from './host.ts';

/** How the nodes reach each other. Without --unsafe libvirt refuses: it does not take /shared for shared storage. */
const PARAMETERS = { migration_transport: 'tcp', migrate_options: '--p2p --unsafe' };

/** A guest that can be migrated: as it is seen on the node where it was started, and on the other one. */
export class Traveller implements AsyncDisposable {
  readonly source: TestGuest;
  readonly target: TestGuest;
  readonly #lab: Lab;
  readonly #watch: Promise<void>;
  #watching = true;
  #complaint: string | undefined;

  private constructor(lab: Lab, source: TestGuest, target: TestGuest) {
    this.#lab = lab;
    this.source = source;
    this.target = target;
    this.#watch = this.#watchWriters();
  }

  /** A guest that runs on node1 and has written to its disk; `by: 'virsh'` starts it past the agent. */
  static async start(
    lab: Lab,
    name: string,
    { by = 'agent', ...options }: GuestOptions & { readonly by?: 'agent' | 'virsh' } = {},
  ): Promise<Traveller> {
    const [here, there] = [Host.of(lab.node(1)), lab.node(2)];
    const parameters = { ...PARAMETERS, ...options.parameters };
    const settings = { dirty: true, ...options.settings };
    const source = await here.guest(name, { ...options, parameters, settings });
    const target = new TestGuest(there, source.resource.domain, source.disk, parameters);
    const traveller = new Traveller(lab, source, target);
    if (by === 'virsh') {
      await here.virsh('create', source.resource.config);
    } else {
      const started = await source.call('start');
      assert.equal(started.exitCode, 0, started.stderr);
    }
    await source.ticks();
    return traveller;
  }

  get name(): string {
    return this.source.name;
  }

  /** Calls migrate_to on the node where the guest was started. */
  migrate(call: Call = {}): Promise<Answer> {
    return this.source.call('migrate_to', {
      ...call,
      meta: { migrate_source: 'node1', migrate_target: 'node2', ...call.meta },
    });
  }

  /**
   * Calls migrate_to, and slows the migration down as soon as memory is being sent, so that it lasts until it is
   * hastened: even the first of the guest's pages are not through by then.
   */
  async setOut(call: Call = {}): Promise<{ readonly answer: Promise<Answer> }> {
    const parameters = { migration_speed: '1', migration_downtime: '1', ...call.parameters };
    const answer = this.migrate({ ...call, parameters });
    answer.catch(() => {}); // It is awaited by whoever called, if nothing else fails before.
    await until('the migration to be going', async () => (await this.phase()) === 'active');
    await this.qemu('migrate-set-parameters', { 'max-bandwidth': 20_000 });
    return { answer };
  }

  /** Lets a migration that was slowed down come to its end. */
  async hasten(): Promise<void> {
    const fast = { 'max-bandwidth': 1_000_000_000, 'max-postcopy-bandwidth': 1_000_000_000 };
    await this.qemu('migrate-set-parameters', { ...fast, 'downtime-limit': 2000 });
  }

  /** The status of `query-migrate` at the source. */
  async phase(): Promise<string> {
    const answer = await this.qemu('query-migrate').catch(() => ({}));
    return String((answer as { status?: string }).status ?? 'none');
  }

  /** Asks the QEMU at the source, through libvirt where there is no socket of ours. */
  async qemu(command: string, args: { readonly [key: string]: Json } = {}): Promise<Json> {
    try {
      return await this.source.qmp(command, args);
    } catch {
      const request = JSON.stringify({ execute: command, arguments: args });
      const reply = await this.source.node.check(['virsh', 'qemu-monitor-command', this.name, request]);
      return (JSON.parse(reply) as { return: Json }).return;
    }
  }

  /** What the guest has written; works while nodes are off. */
  witness(): Promise<Witness> {
    return readWitness(this.#image);
  }

  /** Waits until the guest has gone on writing. */
  async goesOn(): Promise<Witness> {
    const before = await this.witness();
    await until(`${this.name} to go on`, async () => (await this.witness()).ticks > before.ticks + 1);
    return this.witness();
  }

  /** Fails unless the guest goes on, in the boot in which it was started, on this side and on no other. */
  async runsOnly(side: 'source' | 'target'): Promise<void> {
    const { boots } = await this.goesOn();
    assert.equal(boots, 1, 'the guest was booted anew');
    const other = side === 'source' ? this.target : this.source;
    const running = async (guest: TestGuest) =>
      guest.node.isOn && guest.pids().length > 0
        ? (JSON.parse(JSON.stringify(await guest.tryQmp('query-status'))) as { running?: boolean }).running
        : false;
    assert.equal(await running(this[side]), true, `it does not run on the ${side}`);
    assert.notEqual(await running(other), true, 'it runs on both nodes');
  }

  /** Fails when a node has any of the guest: a process, a domain, a record or a socket. */
  async leftNothing(side: 'source' | 'target'): Promise<void> {
    const { node } = this[side];
    await until(`nothing of ${this.name} to be left`, () => this[side].pids().length === 0);
    assert.equal(await this[side].resource.state(node), '', 'libvirt still knows it');
    const { stdout } = await node.exec([
      'find',
      '/run/kvmha/guests',
      '/run/libvirt/qemu/kvmha',
      '-type',
      'f,s',
    ]);
    const uuid = String(this.source.resource.domain.uuid);
    const left = stdout
      .split('\n')
      .filter((path) => path.includes(uuid) || path.includes(`/${this.name}.pid`))
      .filter((path) => !path.endsWith('/lock'));
    assert.deepEqual(left, []);
  }

  get #image(): string {
    return this.#lab.shared(`${this.name}.img`);
  }

  /**
   * Looks, until the guest is disposed of, whether two qemu processes have its image open for writing at one time, and
   * whether a tick falls behind one that was written before, as two writers' do.
   */
  async #watchWriters(): Promise<void> {
    let last = await this.witness();
    for (; this.#watching; await sleep(20)) {
      const now = await this.witness();
      if (now.ticks < last.ticks || now.boots < last.boots) {
        this.#complaint ??= `its ticks fell from ${JSON.stringify(last)} to ${JSON.stringify(now)}`;
      }
      last = now;
      // Not at one moment: a guest that moves in between is seen on both nodes once, but not twice.
      if (this.#writers().length > 1 && this.#writers().length > 1) {
        this.#complaint ??= 'two qemu processes had its image open for writing';
      }
    }
  }

  #writers(): number[] {
    return [this.source, this.target]
      .flatMap(pidsOrNone)
      .filter((pid) => opensForWriting(pid, this.source.disk));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#watching = false;
    await this.#watch;
    for (const pid of [this.source, this.target].flatMap(pidsOrNone)) {
      process.kill(pid, 'SIGKILL');
    }
    assert.equal(this.#complaint, undefined);
  }
}

function pidsOrNone(guest: TestGuest): number[] {
  try {
    return guest.pids();
  } catch {
    return []; // The node is off.
  }
}

function opensForWriting(pid: number, path: string): boolean {
  try {
    return readdirSync(`/proc/${pid}/fd`).some((fd) => isWritable(pid, fd, path));
  } catch {
    return false; // It has just ended.
  }
}

function isWritable(pid: number, fd: string, path: string): boolean {
  try {
    const flags = /^flags:\s*([0-7]+)/m.exec(readFileSync(`/proc/${pid}/fdinfo/${fd}`, 'utf8'))?.[1];
    return (
      readlinkSync(`/proc/${pid}/fd/${fd}`).endsWith(path) && (Number.parseInt(flags ?? '0', 8) & 3) !== 0
    );
  } catch {
    return false; // It has just been closed.
  }
}

/** Sends a signal to the processes of a node with this program's name, or whose arguments have this word. */
export function signal(guest: TestGuest, which: string, name: NodeJS.Signals): void {
  const found = processes(guest.node).filter(({ comm, argv }) => comm === which || argv.includes(which));
  assert.ok(found.length > 0, `no ${which} runs on ${guest.node.name}`);
  for (const { pid } of found) {
    process.kill(pid, name);
  }
}

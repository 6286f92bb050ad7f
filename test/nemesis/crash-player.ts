import assert from 'node:assert/strict';
import { readFileSync, rmSync } from 'node:fs';
import { errnoOf } from '../../lib/error.ts';
import { Fault } from '../fault/fault.ts';
import { Lab } from '../lab/client.ts';
import { type Answer, installedTree } from '../support/agent.ts';
import { Host, processes, TestGuest, until } from '../support/host.ts';
import { MAKE_SOCKET_FOLDERS } from '../support/quiesced.ts';
import { journal, Watch } from '../support/watch.ts';
import { mountState } from './actions.ts';
import { send } from './crash-trace.ts';
import { Recorder } from './recorder.ts';

/** What Pacemaker gives actions, in milliseconds. */
export const TIMEOUT = '60000';
export const PATIENCE = 100_000;

/** Two nodes: on one an action is interrupted, on the other one the guest is to run then. */
export class Stage implements AsyncDisposable {
  readonly lab: Lab;
  readonly #disposables: AsyncDisposableStack;
  #count = 0;

  private constructor(lab: Lab, disposables: AsyncDisposableStack) {
    this.lab = lab;
    this.#disposables = disposables;
  }

  static async set(): Promise<Stage> {
    await using starting = new AsyncDisposableStack();
    const tree = starting.use(await installedTree());
    const lab = starting.use(await Lab.up({ nodes: 2, cluster: false, install: tree.path }));
    for (const node of lab.nodes) {
      Host.of(node);
      await node.check(['sh', '-c', MAKE_SOCKET_FOLDERS]);
      await mountState(node);
    }
    return new Stage(lab, starting.move());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#disposables.disposeAsync();
  }

  /** A guest of its own, not started. */
  async player(own: Readonly<Record<string, string>> = {}): Promise<Player> {
    this.#count += 1;
    const name = `crash-${this.#count}`;
    const [here, there] = [this.lab.node(1), this.lab.node(2)];
    const parameters = {
      ...{ migration_transport: 'tcp', migrate_options: '--p2p --unsafe' },
      ...own,
    };
    const options = { serial: `/var/log/witness/${name}`, parameters, disk: { shareable: true } };
    for (const node of this.lab.nodes) {
      node.write('/var/log/witness/made', '');
    }
    const guest = await Host.of(here).guest(name, options);
    return new Player(this.lab, guest, new TestGuest(there, guest.resource.domain, guest.disk, parameters));
  }
}

/** A guest, on the node where an action is interrupted and on the other one. */
export class Player {
  readonly name: string;
  readonly recorder: Recorder;
  /** Where an action is interrupted next: where it runs, if it does. */
  here: TestGuest;
  there: TestGuest;
  /** The watcher on that node, while one was started for this guest. */
  watch: Watch | undefined;
  uses = 0;
  #failed = 0;

  constructor(lab: Lab, here: TestGuest, there: TestGuest) {
    this.name = here.name;
    this.here = here;
    this.there = there;
    this.recorder = new Recorder(lab, [here.name]);
    this.recorder.start();
  }

  get uuid(): string {
    const { uuid } = this.here.resource.domain;
    assert.ok(uuid !== undefined);
    return uuid;
  }

  async started(): Promise<void> {
    if (this.here.pids().length === 0) {
      succeeds(await this.here.call('start', timeout()));
    }
    await this.here.ticks(1);
  }

  /** From now on its storage on this node fails. */
  fails(): void {
    this.cause();
    this.#failed = Date.now();
    new Fault(this.here.node, this.here.fault).set('W', this.here.disk);
  }

  /** Whether the watcher has done what it does about the guest since its storage failed. */
  get isToldByWatcher(): boolean {
    return journal(this.here.node, this.name).some(
      ({ by, action, time }) =>
        by === 'watcher' && action === 'fail-over' && Date.parse(time) >= this.#failed,
    );
  }

  /** Its storage fails on this node, and QEMU stops it. */
  async faulted(): Promise<void> {
    await this.started();
    this.fails();
    await until('it to be stopped by an I/O error', () => PAUSED.test(this.#libvirtStatus(this.here)));
  }

  async preserved(): Promise<void> {
    await this.faulted();
    assert.equal((await this.here.monitor(timeout())).exitCode, 7);
    new Fault(this.here.node, this.here.fault).clear();
  }

  /** What libvirt keeps of the domain while it runs; nothing where it does not. */
  #libvirtStatus({ node, name }: TestGuest): string {
    try {
      return readFileSync(node.path(`/run/libvirt/qemu/${name}.xml`), 'utf8');
    } catch (error) {
      assert.equal(errnoOf(error), 'ENOENT');
      return '';
    }
  }

  /** Something was done to it after which it may be started anew. */
  cause(): void {
    this.recorder.add({
      kind: 'cause',
      at: Date.now(),
      what: 'the test',
      guest: this.name,
      excuses: ['restart'],
    });
  }

  /** kvmha on this node, as an operator calls it. */
  async command(words: readonly string[], under: readonly string[] = []): Promise<Answer> {
    const output = await this.here.node.exec([...under, 'kvmha', ...words, this.name], { timeout: PATIENCE });
    return { ...output, reason: undefined };
  }

  /** What Pacemaker does after an action that has failed, and before the guest may run elsewhere. */
  async stops(): Promise<void> {
    succeeds(await this.here.stop(timeout()));
  }

  /** It runs on the other node, and loses nothing. */
  async runsThere(): Promise<void> {
    this.cause();
    succeeds(await this.there.call('start', timeout()));
    await this.there.ticks(1);
  }

  async runsHere(): Promise<void> {
    this.cause();
    succeeds(await this.here.call('start', timeout()));
    await this.here.ticks(1);
  }

  /** Ends a preserved copy, and lets the next action be interrupted where the guest runs now. */
  async again(): Promise<void> {
    this.uses += 1;
    const isThere = this.there.pids().length > 0 && !PAUSED.test(this.#libvirtStatus(this.there));
    const [home, other] = isThere ? [this.there, this.here] : [this.here, this.there];
    new Fault(this.here.node, this.here.fault).clear();
    for (const pid of other.pids()) {
      send(pid, 'SIGKILL');
    }
    await until('libvirt to see that a preserved copy is gone', () => this.#libvirtStatus(other) === '');
    this.here = home;
    this.there = other;
  }

  /** Whether a process on this node waits for the lock of the guest, which it has not got as long as it is flock(1). */
  get isWaitedFor(): boolean {
    return processes(this.here.node).some(
      ({ comm, argv }) => comm === 'flock' && argv.some((word) => word.includes(this.uuid)),
    );
  }

  /** Starts the watcher on this node, which looks at all guests then. */
  async watched(): Promise<Watch> {
    this.watch = new Watch(this.here.node);
    await this.watch.start();
    return this.watch;
  }

  async unwatched(): Promise<void> {
    const { watch } = this;
    this.watch = undefined;
    await watch?.[Symbol.asyncDispose]();
  }

  /** Ends what is left of it, on both nodes. */
  async end(): Promise<void> {
    this.recorder.stop();
    await this.unwatched();
    for (const guest of [this.here, this.there]) {
      new Fault(guest.node, guest.fault).clear();
      for (const pid of guest.pids()) {
        send(pid, 'SIGKILL');
      }
    }
    rmSync(this.here.node.path(this.here.disk), { force: true });
  }
}

const PAUSED = /<domstatus state='paused'/;

export function timeout() {
  return { meta: { timeout: TIMEOUT } };
}

export function succeeds({ exitCode, reason, stderr }: Answer): void {
  assert.equal(exitCode, 0, reason ?? stderr);
}

/** Whatever was decided: it has answered by itself, in words for people. */
export function answered({ exitCode, stdout, stderr }: Answer): void {
  assert.ok([0, 1, 2, 7, 8, 9, 190].includes(exitCode), `exited ${exitCode}: ${stderr}`);
  assert.doesNotMatch(`${stdout}${stderr}`, /^\s+at .*:\d+/m, 'a stack trace was shown');
}

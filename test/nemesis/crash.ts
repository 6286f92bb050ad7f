import assert from 'node:assert/strict';
import { readFileSync, rmSync } from 'node:fs';
import { sleep } from '../../lib/deadline.ts';
import { errnoOf } from '../../lib/error.ts';
import { Fault } from '../fault/fault.ts';
import { Lab, type LabNode } from '../lab/client.ts';
import { type Answer, installedTree } from '../support/agent.ts';
import { Host, processes, TestGuest, until } from '../support/host.ts';
import { MAKE_SOCKET_FOLDERS } from '../support/quiesced.ts';
import { journal, WATCHER_LOG, Watch } from '../support/watch.ts';
import { mountState } from './actions.ts';
import { check, RULES } from './checker.ts';
import { clock, story } from './history.ts';
import { Recorder } from './recorder.ts';

/**
 * A moment of an action: right before one of the system calls by which its process changes something outside of
 * itself, or starts another. Between two of them nothing can be told apart from outside, so that these are all moments
 * at which it can die.
 */
export interface CrashPoint {
  readonly call: string;
  /** Which of the calls of this name in the action's main thread, counted from 1. */
  readonly number: number;
  /** As strace(1) shows it. */
  readonly text: string;
}

/** What befalls the action there. */
export type Fate =
  /** SIGKILL to its process: what it has started goes on. */
  | 'dies'
  /** SIGKILL to its process and all that it has started, as at the end of Pacemaker's patience. */
  | 'dies-with-its-children'
  /** It stands still for a while, and the next action comes meanwhile. */
  | 'is-overtaken';
export const FATES: readonly Fate[] = ['dies', 'dies-with-its-children', 'is-overtaken'];

/** What changes files, speaks to another process, signals one or starts one. */
const CALLS = [
  ...['write', 'writev', 'sendto', 'sendmsg', 'kill', 'clone', 'clone3', 'vfork', 'connect'],
  ...['rename', 'renameat', 'renameat2', 'unlink', 'unlinkat', 'mkdir', 'mkdirat', 'rmdir', 'ftruncate'],
  ...['chmod', 'fchmod', 'link', 'symlink', 'mknod', 'mknodat'],
];

/** Wakes another thread of the same process, or starts one: pipes and an eventfd(2) of libuv's, pthread_create(3). */
const INSIDE =
  /, "\\1\\0\\0\\0\\0\\0\\0\\0", 8\)|, "\*", 1\)|, "[^"]*\\0\\0\\0\\0\\21\\0\\0\\0\\0\\0\\0\\0", 16\)|CLONE_THREAD/;

/** Milliseconds for which an action that is overtaken stands still, and until the other one comes. */
const STANDSTILL = 2500;
const OTHER_COMES = 700;

/** What Pacemaker gives actions, in milliseconds. */
const TIMEOUT = '60000';
const PATIENCE = 100_000;

/** One node on which an action is interrupted, another one on which the guest is to run then. */
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
  async player(scenario: Scenario): Promise<Player> {
    this.#count += 1;
    const name = `crash-${this.#count}`;
    const [here, there] = [this.lab.node(1), this.lab.node(2)];
    const parameters = {
      ...{ migration_transport: 'tcp', migrate_options: '--p2p --unsafe' },
      ...scenario.parameters,
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
  readonly here: TestGuest;
  readonly there: TestGuest;
  readonly recorder: Recorder;
  readonly #watch: Watch;

  constructor(lab: Lab, here: TestGuest, there: TestGuest) {
    this.name = here.name;
    this.here = here;
    this.there = there;
    this.recorder = new Recorder(lab, [here.name]);
    this.#watch = new Watch(here.node);
  }

  async started(): Promise<void> {
    succeeds(await this.here.call('start', timeout()));
    await this.here.ticks();
  }

  /** Its storage fails on the first node, and QEMU stops it. */
  async faulted(): Promise<void> {
    await this.started();
    this.failStorage();
    await this.here.untilState('paused (I/O error)');
  }

  failStorage(): void {
    this.cause();
    new Fault(this.here.node, this.here.fault).set('W', this.here.disk);
  }

  /** Its storage fails on the first node while a watcher follows it, until that one has proved it safe or has died. */
  async watched(under: readonly string[]): Promise<Answer> {
    await this.#watch.start();
    await this.#watch.follows(this.name);
    const { node } = this.here;
    const { pid } = this.#watch;
    const inNode = (await this.#watch.tryStatus())?.watcher.pid;
    const tracer = node.spawn([...under, '-p', String(inNode)]);
    const left = new Promise((resolve) => tracer.once('exit', resolve));
    await until('strace to follow it', () => !/^TracerPid:\s*0$/m.test(statusOf(pid)));
    this.failStorage();
    await until('it to be proved safe, or the watcher to die', () => {
      const isProved = journal(node, this.name).some(({ what }) => what === 'proved');
      return isProved || !this.#watch.isRunning;
    });
    tracer.kill('SIGTERM');
    await left;
    return { exitCode: 0, stdout: '', stderr: '', reason: undefined };
  }

  async preserved(): Promise<void> {
    await this.faulted();
    assert.equal((await this.here.monitor(timeout())).exitCode, 7);
    new Fault(this.here.node, this.here.fault).clear();
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

  /** kvmha on the first node, as an operator calls it. */
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
    await this.there.ticks();
  }

  async runsHere(): Promise<void> {
    this.cause();
    succeeds(await this.here.call('start', timeout()));
    await this.here.ticks();
  }

  /** Ends what is left of it, on both nodes. */
  async end(): Promise<void> {
    this.recorder.stop();
    await this.#watch[Symbol.asyncDispose]();
    for (const { node, fault } of [this.here, this.there]) {
      new Fault(node, fault).clear();
      await node.exec(['virsh', 'destroy', this.name]);
    }
    rmSync(this.here.node.path(this.here.disk), { force: true });
  }
}

/** An action that is interrupted, and what comes then. */
export interface Scenario {
  readonly name: string;
  readonly parameters?: Readonly<Record<string, string>>;
  /** Brings the guest to where the action is called. */
  readonly before: (player: Player) => Promise<unknown>;
  readonly action: (player: Player, under: readonly string[]) => Promise<Answer>;
  /** The next action, which has to finish what was interrupted; overtaken, it comes while that one stands still. */
  readonly next: (player: Player) => Promise<unknown>;
  /** The guest runs again. */
  readonly after: (player: Player) => Promise<unknown>;
}

const agent =
  (action: string, meta: Readonly<Record<string, string>> = {}): Scenario['action'] =>
  ({ here }, under) =>
    here.call(action, { under, meta: { timeout: TIMEOUT, ...meta } });
const MOVE = { migrate_source: 'node1', migrate_target: 'node2' };
const stopped = { next: (player: Player) => player.stops(), after: (player: Player) => player.runsThere() };

export const SCENARIOS: readonly Scenario[] = [
  {
    name: 'a monitor that quiesces',
    before: (player) => player.faulted(),
    action: agent('monitor', { interval: '10000' }),
    ...stopped,
  },
  {
    name: 'a watcher that quiesces',
    before: (player) => player.started(),
    action: (player, under) => player.watched(under),
    ...stopped,
  },
  { name: 'a stop that quiesces', before: (player) => player.faulted(), action: agent('stop'), ...stopped },
  { name: 'a stop that shuts down', before: (player) => player.started(), action: agent('stop'), ...stopped },
  {
    name: 'a stop that destroys',
    parameters: { force_stop: 'true' },
    before: (player) => player.started(),
    action: agent('stop'),
    ...stopped,
  },
  {
    name: 'a monitor that fences',
    before: async (player) => {
      await player.started();
      player.cause();
      process.kill(player.here.pid(), 'SIGKILL');
      await until('its qemu to be gone', () => player.here.pids().length === 0);
    },
    action: agent('monitor', { interval: '10000' }),
    ...stopped,
  },
  { name: 'a start', before: async () => {}, action: agent('start'), ...stopped },
  {
    name: 'a migrate_to',
    before: (player) => player.started(),
    action: agent('migrate_to', MOVE),
    next: async (player) => {
      // The cluster does not know where it is then, and stops it on both.
      player.cause();
      succeeds(await player.there.stop(timeout()));
      await player.stops();
      succeeds(await player.there.stop(timeout()));
    },
    after: (player) => player.runsThere(),
  },
  {
    name: 'a migrate_from',
    before: async (player) => {
      await player.started();
      succeeds(await player.here.call('migrate_to', { meta: { timeout: TIMEOUT, ...MOVE } }));
    },
    action: ({ there }, under) => there.call('migrate_from', { under, meta: { timeout: TIMEOUT, ...MOVE } }),
    next: async (player) => {
      player.cause();
      succeeds(await player.there.stop(timeout()));
      await player.stops();
    },
    after: (player) => player.runsHere(),
  },
  {
    name: 'kvmha quiesce',
    before: async (player) => {
      await player.started();
      player.cause();
    },
    action: (player, under) => player.command(['quiesce'], under),
    ...stopped,
  },
  {
    name: 'kvmha release',
    before: (player) => player.preserved(),
    action: (player, under) => player.command(['release'], under),
    next: async (player) => {
      // Where the first has ended it, there is nothing left to release.
      const { exitCode, stderr } = await player.command(['release']);
      assert.ok(exitCode === 0 || player.here.pids().length === 0, stderr);
    },
    after: (player) => player.runsHere(),
  },
  {
    name: 'kvmha resume',
    before: (player) => player.preserved(),
    action: (player, under) => {
      const { name, recorder, here } = player;
      recorder.add({ kind: 'resuming', guest: name, node: here.node.name, at: Date.now() });
      return player.command(['resume', '--not-elsewhere'], under);
    },
    ...stopped,
  },
];

/** Every moment at which the action of a scenario can die, in order, as one run of it shows them. */
export async function crashPoints(stage: Stage, scenario: Scenario): Promise<CrashPoint[]> {
  const player = await stage.player(scenario);
  player.recorder.start();
  const trace = new Trace(player.name);
  try {
    await scenario.before(player);
    await scenario.action(player, trace.watching());
    const calls = trace.read(stage.lab.nodes);
    const numbers = new Map<string, number>();
    return calls.flatMap((text) => {
      const call = text.slice(0, text.indexOf('('));
      const number = (numbers.get(call) ?? 0) + 1;
      numbers.set(call, number);
      return INSIDE.test(text) ? [] : [{ call, number, text }];
    });
  } finally {
    await player.end();
  }
}

/**
 * Interrupts the action of a scenario at a point, lets the next one come, and the guest run again.
 *
 * @throws AssertionError with the story of the guest, when the next action did not finish, or the checker objects
 */
export async function interrupt(
  stage: Stage,
  scenario: Scenario,
  point: CrashPoint,
  fate: Fate,
): Promise<void> {
  const player = await stage.player(scenario);
  player.recorder.start();
  const trace = new Trace(player.name);
  const begun = Date.now();
  let last = 'before';
  try {
    await scenario.before(player);
    last = 'action';
    if (fate === 'is-overtaken') {
      const action = scenario.action(player, trace.delaying(point));
      await sleep(OTHER_COMES);
      last = 'next, while the first stands still';
      await scenario.next(player);
      await action;
      // What came first has gone on behind the other's back, and is not the last that the cluster calls.
      last = 'next, again';
      await scenario.next(player);
    } else {
      await scenario.action(player, trace.killing(point));
      if (fate === 'dies-with-its-children') {
        killChildrenOf(player, stage.lab.nodes);
      }
      last = 'next';
      await scenario.next(player);
    }
    last = 'after';
    await scenario.after(player);
    const violations = check(player.recorder.history());
    assert.deepEqual(
      violations.map(({ rule, at, why }) => `${RULES[rule]}: ${clock(at)} ${why}`),
      [],
    );
  } catch (error) {
    const what = `${scenario.name}, ${fate} before ${point.call} ${point.number}: ${point.text}`;
    const told = story(player.recorder.history(), player.name, begun, 0, PATIENCE * 5).join('\n    ');
    throw new Error(`${what}\nfailed in: ${last}\n${String(error)}\n    ${told}`, { cause: error });
  } finally {
    await player.end();
  }
}

/** strace(1) of an action's main thread. */
class Trace {
  readonly #path: string;

  constructor(name: string) {
    this.#path = `/run/lab/${name}.trace`;
  }

  watching(): string[] {
    return ['strace', '-o', this.#path, '-e', `trace=${CALLS.map((call) => `?${call}`).join(',')}`];
  }

  killing({ call, number }: CrashPoint): string[] {
    return ['strace', '-o', this.#path, '-e', `inject=${call}:signal=KILL:when=${number}`];
  }

  delaying({ call, number }: CrashPoint): string[] {
    return [
      'strace',
      '-o',
      this.#path,
      '-e',
      `inject=${call}:delay_enter=${STANDSTILL * 1000}:when=${number}`,
    ];
  }

  read(nodes: readonly LabNode[]): string[] {
    for (const node of nodes) {
      try {
        return readFileSync(node.path(this.#path), 'utf8')
          .split('\n')
          .filter((line) => /^[a-z0-9_]+\(/.test(line));
      } catch (error) {
        assert.equal(errnoOf(error), 'ENOENT');
      }
    }
    return [];
  }
}

/** What an agent or a watcher has started has its environment, or that of an operator's call names the guest. */
function killChildrenOf({ name }: Player, nodes: readonly LabNode[]): void {
  for (const node of nodes) {
    for (const { pid, comm, argv } of processes(node)) {
      const environment = environmentOf(pid);
      const isOfAction =
        argv.includes(name) ||
        environment.includes(`OCF_RESOURCE_INSTANCE=${name}`) ||
        environment.includes(`HA_LOGFILE=${WATCHER_LOG}`);
      if (!comm.startsWith('qemu') && isOfAction) {
        try {
          process.kill(pid, 'SIGKILL');
        } catch {
          // It has just ended.
        }
      }
    }
  }
}

function environmentOf(pid: number): string[] {
  return ofProcess(pid, 'environ').split('\0');
}

function statusOf(pid: number): string {
  return ofProcess(pid, 'status');
}

/** Empty where the process has ended. */
function ofProcess(pid: number, file: 'environ' | 'status'): string {
  try {
    return readFileSync(`/proc/${pid}/${file}`, 'utf8');
  } catch {
    return '';
  }
}

function timeout() {
  return { meta: { timeout: TIMEOUT } };
}

function succeeds({ exitCode, reason, stderr }: Answer): void {
  assert.equal(exitCode, 0, reason ?? stderr);
}

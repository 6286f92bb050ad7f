import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { Deadline } from '../../lib/deadline.ts';
import { processes, until } from '../support/host.ts';
import { WATCHER_LOG } from '../support/watch.ts';
import { check, RULES } from './checker.ts';
import { answered, PATIENCE, type Player, type Stage, timeout } from './crash-player.ts';
import type { Scenario } from './crash-scenarios.ts';
import { type CrashPoint, send, Trace } from './crash-trace.ts';
import { clock, story } from './history.ts';

/** What befalls the action there. */
export type Fate =
  /** SIGKILL to its process: what it has started goes on. */
  | 'dies'
  /** SIGKILL to its process and all that it has started, as at the end of Pacemaker's patience. */
  | 'dies-with-its-children'
  /** It stands still, and goes on once the next action has ended, or waits for it. */
  | 'is-overtaken'
  /** It stands still for longer than a stop has time, which has to finish, or to say that it cannot. */
  | 'outlasts-a-stop'
  /** The same with a monitor, or a command of an operator, that comes meanwhile. */
  | 'meets-a-monitor'
  | 'meets-an-operator'
  /** The same with the watcher, which is started meanwhile and looks at all guests. */
  | 'meets-the-watcher';
export const FATES: readonly Fate[] = [
  'dies',
  'dies-with-its-children',
  'is-overtaken',
  'outlasts-a-stop',
  'meets-a-monitor',
  'meets-an-operator',
  'meets-the-watcher',
];

/** Whether a fate is possible at this moment, and another than all before. */
export function isPossible(fate: Fate, point: CrashPoint, scenario: Scenario): boolean {
  switch (fate) {
    case 'dies-with-its-children':
      return point.hasChildren;
    case 'meets-the-watcher':
      // There is one on each node.
      return scenario.isAlone !== true;
    default:
      return true;
  }
}

/** Milliseconds after which an action that stands still goes on, where the other one neither ends nor waits for it. */
const STANDSTILL = 3000;

/** A stop that has not ended long after this many milliseconds would be ended by Pacemaker. */
const SHORT = { meta: { timeout: '9000' } };

/** How often a guest is used: the checker judges all of its history each time. */
const USES = 20;

/** Every moment at which the action of a scenario can die, in order, as one run of it shows them. */
export async function crashPoints(stage: Stage, scenario: Scenario): Promise<CrashPoint[]> {
  const player = await stage.player(scenario.parameters);
  const trace = traceOf(player);
  try {
    await scenario.before(player);
    await scenario.action(player, trace.watching());
    return trace.points();
  } finally {
    await player.end();
  }
}

function traceOf({ here, there, name }: Player): Trace {
  return new Trace([here.node, there.node], name);
}

/** One guest after the other, each for several actions that are interrupted one after the other. */
export class Cast implements AsyncDisposable {
  readonly #stage: Stage;
  readonly #scenario: Scenario;
  #player: Player | undefined;

  constructor(stage: Stage, scenario: Scenario) {
    this.#stage = stage;
    this.#scenario = scenario;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const player = this.#player;
    this.#player = undefined;
    await player?.end();
  }

  /**
   * Interrupts the action of the scenario at a point, lets the next one come, and the guest run again.
   *
   * @returns whether the action came to that point, and not to its end before
   * @throws Error with the story of the guest, when the next action did not finish, or the checker objects
   */
  async interrupt(point: CrashPoint, fate: Fate): Promise<boolean> {
    this.#player ??= await this.#stage.player(this.#scenario.parameters);
    const player = this.#player;
    const begun = Date.now();
    const trace = traceOf(player);
    let [isDone, last] = [false, 'before'];
    try {
      await this.#scenario.before(player);
      last = 'action';
      const reached = await INTERRUPT[fate](this.#scenario, player, trace, point);
      last = 'next';
      await this.#scenario.next(player);
      last = 'after';
      await this.#scenario.after(player);
      last = 'check';
      const violations = check(player.recorder.history());
      assert.deepEqual(
        violations.map(({ rule, at, why }) => `${RULES[rule]}: ${clock(at)} ${why}`),
        [],
      );
      last = 'again';
      await player.again();
      isDone = this.#scenario.isFirst !== true && player.uses < USES;
      return reached;
    } catch (error) {
      const what = `${this.#scenario.name}, ${fate} at ${point.call} ${point.number}: ${point.text}`;
      const told = story(player.recorder.history(), player.name, begun, 0, PATIENCE * 5).join('\n    ');
      throw new Error(`${what}\nfailed in: ${last}\n${String(error)}\n    ${told}`, { cause: error });
    } finally {
      if (!isDone) {
        await this[Symbol.asyncDispose]();
      }
    }
  }
}

type Interrupt = (scenario: Scenario, player: Player, trace: Trace, point: CrashPoint) => Promise<boolean>;

const INTERRUPT: { readonly [fate in Fate]: Interrupt } = {
  dies: async (scenario, player, trace, point) => {
    await scenario.action(player, trace.killing(point));
    return trace.hasKilled;
  },
  'dies-with-its-children': async (scenario, player, trace, point) => {
    const action = settled(scenario.action(player, trace.killing(point)));
    await Deadline.in(PATIENCE).poll(10, () => action.isSettled || trace.hasKilled || undefined);
    killChildrenOf(player);
    await action.promise;
    return trace.hasKilled;
  },
  'is-overtaken': (scenario, player, trace, point) =>
    meet(scenario, player, trace, point, () => scenario.next(player)),
  'outlasts-a-stop': (scenario, player, trace, point) =>
    meet(
      scenario,
      player,
      trace,
      point,
      async () => {
        const answer = await (scenario.isThere ? player.there : player.here).stop(SHORT);
        answered(answer);
        assert.ok(answer.exitCode === 0 || answer.reason !== undefined, answer.stderr);
      },
      true,
    ),
  'meets-a-monitor': (scenario, player, trace, point) =>
    meet(scenario, player, trace, point, async () => answered(await player.here.monitor(timeout()))),
  'meets-an-operator': (scenario, player, trace, point) =>
    meet(scenario, player, trace, point, async () => {
      player.cause();
      answered(await player.command(scenario.operator ?? ['quiesce']));
    }),
  'meets-the-watcher': async (scenario, player, trace, point) => {
    const reached = await meet(scenario, player, trace, point, async () => {
      const watch = await player.watched();
      await until(
        'the watcher to have looked',
        async () =>
          (await watch.guest(player.name))?.state !== undefined ||
          player.isWaitedFor ||
          player.here.pids().length === 0,
      );
    });
    // It ends when what it does is done.
    await player.watch?.stop();
    await player.unwatched();
    return reached;
  },
};

/** Something else comes while an action stands still; then that one goes on. */
async function meet(
  scenario: Scenario,
  player: Player,
  trace: Trace,
  point: CrashPoint,
  come: () => Promise<unknown>,
  outlasts = false,
): Promise<boolean> {
  const action = settled(scenario.action(player, trace.stopping(point)));
  await Deadline.in(PATIENCE).poll(30, () => action.isSettled || trace.hasStopped || undefined);
  const reached = trace.hasStopped;
  const other = settled(come());
  const goesOn = Deadline.in(outlasts ? PATIENCE : STANDSTILL);
  await goesOn.poll(30, () => other.isSettled || (!outlasts && player.isWaitedFor) || undefined);
  trace.goOn();
  await action.promise;
  await other.promise;
  return reached;
}

function settled<T>(promise: Promise<T>): { readonly promise: Promise<T>; readonly isSettled: boolean } {
  const state = { promise, isSettled: false };
  const settle = () => {
    state.isSettled = true;
  };
  // Whoever waits for it hears of its failure; nobody may wait yet.
  promise.then(settle, settle);
  return state;
}

/** What an agent or a watcher has started has its environment, or its call names the guest. */
function killChildrenOf({ name, uuid, here, there, watch }: Player): void {
  const variables = [
    `OCF_RESOURCE_INSTANCE=${name}`,
    ...(watch === undefined ? [] : [`HA_LOGFILE=${WATCHER_LOG}`]),
  ];
  for (const { node } of [here, there]) {
    for (const { pid, comm, argv } of processes(node)) {
      const isNamed = argv.some((word) => word === name || word.includes(uuid));
      const environment = environmentOf(pid);
      if (
        !comm.startsWith('qemu') &&
        (isNamed || variables.some((variable) => environment.includes(variable)))
      ) {
        send(pid, 'SIGKILL');
      }
    }
  }
}

function environmentOf(pid: number): string[] {
  try {
    return readFileSync(`/proc/${pid}/environ`, 'utf8').split('\0');
  } catch {
    return [];
  }
}

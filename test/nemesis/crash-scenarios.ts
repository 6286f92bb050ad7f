import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { Deadline } from '../../lib/deadline.ts';
import type { Answer } from '../support/agent.ts';
import { until } from '../support/host.ts';
import { answered, PATIENCE, type Player, succeeds, TIMEOUT, timeout } from './crash-player.ts';
import { send, tracerOf } from './crash-trace.ts';

/** An action that is interrupted, and what comes then. */
export interface Scenario {
  readonly name: string;
  readonly parameters?: Readonly<Record<string, string>>;
  /** Whether it needs a guest that has never been started. */
  readonly isFirst?: true;
  /** Brings the guest to where the action is called. */
  readonly before: (player: Player) => Promise<unknown>;
  readonly action: (player: Player, under: readonly string[]) => Promise<Answer>;
  /** Whether the action is on the other node. */
  readonly isThere?: true;
  /** Whether what it does is to the whole node, so that no other guest can be there meanwhile. */
  readonly isAlone?: true;
  /** The next action, which has to finish what was interrupted. */
  readonly next: (player: Player) => Promise<unknown>;
  /** The guest runs again. */
  readonly after: (player: Player) => Promise<unknown>;
  /** What an operator may do meanwhile, by default `kvmha quiesce`. */
  readonly operator?: readonly string[];
}

const agent =
  (action: string, meta: Readonly<Record<string, string>> = {}): Scenario['action'] =>
  ({ here }, under) =>
    here.call(action, { under, meta: { timeout: TIMEOUT, ...meta } });
const move = ({ here, there }: Player) => ({
  ...{ timeout: TIMEOUT, migrate_source: here.node.name, migrate_target: there.node.name },
});
const stopped = { next: (player: Player) => player.stops(), after: (player: Player) => player.runsThere() };

export const SCENARIOS: readonly Scenario[] = [
  {
    name: 'a monitor that quiesces',
    before: (player) => player.faulted(),
    action: agent('monitor', { interval: '10000' }),
    ...stopped,
  },
  {
    name: 'a stop that quiesces',
    before: (player) => player.faulted(),
    action: agent('stop'),
    operator: ['release'],
    ...stopped,
  },
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
      send(player.here.pid(), 'SIGKILL');
      await until('its qemu to be gone', () => player.here.pids().length === 0);
    },
    action: agent('monitor', { interval: '10000' }),
    ...stopped,
  },
  { name: 'a start', isFirst: true, before: async () => {}, action: agent('start'), ...stopped },
  {
    name: 'a migrate_to',
    before: (player) => player.started(),
    action: (player, under) => player.here.call('migrate_to', { under, meta: move(player) }),
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
    isThere: true,
    before: async (player) => {
      await player.started();
      succeeds(await player.here.call('migrate_to', { meta: move(player) }));
    },
    action: (player, under) => player.there.call('migrate_from', { under, meta: move(player) }),
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
    operator: ['release'],
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
    operator: ['release'],
    ...stopped,
  },
  {
    name: 'a watcher that quiesces',
    isAlone: true,
    before: async (player) => {
      await player.started();
      await (await player.watched()).follows(player.name);
    },
    action: watcherQuiesces,
    next: async (player) => {
      // Every other time, the cluster starts the watcher anew before the next monitor is due.
      const { watch } = player;
      if (player.uses % 2 === 1 && watch !== undefined && !watch.isRunning) {
        await watch.start();
        await until('the watcher to finish', () => player.isToldByWatcher);
      }
      answered(await player.here.monitor(timeout()));
      await player.stops();
    },
    after: async (player) => {
      await player.unwatched();
      await player.runsThere();
    },
  },
];

/** Milliseconds in which the watcher acts, while it does not stand still. */
const WATCHER_PATIENCE = 8000;

/** The guest's storage fails while its watcher is traced, from then on until it has done what it does about that. */
async function watcherQuiesces(player: Player, under: readonly string[]): Promise<Answer> {
  const { here, watch } = player;
  assert.ok(watch !== undefined);
  const { pid } = watch;
  const traced = here.node.exec([...under, '-p', pidInNode(pid)], { timeout: PATIENCE });
  await until('the watcher to be traced', () => tracerOf(pid) > 0);
  const tracer = tracerOf(pid);
  player.fails();
  let acts = Deadline.in(WATCHER_PATIENCE);
  await Deadline.in(PATIENCE).poll(30, () => {
    if (/[Tt]/.test(stateOf(pid))) {
      acts = Deadline.in(WATCHER_PATIENCE);
    }
    return tracerOf(pid) === 0 || player.isToldByWatcher || acts.passed() || undefined;
  });
  if (tracerOf(pid) === tracer) {
    send(tracer, 'SIGINT');
  }
  return { ...(await traced), reason: undefined };
}

/** The number that a process of a node has there (proc(5), NSpid). */
function pidInNode(pid: number): string {
  const numbers = /^NSpid:\s*(.*)$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]?.split(/\s+/);
  assert.ok(numbers?.at(-1) !== undefined);
  return numbers.at(-1) ?? '';
}

/** The letter of a process's state (proc(5)); "" when it is gone. */
function stateOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ').at(-1)?.charAt(0) ?? '';
  } catch {
    return '';
  }
}

import { OCF, type OcfCode } from '../ocf.ts';
import type { GuestState } from './classify.ts';

/** The actions that depend on the guest's state; `monitor` is three different things to the cluster. */
export const SITUATIONS = [
  /** A monitor with interval 0 (`ocf_is_probe`). */
  'probe',
  /** A recurring monitor on the node where the cluster has the guest. */
  'monitor',
  /** A recurring monitor with role=Stopped, on the nodes where the guest must not be. */
  'monitor-role-stopped',
  'stop',
  'start',
  'migrate_to',
  'migrate_from',
] as const;
export type Situation = (typeof SITUATIONS)[number];

/** What the operator chose. */
export interface Policy {
  /** Whether a monitor counts a guest that an operator paused as running. */
  readonly operatorPause: 'healthy' | 'failed';
  /** Whether a guest whose storage is full is left until there is space, or is a failure. */
  readonly outOfSpace: 'hold' | 'fail';
  /** Whether a guest that panicked is fenced, or preserved like one with a hardware fault. */
  readonly guestPanic: 'fence' | 'preserve';
  /** Whether a monitor tells the cluster of an error that the guest has survived. */
  readonly degraded: 'report' | 'ignore';
}

/** What an action does about the guest, and what it answers then. */
export type Behaviour =
  /** Change nothing, answer at once. */
  | { readonly do: 'answer'; readonly code: OcfCode }
  /** Change nothing and fail, for a condition that must be ended first by someone else. */
  | { readonly do: 'refuse'; readonly code: OcfCode; readonly why: Refusal }
  /** Look again until the state is another; `code` is the answer if the deadline comes first, for the reason `why`. */
  | { readonly do: 'wait'; readonly code: OcfCode; readonly why?: Refusal }
  /** Boot the guest. */
  | { readonly do: 'boot' }
  /** Migrate the guest to the target that the cluster names. */
  | { readonly do: 'migrate' }
  /**
   * Ask the guest to shut down, after waking it where `wakeFirst` says so; destroy it early enough before the
   * deadline; verify; answer SUCCESS. A guest whose vCPUs stand still cannot hear the request.
   */
  | { readonly do: 'shut-down'; readonly wakeFirst: boolean }
  /** `destroy`, else SIGKILL the verified process; verify; answer SUCCESS. Not dead is a failure. */
  | { readonly do: 'destroy' }
  /** Run the fencing stage, whose failure is the action's. */
  | { readonly do: 'fence'; readonly then: AfterFencing }
  /** Try to quiesce. `proven` is the answer if the whole proof holds, else `otherwise` is what to do. */
  | { readonly do: 'quiesce'; readonly proven: OcfCode; readonly otherwise: Behaviour };

export type AfterFencing = Extract<Behaviour, { do: 'answer' | 'boot' }>;

export type Refusal =
  /** A preserved guest of this name is kept on this node: an operator must release it. */
  | 'preserved'
  /** Something of the guest is here that a stop must clear first. */
  | 'stop-first'
  /** The guest was seen running on another node. */
  | 'runs-elsewhere'
  /** A post-copy migration left the guest on two nodes: only who knows both sides may end one. */
  | 'post-copy'
  /** The guest is in no state to be migrated, or did not arrive in a good one. */
  | 'unfit'
  /** There is no guest here. */
  | 'not-running';

/** A number is what to answer at once, changing nothing. */
type Cell = OcfCode | Behaviour | ((policy: Policy) => OcfCode | Behaviour);

const boot: AfterFencing = { do: 'boot' };
const migrate: Behaviour = { do: 'migrate' };
const wait: Behaviour = { do: 'wait', code: OCF.ERR_GENERIC };
const shutDown: Behaviour = { do: 'shut-down', wakeFirst: false };
const wakeThenShutDown: Behaviour = { do: 'shut-down', wakeFirst: true };
const destroy: Behaviour = { do: 'destroy' };

const reported = byDegraded(OCF.DEGRADED, OCF.SUCCESS);

const stopFirst = refuse('stop-first');
const elsewhere = refuse('runs-elsewhere');
const postCopy = refuse('post-copy');
const untilWhole: Behaviour = { do: 'wait', code: OCF.ERR_GENERIC, why: 'post-copy' };
const unfit = refuse('unfit');
const notRunning = refuse('not-running');
const preserved = refuse('preserved');
const preservedHere = refuse('preserved', OCF.ERR_INSTALLED);

function answer(code: OcfCode): AfterFencing {
  return { do: 'answer', code };
}

function refuse(why: Refusal, code: OcfCode = OCF.ERR_GENERIC): Behaviour {
  return { do: 'refuse', code, why };
}

function fence(then: AfterFencing): Behaviour {
  return { do: 'fence', then };
}

function quiesce(proven: OcfCode, otherwise: Behaviour): Behaviour {
  return { do: 'quiesce', proven, otherwise };
}

/** A guest that panicked is fenced, or quiesced like a faulted one and fenced where that is not proved. */
function panic(code: OcfCode): Cell {
  const fenced = fence(answer(code));
  return byPanic(fenced, quiesce(code, fenced));
}

function byPause(healthy: OcfCode | Behaviour, failed: OcfCode | Behaviour): Cell {
  return ({ operatorPause }) => (operatorPause === 'healthy' ? healthy : failed);
}

function bySpace(hold: OcfCode | Behaviour, fail: OcfCode | Behaviour): Cell {
  return ({ outOfSpace }) => (outOfSpace === 'hold' ? hold : fail);
}

function byDegraded(report: OcfCode, ignore: OcfCode): Cell {
  return ({ degraded }) => (degraded === 'report' ? report : ignore);
}

function byPanic(fenced: Behaviour, kept: Behaviour): Cell {
  return ({ guestPanic }) => (guestPanic === 'fence' ? fenced : kept);
}

/** One state's cells, in the order of SITUATIONS. */
type Row = readonly [Cell, Cell, Cell, Cell, Cell, Cell, Cell];

/**
 * The state table of the design. 0 SUCCESS, 1 ERR_GENERIC, 7 NOT_RUNNING, 190 DEGRADED.
 *
 * - probe changes nothing: 1 makes the cluster stop what is here, 7 lets it start the guest elsewhere.
 * - monitor starts the fencing stage by itself only for what has ended: shut off and crashed.
 * - role Stopped changes nothing, and answers 0 only if the vCPUs are seen running: 0 or 1 makes the cluster stop
 *   the healthy copy too.
 * - stop answers 0 untouched for a preserved guest alone. In post-copy it waits for the migration to end, and fails
 *   if it does not (the cluster fences the node then), because to end one side is to lose the guest.
 * - start leaves a guest that is here as it is. It refuses beside the remains of a guest that migrated away:
 *   with a copy seen running only the image locks would be left between two writers. The stop that follows a
 *   failed start removes the remains.
 * - migrate_to answers 0 for a guest that is already away: migrate_from verifies it on the target.
 * - migrate_from answers 0 for what can arrive alive, and does not wait where nothing is coming.
 */
// biome-ignore format: it is a table
const TABLE: { readonly [state in GuestState]: Row } = {
  //                         probe  monitor                 role Stopped  stop                  start                             migrate_to                migrate_from
  'running':                [0,     0,                      0,            shutDown,             0,                                migrate,                  0],
  'degraded':               [reported, reported,            0,            shutDown,             0,                                migrate,                  0],
  'transient':              [0,     0,                      7,            shutDown,             wait,                             wait,                     wait],
  'paused-by-operator':     [0,     byPause(0, 1),          7,            shutDown,             byPause(0, stopFirst),            byPause(migrate, unfit),  byPause(0, unfit)],
  'incoming':               [7,     7,                      7,            destroy,              wait,                             notRunning,               wait],
  'migrated-away':          [7,     7,                      7,            destroy,              elsewhere,                        0,                        elsewhere],
  'post-copy':              [1,     1,                      7,            untilWhole,           postCopy,                         postCopy,                 postCopy],
  'suspended':              [0,     0,                      7,            wakeThenShutDown,     0,                                migrate,                  0],
  'out-of-space':           [0,     bySpace(0, 1),          7,            shutDown,             bySpace(0, stopFirst),            bySpace(migrate, unfit),  bySpace(0, unfit)],
  'faulted':                [1,     quiesce(7, answer(1)),  7,            quiesce(0, destroy),  stopFirst,                        unfit,                    unfit],
  'quiesced-failover-safe': [7,     7,                      7,            0,                    preservedHere,                    preserved,                preservedHere],
  'shut-off':               [7,     fence(answer(7)),       7,            fence(answer(0)),     boot,                             notRunning,               notRunning],
  'shut-off-process-left':  [1,     fence(answer(7)),       7,            fence(answer(0)),     fence(boot),                      notRunning,               notRunning],
  'crashed':                [1,     panic(7),               7,            panic(0),             byPanic(fence(boot), stopFirst),  unfit,                    unfit],
  'unknown':                [1,     1,                      7,            destroy,              stopFirst,                        unfit,                    wait],
};

/** What an action does about a guest in `state`. Whether it may change anything at all is the caller's to know. */
export function verdict(state: GuestState, situation: Situation, policy: Policy): Behaviour {
  const cell = TABLE[state][SITUATIONS.indexOf(situation)] as Cell;
  const decided = typeof cell === 'function' ? cell(policy) : cell;
  return typeof decided === 'number' ? answer(decided) : decided;
}

/** Whether the guest, and everything of it, stays as it is: true of every behaviour of a probe. */
export function changesNothing(behaviour: Behaviour): boolean {
  return behaviour.do === 'answer' || behaviour.do === 'refuse' || behaviour.do === 'wait';
}

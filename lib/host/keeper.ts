import { hostname, uptime } from 'node:os';
import { join } from 'node:path';
import { knownHealth, maintenanceOf, readNode, setHealth } from '../cluster/node-health.ts';
import type { Deadline } from '../deadline.ts';
import { isKvmhaError, messageOf } from '../error.ts';
import type { Journal, JournalEntry } from '../journal.ts';
import type { Log } from '../log.ts';
import { DEFAULT_POLICY_PATH } from '../parameters.ts';
import { DEFAULT_POLICY, loadPolicy, type Policy } from '../policy.ts';
import { makeStateDirectory, STATE_DIRECTORY } from '../record/directory.ts';
import { readJsonFile, writeJsonFile } from '../record/json-file.ts';
import { lockFile } from '../record/lock.ts';
import {
  afterQuiet,
  declare,
  HEALTHY,
  type Health,
  type HostHealth,
  isHostHealth,
  judge,
  leftOutUntil,
  lost,
  type Moment,
} from './health.ts';
import { describeError, errorForJournal, type HostError } from './host-error.ts';

const RECORD = join(STATE_DIRECTORY, 'host.json');
const LOCK = join(STATE_DIRECTORY, 'host.lock');

/**
 * What is known of this node's health.
 *
 * @throws KvmhaError `file`, `malformed`
 */
export function readHostHealth(): HostHealth {
  return readJsonFile(RECORD, isHostHealth) ?? HEALTHY;
}

/**
 * Keeps this node's health: judges errors, writes down what follows, and tells the cluster. The watcher, the agent and
 * the operator's command share one record of it, under a lock.
 */
export class HealthKeeper {
  readonly #log: Log;
  readonly #journal: Pick<Journal, 'record'>;
  #policyProblem: string | undefined;

  constructor(log: Log, journal: Pick<Journal, 'record'>) {
    this.#log = log;
    this.#journal = journal;
  }

  /** This node's policy; the defaults, with a message in the log, where it cannot be read. */
  async policy(): Promise<Policy> {
    try {
      const policy = await loadPolicy(DEFAULT_POLICY_PATH);
      this.#policyProblem = undefined;
      return policy;
    } catch (error) {
      if (!isKvmhaError(error)) {
        throw error;
      }
      if (this.#policyProblem !== messageOf(error)) {
        this.#policyProblem = messageOf(error);
        this.#log.err(`${messageOf(error)}; going by the default policy`);
      }
      return DEFAULT_POLICY;
    }
  }

  /**
   * Judges errors, and tells the cluster what follows.
   *
   * @param missed events that were lost before they were read
   * @returns the state after it
   * @throws KvmhaError `locked`, `file`, `program-missing`
   */
  async report(errors: readonly HostError[], deadline: Deadline, missed = 0): Promise<HostHealth> {
    const policy = await this.policy();
    if (!policy.host.enabled) {
      return readHostHealth();
    }
    return this.#change(policy, deadline, (before) => {
      const now = thisMoment();
      const state = errors.reduce((each, error) => this.#judge(each, error, policy, now), before);
      return lost(state, missed);
    });
  }

  /** What an operator says the health is; it is told to the cluster whatever the policy is. @throws as `report` */
  async declare(health: Health, why: string, deadline: Deadline): Promise<HostHealth> {
    const policy = await this.policy();
    return this.#change(
      policy,
      deadline,
      (before) => {
        this.#record({ what: 'decided', do: 'declare', health, why });
        this.#log.info(`this node's health is ${health}: ${why}`);
        return declare(before, health, why, thisMoment());
      },
      true,
    );
  }

  /**
   * What time brings: health returns after the quiet time, what the journal left out is told, and the cluster is told
   * again what it has not been told or has forgotten. To be called now and then.
   *
   * @throws as `report`
   */
  async keepUp(deadline: Deadline): Promise<void> {
    const policy = await this.policy();
    const state = this.#readOrBegin();
    const now = thisMoment();
    const isDue =
      state.health !== 'green' ||
      !isTold(state) ||
      afterQuiet(state, policy.host, now) !== undefined ||
      leftOutUntil(state, now) !== undefined;
    if (isDue) {
      await this.#change(policy, deadline, (before) => this.#afterAWhile(before, policy, now), true);
    }
  }

  #afterAWhile(before: HostHealth, policy: Policy, now: Moment): HostHealth {
    let state = before;
    const told = leftOutUntil(state, now);
    if (told !== undefined) {
      ({ state } = told);
      const { leftOut } = told;
      this.#record({
        what: 'seen',
        leftOut,
        words: `${leftOut} further errors of the host were not written down`,
      });
    }
    const quiet = afterQuiet(state, policy.host, now);
    if (quiet !== undefined) {
      this.#record({ what: 'decided', do: 'recover', health: quiet.health, why: quiet.why });
      this.#log.info(`this node's health is green again: ${quiet.why}`);
    }
    return quiet ?? state;
  }

  #judge(before: HostHealth, error: HostError, { host, watch }: Policy, now: Moment): HostHealth {
    const { state, verdict, journal } = judge(before, error, host, now);
    const words = describeError(error);
    if (journal.write) {
      const leftOut = journal.leftOut === 0 ? {} : { leftOut: journal.leftOut };
      const same = verdict.do === 'skip' ? { skipped: verdict.why } : {};
      this.#record({ what: 'seen', error: errorForJournal(error), words, ...same, ...leftOut });
      this.#log.info(`an error of the host: ${words}`);
    }
    if (verdict.do === 'raise') {
      const { health, why } = verdict;
      this.#record({ what: 'decided', do: 'raise', mode: watch.mode, health, why });
      this.#log.warn(`this node's health is ${health}: ${why}`);
    }
    return state;
  }

  async #change(
    policy: Policy,
    deadline: Deadline,
    work: (before: HostHealth) => HostHealth,
    tell = false,
  ): Promise<HostHealth> {
    makeStateDirectory();
    const lock = await lockFile(LOCK, "another kvmha process is changing this node's health", deadline);
    try {
      const before = this.#readOrBegin();
      let state = work(before);
      // Before the cluster is told, which may take its time.
      writeJsonFile(RECORD, state);
      // Who keeps up tries again what the cluster could not be told.
      if (tell || state.health !== before.health) {
        state = await this.#tell(state, policy, deadline);
        writeJsonFile(RECORD, state);
      }
      return state;
    } finally {
      lock.release();
    }
  }

  #readOrBegin(): HostHealth {
    try {
      return readHostHealth();
    } catch (error) {
      if (!isKvmhaError(error, 'malformed')) {
        throw error;
      }
      this.#log.err(`${messageOf(error)}; what it said of this node's health is lost`);
      return HEALTHY;
    }
  }

  async #tell(state: HostHealth, policy: Policy, deadline: Deadline): Promise<HostHealth> {
    const { health, byOperator } = state;
    if (policy.watch.mode === 'observe' && !byOperator) {
      return this.#untold(state, 'the policy says watch.mode: observe');
    }
    const view = await readNode(deadline);
    if (view.kind !== 'cluster') {
      // A cluster that has stopped here has forgotten what it was told.
      return this.#untold(view.kind === 'none' ? { ...state, told: null } : state, view.why);
    }
    const known = await knownHealth(view.localNode, deadline);
    if (known.kind !== 'value') {
      return this.#untold(state, known.why);
    }
    if (known.value === health || (known.value === undefined && health === 'green')) {
      return { ...state, told: known.value === undefined ? null : health, untold: null };
    }
    const inTheWay = byOperator ? undefined : maintenanceOf(view);
    if (inTheWay !== undefined) {
      return this.#untold(state, inTheWay);
    }
    const ordered = await setHealth(view.localNode, health, state.why ?? '', deadline);
    if (ordered.kind !== 'done') {
      return this.#untold(state, ordered.why);
    }
    this.#record({ what: 'done', action: 'node-health', health, outcome: 'told' });
    this.#log.info(`the cluster was told that the health of ${view.localNode} is ${health}`);
    return { ...state, told: health, untold: null };
  }

  /** The same reason is told once. */
  #untold(state: HostHealth, why: string): HostHealth {
    if (isTold(state)) {
      return { ...state, untold: null };
    }
    if (state.untold !== why) {
      this.#record({ what: 'done', action: 'node-health', health: state.health, outcome: 'not-told', why });
      this.#log.warn(`the cluster was not told that this node's health is ${state.health}: ${why}`);
    }
    return { ...state, untold: why };
  }

  #record(entry: Pick<JournalEntry, 'what'> & { readonly [detail: string]: unknown }): void {
    this.#journal.record({ host: hostname(), ...entry });
  }
}

/** Whether the cluster knows the health; one that was never told anything takes the node for green. */
export function isTold({ health, told }: HostHealth): boolean {
  return health === (told ?? 'green');
}

function thisMoment(): Moment {
  return { time: new Date().toISOString(), uptime: uptime() };
}

import { HEALTHY, type Health, judge } from '../host/health.ts';
import { describeError, type HostError } from '../host/host-error.ts';
import { type Policy as FilePolicy, hyphenated } from '../policy.ts';
import { GUEST_STATES, type GuestState } from '../state/classify.ts';
import { type Behaviour, type Policy as StatePolicy, verdict } from '../state/verdict.ts';
import { inWords, type Meaning } from './meaning.ts';
import { verdictOnEvent, verdictOnState, type WatchVerdict } from './verdict.ts';

/** A setting, and what it is: a key of the policy file, or a parameter of the resource. */
export interface Setting {
  readonly of: 'policy' | 'resource';
  readonly name: string;
  readonly value: string;
}

/** What the watcher, and for a state the recurring monitor, does about something, and which settings decide it. */
export interface Explanation {
  /** The event in words, or the guest's state. */
  readonly about: string;
  readonly watcher: WatchVerdict['do'];
  /** What the recurring monitor does about the state; null for an event, of which a monitor does not hear. */
  readonly monitor: string | null;
  /** The settings that were asked for the verdict; with none it is the same under every policy. */
  readonly decidedBy: readonly Setting[];
  /** The settings that a quiesce depends on beside. */
  readonly conditions: readonly Setting[];
  /** Where QEMU's state decides and not the event: the states that it may find, each explained. */
  readonly states: readonly Explanation[];
}

/** What an error of the host's hardware makes of its node, and which settings decide it. */
export interface HostExplanation {
  /** The error in words. */
  readonly about: string;
  /** The health that the node gets; null where it stays as it is. */
  readonly health: Health | null;
  readonly decidedBy: readonly Setting[];
  /** The settings that decide whether such errors are heard of, and told to the cluster. */
  readonly conditions: readonly Setting[];
}

/** The parameters of a resource that decide what becomes of its guest. */
export type ResourceChoices = Pick<StatePolicy, 'operatorPause' | 'guestPanic'>;

export const DEFAULT_CHOICES: ResourceChoices = { operatorPause: 'healthy', guestPanic: 'fence' };

const RESOURCE_PARAMETERS: Readonly<Record<string, string>> = {
  operatorPause: 'operator_pause',
  guestPanic: 'guest_panic',
};

/** Explains what an event of QEMU is answered with. */
export function explainEvent(meaning: Meaning, policy: FilePolicy, choices: ResourceChoices): Explanation {
  const asked: Setting[] = [];
  const decided = verdictOnEvent(meaning, policyThatTells(policy.watch, ['watch'], asked));
  const states = decided.do === 'look' ? statesAfter(meaning) : [];
  return {
    about: inWords(meaning),
    watcher: decided.do,
    monitor: null,
    decidedBy: asked,
    conditions: decided.do === 'fail-over' ? conditionsOfQuiesce(policy) : [],
    states: states.map((state) => explainState(state, policy, choices)),
  };
}

/** Explains what follows from an error of the host's hardware on a node that had none before. */
export function explainHostError(error: HostError, policy: FilePolicy): HostExplanation {
  const asked: Setting[] = [];
  const host = policyThatTells(policy.host, ['host'], asked);
  const { verdict: judged } = judge(HEALTHY, error, host, { time: new Date(0).toISOString(), uptime: 0 });
  return {
    about: describeError(error),
    health: judged.do === 'raise' ? judged.health : null,
    decidedBy: withoutRepetition(asked),
    conditions: [
      { of: 'policy', name: 'host.enabled', value: String(policy.host.enabled) },
      { of: 'policy', name: 'watch.mode', value: policy.watch.mode },
    ],
  };
}

/** Explains what is done about a guest in a state, by the watcher and by the recurring monitor. */
export function explainState(state: GuestState, policy: FilePolicy, choices: ResourceChoices): Explanation {
  const asked: Setting[] = [];
  const told: StatePolicy = {
    get operatorPause() {
      asked.push(parameter('operatorPause', choices.operatorPause));
      return choices.operatorPause;
    },
    get guestPanic() {
      asked.push(parameter('guestPanic', choices.guestPanic));
      return choices.guestPanic;
    },
    get outOfSpace() {
      asked.push({ of: 'policy', name: 'out-of-space', value: policy.outOfSpace });
      return policy.outOfSpace;
    },
    get degraded() {
      asked.push({ of: 'policy', name: 'monitor.degraded', value: policy.monitor.degraded });
      return policy.monitor.degraded;
    },
  };
  const behaviour = verdict(state, 'monitor', told);
  const watcher = verdictOnState({ state, reason: state }, told).do;
  return {
    about: state,
    watcher,
    monitor: behaviourInWords(behaviour),
    decidedBy: withoutRepetition(asked),
    conditions: behaviour.do === 'quiesce' ? conditionsOfQuiesce(policy) : [],
    states: [],
  };
}

export function isGuestState(word: string): word is GuestState {
  return GUEST_STATES.some((state) => state === word);
}

function parameter(name: string, value: string): Setting {
  return { of: 'resource', name: RESOURCE_PARAMETERS[name] ?? name, value };
}

/** The policy, putting down every value that is read from it: what decides is what the verdict has looked at. */
function policyThatTells<T extends object>(policy: T, path: readonly string[], asked: Setting[]): T {
  return new Proxy(policy, {
    get(target, name, receiver) {
      const value: unknown = Reflect.get(target, name, receiver);
      const key = [...path, hyphenated(String(name))];
      if (typeof value === 'object' && value !== null) {
        return policyThatTells(value, key, asked);
      }
      asked.push({ of: 'policy', name: key.join('.'), value: String(value) });
      return value;
    },
  });
}

function withoutRepetition(settings: readonly Setting[]): Setting[] {
  return settings.filter(({ name }, index) => settings.findIndex((each) => each.name === name) === index);
}

function conditionsOfQuiesce({ quiesce, watch }: FilePolicy): Setting[] {
  const { guests, seconds } = quiesce.storm;
  const settings = [
    ['quiesce.enabled', quiesce.enabled],
    ['quiesce.storm', `{ guests: ${guests}, seconds: ${seconds} }`],
    ['quiesce.require-eligible-node', quiesce.requireEligibleNode],
    ['watch.mode', watch.mode],
  ] as const;
  return settings.map(([name, value]) => ({ of: 'policy', name, value: String(value) }));
}

/** The states in which QEMU may be found after an event that does not decide by itself. */
function statesAfter(meaning: Meaning): readonly GuestState[] {
  switch (meaning.kind) {
    case 'io-error':
      return meaning.noSpace ? ['out-of-space', 'faulted'] : ['faulted'];
    case 'stopped':
      return ['faulted', 'out-of-space', 'crashed', 'paused-by-operator', 'quiesced-failover-safe'];
    case 'resumed':
      return ['running', 'faulted'];
    case 'guest-panicked':
      return ['crashed', 'running', 'shut-off'];
    case 'watchdog':
      return ['faulted', 'running', 'shut-off'];
    case 'shut-down':
    case 'memory-failure':
      return ['transient', 'shut-off', 'shut-off-process-left'];
    case 'crash-kernel':
    case 'reset':
    case 'nothing':
      return [];
  }
}

function behaviourInWords(behaviour: Behaviour): string {
  switch (behaviour.do) {
    case 'answer':
      return `answers ${codeInWords(behaviour.code)}`;
    case 'refuse':
    case 'wait':
      return `answers ${codeInWords(behaviour.code)} (${behaviour.do})`;
    case 'fence':
      return `makes sure that the guest's qemu has ended, and ${behaviourInWords(behaviour.then)}`;
    case 'quiesce':
      return (
        `quiesces the guest, and with the whole proof answers ${codeInWords(behaviour.proven)}; without it ` +
        behaviourInWords(behaviour.otherwise)
      );
    case 'boot':
    case 'migrate':
    case 'shut-down':
    case 'destroy':
      return `does ${behaviour.do}`;
  }
}

function codeInWords(code: number): string {
  const words: Readonly<Record<number, string>> = {
    0: 'running',
    1: 'failed',
    7: 'not running',
    190: 'degraded',
  };
  return words[code] === undefined ? String(code) : `"${words[code]}" (${code})`;
}

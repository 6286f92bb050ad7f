import type { Policy } from '../policy.ts';
import { describeError, type HostError, pageOf, type Severity } from './host-error.ts';

/** Pacemaker's words for the health of a node (Pacemaker Explained, "Tracking Node Health"). */
export type Health = 'green' | 'yellow' | 'red';

/** What is known of the health of this node, as it is kept until the node reboots. */
export interface HostHealth {
  /** What follows from the errors, or what an operator has said. */
  readonly health: Health;
  /** Since when (ISO 8601); null if it has been green ever since. */
  readonly since: string | null;
  readonly why: string | null;
  readonly byOperator: boolean;
  /** What the cluster was told last; null when nothing was. */
  readonly told: Health | null;
  /** Why the cluster was not told; null when there was no reason. */
  readonly untold: string | null;
  /** When the last error came that health depends on, in seconds since boot. */
  readonly lastBad: number | null;
  /** How many errors there were of each severity. */
  readonly totals: Readonly<Record<Severity, number>>;
  /** Events that the kernel had to drop because they came too fast. */
  readonly missed: number;
  /** The last errors in words, the latest last. */
  readonly recent: readonly { readonly time: string; readonly words: string }[];
  /** Corrected errors by component: pairs of a time slot and how many there were in it. */
  readonly rates: Readonly<Record<string, readonly (readonly [number, number])[]>>;
  /** The pages of uncorrected errors: page, source, and seconds since boot. */
  readonly pages: readonly (readonly [string, string, number])[];
  readonly writing: { readonly minor: Writing; readonly major: Writing };
}

/** How much was written into the journal since a moment, and how much was not. */
interface Writing {
  /** Seconds since boot. */
  readonly since: number;
  readonly written: number;
  readonly leftOut: number;
}

export type HealthPolicy = Policy['host'];

export interface Moment {
  /** ISO 8601, for people. */
  readonly time: string;
  /** Seconds since boot, for what is counted: steps of the wall clock do not matter. */
  readonly uptime: number;
}

export const HEALTHY: HostHealth = {
  health: 'green',
  since: null,
  why: null,
  byOperator: false,
  told: null,
  untold: null,
  lastBad: null,
  totals: { informational: 0, corrected: 0, uncorrected: 0, fatal: 0 },
  missed: 0,
  recent: [],
  rates: {},
  pages: [],
  writing: {
    minor: { since: 0, written: 0, leftOut: 0 },
    major: { since: 0, written: 0, leftOut: 0 },
  },
};

/** What follows from one error. */
export interface Judgement {
  readonly state: HostHealth;
  readonly verdict: /** It is counted; health does not depend on it. */
    | { readonly do: 'count' }
    /** It is what another source has told already. */
    | { readonly do: 'skip'; readonly why: string }
    /** Health is that bad already. */
    | { readonly do: 'keep'; readonly why: string }
    /** Health becomes worse. */
    | { readonly do: 'raise'; readonly health: Health; readonly why: string };
  /** Whether it is written into the journal; `leftOut`: how many before it were not. */
  readonly journal: { readonly write: boolean; readonly leftOut: number };
}

/** How many of the last errors are kept in words. */
const RECENT = 10;

/** In how many slots the time is divided in which corrected errors are counted. */
const SLOTS = 24;

/** Of more components than that the one that was quiet for longest is forgotten. */
const MAX_COMPONENTS = 128;

/** How many pages are remembered, and for how many seconds two sources may tell of the same error. */
const MAX_PAGES = 64;
const SAME_ERROR = 10;

/** The journal takes that many errors in so many seconds: those that matter less must not keep out the others. */
const WRITING_PERIOD = 60;
const MINOR_WRITTEN = 10;
const MAJOR_WRITTEN = 60;

const RANKS: Readonly<Record<Health, number>> = { green: 0, yellow: 1, red: 2 };

export function isWorse(one: Health, other: Health): boolean {
  return RANKS[one] > RANKS[other];
}

/** Judges an error by what came before it. */
export function judge(before: HostHealth, error: HostError, policy: HealthPolicy, now: Moment): Judgement {
  const limited = limit(before, error, now);
  const journal = { write: limited.write, leftOut: limited.leftOut };
  const same = sameError(before, error, now);
  if (same !== undefined) {
    return { state: limited.state, verdict: { do: 'skip', why: same }, journal };
  }
  const { state, wanted, why } = weigh(noted(limited.state, error, now), error, policy, now);
  if (wanted === 'ignore') {
    return { state, verdict: { do: 'count' }, journal };
  }
  const bad = { ...state, lastBad: now.uptime };
  if (!isWorse(wanted, state.health)) {
    return { state: bad, verdict: { do: 'keep', why }, journal };
  }
  const raised = { ...bad, health: wanted, since: now.time, why, byOperator: false };
  return { state: raised, verdict: { do: 'raise', health: wanted, why }, journal };
}

/** Events were lost before they could be judged. They are told of with what the journal leaves out. */
export function lost(state: HostHealth, missed: number): HostHealth {
  const { minor, major } = state.writing;
  const writing = { minor: { ...minor, leftOut: minor.leftOut + missed }, major };
  return missed === 0 ? state : { ...state, missed: state.missed + missed, writing };
}

/** What an operator says the health is. Green also forgets what was counted. */
export function declare(before: HostHealth, health: Health, why: string, now: Moment): HostHealth {
  const state = { ...before, health, since: now.time, why, byOperator: true };
  return health === 'green' ? { ...state, lastBad: null, rates: {}, pages: [] } : state;
}

/**
 * The state after a time without errors that matter, where the policy lets health return by itself.
 *
 * @returns undefined when nothing changes; what an operator has said stays
 */
export function afterQuiet(state: HostHealth, policy: HealthPolicy, now: Moment): HostHealth | undefined {
  const { health, byOperator, lastBad } = state;
  const { quietTime } = policy;
  if (health === 'green' || byOperator || quietTime === 0 || lastBad === null) {
    return undefined;
  }
  if (now.uptime - lastBad < quietTime) {
    return undefined;
  }
  const why = `no error that matters for ${quietTime} s`;
  return { ...state, health: 'green', since: now.time, why, lastBad: null, rates: {}, pages: [] };
}

/**
 * What was left out of the journal and must be told now, as no error has come to tell it with.
 *
 * @returns undefined when there is nothing to tell
 */
export function leftOutUntil(
  state: HostHealth,
  now: Moment,
): { readonly state: HostHealth; readonly leftOut: number } | undefined {
  const { minor, major } = state.writing;
  const due = [minor, major].filter(({ since, leftOut }) => leftOut > 0 && isOver(since, now));
  if (due.length === 0) {
    return undefined;
  }
  const cleared = (each: Writing) =>
    due.includes(each) ? { since: now.uptime, written: 0, leftOut: 0 } : each;
  const leftOut = due.reduce((sum, each) => sum + each.leftOut, 0);
  return { state: { ...state, writing: { minor: cleared(minor), major: cleared(major) } }, leftOut };
}

function isOver(since: number, now: Moment): boolean {
  return now.uptime < since || now.uptime - since >= WRITING_PERIOD;
}

function limit(
  state: HostHealth,
  { severity }: HostError,
  now: Moment,
): { readonly state: HostHealth; readonly write: boolean; readonly leftOut: number } {
  const name = severity === 'corrected' || severity === 'informational' ? 'minor' : 'major';
  const most = name === 'minor' ? MINOR_WRITTEN : MAJOR_WRITTEN;
  const current = state.writing[name];
  const over = isOver(current.since, now);
  const { since, written, leftOut } = over
    ? { since: now.uptime, written: 0, leftOut: current.leftOut }
    : current;
  const write = written < most;
  const writing = write
    ? { since, written: written + 1, leftOut: 0 }
    : { since, written, leftOut: leftOut + 1 };
  return {
    state: { ...state, writing: { ...state.writing, [name]: writing } },
    write,
    leftOut: write ? leftOut : 0,
  };
}

/** An error of memory is told by the memory controller and, when the kernel takes the page out of use, again. */
function sameError(state: HostHealth, error: HostError, now: Moment): string | undefined {
  const page = pageOf(error)?.toString(16);
  if (page === undefined || !isLossOfMemory(error)) {
    return undefined;
  }
  const found = state.pages.find(
    ([each, source, uptime]) =>
      each === page && source !== error.source && Math.abs(now.uptime - uptime) <= SAME_ERROR,
  );
  return found === undefined ? undefined : `${found[1]} has told of this page`;
}

function isLossOfMemory({ kind, severity }: HostError): boolean {
  return (kind === 'memory' || kind === 'page') && (severity === 'uncorrected' || severity === 'fatal');
}

function noted(state: HostHealth, error: HostError, now: Moment): HostHealth {
  const { kind, severity, count, source } = error;
  const page = isLossOfMemory(error) ? pageOf(error)?.toString(16) : undefined;
  return {
    ...state,
    totals: kind === 'storm' ? state.totals : { ...state.totals, [severity]: state.totals[severity] + count },
    recent: [...state.recent, { time: now.time, words: describeError(error) }].slice(-RECENT),
    pages:
      page === undefined
        ? state.pages
        : [...state.pages, [page, source, now.uptime] as const].slice(-MAX_PAGES),
  };
}

interface Weighed {
  readonly state: HostHealth;
  readonly wanted: Health | 'ignore';
  readonly why: string;
}

function weigh(state: HostHealth, error: HostError, policy: HealthPolicy, now: Moment): Weighed {
  if (error.severity === 'corrected') {
    return weighCorrected(state, error, policy.corrected, now);
  }
  return { state, wanted: wantedFor(error, policy), why: describeError(error) };
}

function wantedFor(error: HostError, policy: HealthPolicy): Health | 'ignore' {
  const { kind, severity, guest } = error;
  if (kind === 'storm') {
    return policy.storm;
  }
  if (severity === 'informational') {
    return 'ignore';
  }
  if (severity === 'fatal') {
    return policy.fatal;
  }
  if (!isLossOfMemory(error)) {
    return policy.device;
  }
  return guest === undefined ? policy.memory : policy.memoryOfGuest;
}

function weighCorrected(
  state: HostHealth,
  { component, count }: HostError,
  { health, errors, seconds }: HealthPolicy['corrected'],
  now: Moment,
): Weighed {
  const slot = Math.floor((now.uptime / seconds) * SLOTS);
  // The component's name is the firmware's: it could be that of something that every object has.
  const before = Object.hasOwn(state.rates, component) ? (state.rates[component] ?? []) : [];
  const kept = before.filter(([each]) => each > slot - SLOTS && each <= slot);
  const last = kept.at(-1);
  const slots =
    last?.[0] === slot
      ? [...kept.slice(0, -1), [slot, last[1] + count] as const]
      : [...kept, [slot, count] as const];
  const { [component]: _, ...others } = state.rates;
  // The one that was counted last stands at the end.
  const all = [...Object.entries(others), [component, slots] as const].slice(-MAX_COMPONENTS);
  const sum = slots.reduce((total, [, many]) => total + many, 0);
  return {
    state: { ...state, rates: Object.fromEntries(all) },
    wanted: sum >= errors ? health : 'ignore',
    why: `${component}: ${sum} corrected errors within ${seconds} s`,
  };
}

/** Whether what was read from a file is a state. */
export function isHostHealth(value: unknown): value is HostHealth {
  const state = value as Partial<HostHealth> | null;
  return (
    typeof state === 'object' &&
    state !== null &&
    Object.hasOwn(RANKS, String(state.health)) &&
    Array.isArray(state.recent) &&
    Array.isArray(state.pages) &&
    isRecord(state.rates) &&
    isRecord(state.totals) &&
    isRecord(state.writing?.minor) &&
    isRecord(state.writing?.major)
  );
}

function isRecord(value: unknown): boolean {
  return typeof value === 'object' && value !== null;
}

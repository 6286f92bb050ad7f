import { join } from 'node:path';
import { Deadline } from '../deadline.ts';
import { isKvmhaError, messageOf } from '../error.ts';
import { type Counter, Reconciler, undated } from '../host/counters.ts';
import { describeError, type HostError, pageOf } from '../host/host-error.ts';
import { type HealthKeeper, readHostHealth } from '../host/keeper.ts';
import { located, readCounters } from '../host/sysfs.ts';
import { TRACEFS, TraceReader } from '../host/tracefs.ts';
import type { Journal } from '../journal.ts';
import type { Log } from '../log.ts';
import { STATE_DIRECTORY } from '../record/directory.ts';
import { readJsonFile, writeJsonFile } from '../record/json-file.ts';

/** Milliseconds between two readings of the trace: nothing can be waited for there without a thread of its own. */
const POLL = 500;

/** Milliseconds more for each CPU, so that a large node reads no more often than it can without being noticed. */
const POLL_PER_CPU = 4;

/** Milliseconds in which errors of little weight are gathered. */
const GATHER = 2000;

/** Milliseconds that lost memory waits for QEMU's word on whose it was, and how old that may be. */
const GUEST_PATIENCE = 1500;
const GUEST_MEMORY = 5000;

/** Milliseconds for one report: the record's lock, and the cluster. */
const REPORT_PATIENCE = 15_000;

/** Milliseconds until a report is tried again that could not be made. */
const RETRY = 2000;

/** More different errors than that at a time are not told apart but by kind, and more guests not remembered. */
const MAX_WAITING = 256;
const MAX_GUESTS = 64;

/** What the watcher says of how it hears of the host's errors. */
export interface HostStatus {
  readonly enabled: boolean;
  /** The trace events it listens to. */
  readonly trace: readonly string[];
  /** How many counters of each kind it reads. */
  readonly counters: { readonly memory: number; readonly pci: number; readonly pages: number };
  /** What it cannot hear of, with the reason. */
  readonly missing: readonly string[];
  readonly health: string;
  readonly since: string | null;
  readonly why: string | null;
  /** Why the cluster does not know it; null if it does. */
  readonly untold: string | null;
  /** Events that came too fast to be read. */
  readonly missed: number;
  readonly recent: readonly { readonly time: string; readonly words: string }[];
}

export interface HostWatchOptions {
  /** Where tracefs may be mounted. */
  readonly tracefs?: readonly string[];
  /** Name of the trace instance. */
  readonly instance?: string;
  /** Where sysfs is mounted. */
  readonly sysfs?: string;
  /** Where the counters are kept from one watcher to the next. */
  readonly counters?: string;
}

interface Waiting {
  readonly error: HostError;
  /** On the monotonic clock: when it is judged at the latest. */
  readonly until: number;
}

/** Hears of errors of the host's hardware, and has them judged. */
export class HostWatch {
  readonly #keeper: HealthKeeper;
  readonly #log: Log;
  readonly #journal: Pick<Journal, 'record'>;
  readonly #options: Required<HostWatchOptions>;
  #reconciler: Reconciler | undefined;
  #trace: TraceReader | undefined;
  #traceProblem = '';
  #enabled = true;
  #missing: readonly string[] = [];
  #kinds: HostStatus['counters'] = { memory: 0, pci: 0, pages: 0 };
  /** Errors that are alike are one, by what they have in common. */
  readonly #waiting = new Map<string, Waiting>();
  #missed = 0;
  /** Guests of which QEMU has said that the host lost memory of theirs, and which page it turned out to be. */
  #guests: { readonly name: string; readonly at: number; page: bigint | undefined }[] = [];
  #poll: NodeJS.Timeout | undefined;
  #tick: NodeJS.Timeout | undefined;
  #working: Promise<void> | undefined;
  #ended = false;

  constructor(
    keeper: HealthKeeper,
    log: Log,
    journal: Pick<Journal, 'record'>,
    options: HostWatchOptions = {},
  ) {
    this.#keeper = keeper;
    this.#log = log;
    this.#journal = journal;
    this.#options = {
      tracefs: TRACEFS,
      instance: 'kvmha',
      sysfs: '/sys',
      counters: join(STATE_DIRECTORY, 'host-counters.json'),
      ...options,
    };
  }

  /** Begins to listen. Resolves when all was read once and the cluster knows of it; does not throw. */
  async start(): Promise<void> {
    await this.#look();
    this.#schedulePoll();
  }

  /** Ends it, when what was heard is judged. */
  async stop(): Promise<void> {
    this.#ended = true;
    clearTimeout(this.#poll);
    clearTimeout(this.#tick);
    this.#readTrace();
    await this.#working;
    await this.#judge(Number.POSITIVE_INFINITY);
    this.#closeTrace();
  }

  /** QEMU has said that the host lost memory of this guest. */
  guestHit(name: string): void {
    const at = performance.now();
    this.#guests = [...this.#guests, { name, at, page: undefined }].slice(-MAX_GUESTS);
    for (const [key, { error }] of this.#waiting) {
      if (isLoss(error) && error.guest === undefined) {
        this.#waiting.set(key, { error: this.#withGuest(error), until: at });
      }
    }
    this.#schedule();
  }

  status(): HostStatus {
    const { health, since, why, untold, missed, recent } = this.#record();
    return {
      enabled: this.#enabled,
      trace: this.#trace?.events ?? [],
      counters: this.#kinds,
      missing: this.#missing,
      health,
      since,
      why,
      untold,
      missed,
      recent,
    };
  }

  #record(): Pick<
    ReturnType<typeof readHostHealth>,
    'health' | 'since' | 'why' | 'untold' | 'missed' | 'recent'
  > {
    try {
      return readHostHealth();
    } catch (error) {
      if (!isKvmhaError(error)) {
        throw error;
      }
      return { health: 'green', since: null, why: null, untold: messageOf(error), missed: 0, recent: [] };
    }
  }

  #schedulePoll(): void {
    if (!this.#ended) {
      const pause = POLL + POLL_PER_CPU * (this.#trace?.cpus ?? 0);
      this.#poll = setTimeout(() => {
        this.#readTrace();
        this.#schedule();
        this.#schedulePoll();
      }, pause);
    }
  }

  /** Reads the counters, and sees to what changes seldom. */
  async #look(): Promise<void> {
    const { host } = await this.#keeper.policy();
    this.#enabled = host.enabled;
    if (this.#ended) {
      return;
    }
    try {
      if (host.enabled) {
        this.#openTrace();
        this.#readTrace();
        this.#readCounters();
        await this.#guarded(() => this.#keeper.keepUp(Deadline.in(REPORT_PATIENCE)));
      } else {
        this.#closeTrace();
        this.#reconciler = undefined;
        this.#waiting.clear();
      }
    } catch (error) {
      this.#complain(error);
    }
    if (!this.#ended) {
      this.#tick = setTimeout(() => void this.#look(), host.interval * 1000);
    }
  }

  #openTrace(): void {
    if (this.#trace !== undefined) {
      this.#guardTrace(() => this.#trace?.refresh());
      return;
    }
    const { tracefs, instance } = this.#options;
    for (const root of tracefs) {
      try {
        this.#trace = new TraceReader(root, instance);
        this.#traceProblem = '';
        return;
      } catch (error) {
        if (!isKvmhaError(error)) {
          throw error;
        }
        // Of the first place, where it is today.
        this.#traceProblem ||= messageOf(error);
      }
    }
  }

  #closeTrace(): void {
    this.#trace?.close();
    this.#trace = undefined;
  }

  /** tracefs can be unmounted, and the instance be removed by somebody. */
  #guardTrace(work: () => void): void {
    try {
      work();
    } catch (error) {
      this.#log.warn(`the trace of hardware errors cannot be read any more: ${messageOf(error)}`);
      this.#closeTrace();
    }
  }

  #readTrace(): void {
    this.#guardTrace(() => {
      const heard = this.#trace?.read();
      if (heard !== undefined) {
        this.#missed += heard.missed;
        for (const error of heard.errors) {
          this.#reconciler?.heard(error);
          this.#add(error);
        }
      }
    });
  }

  #readCounters(): void {
    const { counters, missing } = readCounters(this.#options.sysfs);
    this.#reconciler ??= this.#begin(counters);
    for (const error of this.#reconciler.read(counters, (counter) => this.#hears(counter))) {
      this.#add(error);
    }
    this.#keepCounters(counters);
    const count = (kind: Counter['kind']) =>
      new Set(counters.filter((each) => each.kind === kind).map(componentOf)).size;
    this.#kinds = { memory: count('memory'), pci: count('pci'), pages: count('page') };
    this.#tellMissing([...this.#missingEvents(), ...missing]);
    this.#schedule();
  }

  #hears({ kind }: Counter): boolean {
    const events = this.#trace?.events ?? [];
    const event = kind === 'memory' ? 'mc_event' : kind === 'pci' ? 'aer_event' : 'memory_failure_event';
    return events.includes(event);
  }

  /** Goes on where the last watcher has ended; what was counted before the first one is only written down. */
  #begin(counters: readonly Counter[]): Reconciler {
    let last: readonly Counter[] | undefined;
    try {
      last = readJsonFile(this.#options.counters, isCounterRecord)?.counters;
    } catch (error) {
      this.#complain(error);
    }
    if (last === undefined) {
      for (const { component, count, severity } of undated(counters)) {
        const words = `${component}: ${count} ${severity} errors since boot, before the watcher listened`;
        this.#log.warn(words);
        this.#journal.record({ what: 'seen', words });
      }
    }
    return new Reconciler(last);
  }

  #keepCounters(counters: readonly Counter[]): void {
    try {
      writeJsonFile(this.#options.counters, { counters });
    } catch (error) {
      this.#complain(error);
    }
  }

  #missingEvents(): string[] {
    if (this.#trace === undefined) {
      return [`trace events (${this.#traceProblem})`];
    }
    const { events } = this.#trace;
    const wanted = ['mc_event', 'aer_event', 'memory_failure_event'];
    return wanted
      .filter((event) => !events.includes(event))
      .map((event) => `trace event ${event} (not in this kernel)`);
  }

  /** Once, and again when it is another. */
  #tellMissing(missing: readonly string[]): void {
    if (missing.join() !== this.#missing.join()) {
      this.#missing = missing;
      if (missing.length > 0) {
        this.#log.info(`errors of the host are not heard of from: ${missing.join('; ')}`);
      }
    }
  }

  #add(found: HostError): void {
    const error = this.#withGuest(found);
    const patience = isLight(error)
      ? GATHER
      : isLoss(error) && error.guest === undefined
        ? GUEST_PATIENCE
        : 0;
    this.#wait(error, performance.now() + patience);
  }

  /** Errors are told apart by what broke, unless there are too many of them. */
  #wait(error: HostError, latest: number): void {
    const key = keyOf(error);
    const isTooMuch = !this.#waiting.has(key) && this.#waiting.size >= MAX_WAITING;
    const one = isTooMuch ? { ...error, component: 'many parts', message: '', address: undefined } : error;
    const place = isTooMuch ? keyOf(one) : key;
    const before = this.#waiting.get(place);
    const until = Math.min(before?.until ?? Number.POSITIVE_INFINITY, latest);
    this.#waiting.set(place, { error: { ...one, count: one.count + (before?.error.count ?? 0) }, until });
  }

  /** The guest of which QEMU spoke at the same time; each word of QEMU's is about one page. */
  #withGuest(error: HostError): HostError {
    if (!isLoss(error)) {
      return error;
    }
    const page = pageOf(error);
    const recent = this.#guests.filter(({ at }) => performance.now() - at < GUEST_MEMORY);
    const hit =
      recent.find((each) => page !== undefined && each.page === page) ??
      recent.find((each) => each.page === undefined);
    if (hit === undefined) {
      return error;
    }
    hit.page = page ?? -1n;
    return { ...error, guest: hit.name };
  }

  #schedule(): void {
    this.#working ??= this.#guarded(() => this.#judge(performance.now())).finally(() => {
      this.#working = undefined;
    });
  }

  async #judge(now: number): Promise<void> {
    const due = [...this.#waiting].filter(([, { until }]) => until <= now);
    if (due.length === 0 && (this.#missed === 0 || Number.isFinite(now))) {
      return;
    }
    for (const [key] of due) {
      this.#waiting.delete(key);
    }
    const missed = this.#missed;
    this.#missed = 0;
    const errors = due.map(([, { error }]) => located(error, this.#options.sysfs));
    try {
      await this.#keeper.report(errors, Deadline.in(REPORT_PATIENCE), missed);
    } catch (error) {
      this.#complain(error);
      if (!Number.isFinite(now)) {
        errors.forEach((each) => void this.#log.err(describeError(each)));
        return;
      }
      // Nothing of it was put down: the record's lock was held by somebody for too long, or its folder is full.
      errors.forEach((each) => void this.#wait(each, performance.now() + RETRY));
      this.#missed += missed;
    }
  }

  async #guarded(work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      this.#complain(error);
    }
  }

  /** What goes wrong here must not end the watch over the guests. */
  #complain(error: unknown): void {
    this.#log.err(`errors of the host: ${messageOf(error)}`);
    if (!isKvmhaError(error)) {
      this.#log.debug(error instanceof Error ? (error.stack ?? '') : '');
    }
  }
}

function componentOf({ component }: Counter): string {
  return component;
}

function keyOf(error: HostError): string {
  const { kind, severity, source, component, message, address, guest } = error;
  const place = isLight(error) ? undefined : String(address);
  return JSON.stringify([kind, severity, source, component, message, place, guest]);
}

/** Whether it can wait, and be counted together with others. */
function isLight({ severity }: HostError): boolean {
  return severity === 'corrected' || severity === 'informational';
}

/** Whether memory was lost that could be a guest's. */
function isLoss({ kind, severity }: HostError): boolean {
  return (kind === 'memory' || kind === 'page') && (severity === 'uncorrected' || severity === 'fatal');
}

function isCounterRecord(value: unknown): value is { readonly counters: readonly Counter[] } {
  const counters = (value as { counters?: unknown } | null)?.counters;
  return (
    Array.isArray(counters) &&
    counters.every(
      (each) =>
        typeof each?.key === 'string' && typeof each.count === 'number' && typeof each.parts === 'object',
    )
  );
}

import { Deadline } from '../deadline.ts';
import { isKvmhaError, messageOf } from '../error.ts';
import { lookThrough } from '../guest/look.ts';
import type { JournalEntry } from '../journal.ts';
import type { Monitor, QmpEvent } from '../qemu/qmp.ts';
import { type Classification, classify } from '../state/classify.ts';
import { inWords, type Meaning, meaningOf } from './meaning.ts';
import { verdictOnEvent, verdictOnState, type WatchVerdict } from './verdict.ts';
import type { GuestName, News, World } from './world.ts';

/** Milliseconds in which QEMU must answer. One that hangs, or whose storage does, does not. */
const PATIENCE = 8000;

/** Milliseconds in which an event that says the same again is only counted: a guest can raise some without end. */
const QUIET = 60_000;

/** Milliseconds between two attempts to do something about a fault that stays. */
const RETRY = 60_000;

interface Heard {
  /** On the monotonic clock. */
  readonly since: number;
  /** How often it was heard again. */
  again: number;
}

/**
 * One guest, as the watcher follows it: what is heard of it and seen of it is judged one after the other, and what
 * must be done is done before the next is.
 */
export class WatchedGuest implements GuestName {
  readonly name: string;
  readonly uuid: string;
  readonly #world: World;
  readonly #events: QmpEvent[] = [];
  readonly #heard = new Map<string, Heard>();
  #monitor: Monitor | undefined;
  #lookWanted = false;
  #working: Promise<void> | undefined;
  #classification: Classification | undefined;
  #isSilent = false;
  #verdict = '';
  #lastAttempt = Number.NEGATIVE_INFINITY;
  /** Nothing is left to do about the fault that was seen last. */
  #settled = false;

  constructor({ name, uuid }: GuestName, world: World) {
    this.name = name;
    this.uuid = uuid;
    this.#world = world;
  }

  /** What was seen last; undefined before the first look. */
  get classification(): Classification | undefined {
    return this.#classification;
  }

  /**
   * From now on its QEMU can be asked, for the first time or again. It is looked at, since what happened before was not
   * heard.
   */
  connected(monitor: Monitor): void {
    this.#monitor = monitor;
    this.#heard.clear();
    this.#verdict = '';
    this.#settled = false;
    this.look();
  }

  disconnected(): void {
    this.#monitor = undefined;
  }

  /** An event of its QEMU. */
  hear(event: QmpEvent): void {
    const meaning = meaningOf(event);
    if (meaning.kind === 'resumed') {
      // Whatever stops it next is another matter.
      this.#verdict = '';
    }
    const key = JSON.stringify(meaning);
    const heard = this.#heard.get(key);
    if (heard !== undefined && !changesRunning(meaning) && performance.now() - heard.since < QUIET) {
      heard.again += 1;
      return;
    }
    this.#heard.set(key, { since: performance.now(), again: 0 });
    if (heard !== undefined && heard.again > 0) {
      this.#record({ what: 'seen', event: event.event, again: heard.again });
    }
    this.#events.push(event);
    this.#wake();
  }

  /** Looks at the guest, as soon as what was heard before is dealt with. */
  look(): void {
    this.#lookWanted = true;
    this.#wake();
  }

  /** Resolves when there is nothing to deal with. */
  async idle(): Promise<void> {
    while (this.#working !== undefined) {
      await this.#working;
    }
  }

  #wake(): void {
    this.#working ??= this.#work();
  }

  async #work(): Promise<void> {
    // Not at once: what comes in one piece is judged by its end.
    await Promise.resolve();
    for (;;) {
      const event = this.#events.shift();
      if (event !== undefined) {
        await this.#guarded(() => this.#judgeEvent(event));
      } else if (this.#lookWanted && this.#monitor !== undefined) {
        this.#lookWanted = false;
        const monitor = this.#monitor;
        await this.#guarded(() => this.#judgeState(monitor));
      } else {
        break;
      }
    }
    this.#working = undefined;
  }

  /** What goes wrong with one guest must not end the watch over the others. */
  async #guarded(work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      this.#world.log.err(`${this.name}: ${messageOf(error)}`);
      if (!isKvmhaError(error)) {
        this.#world.log.debug(error instanceof Error ? (error.stack ?? '') : '');
      }
    }
  }

  async #judgeEvent(event: QmpEvent): Promise<void> {
    const meaning = meaningOf(event);
    if (meaning.kind === 'nothing') {
      return;
    }
    const words = inWords(meaning);
    if (meaning.kind === 'memory-failure') {
      this.#world.hostLostMemoryOf(this);
    }
    const { time, ...said } = event;
    this.#record({
      what: 'seen',
      ...said,
      words,
      ...(time === undefined ? {} : { at: new Date(time).toISOString() }),
    });
    this.#world.log.info(`${this.name}: ${words}`);
    const policy = await this.#world.policy(this);
    const verdict = verdictOnEvent(meaning, policy.watch);
    const news = newsOf(meaning) ?? newsIn(verdict);
    if (news !== undefined && policy.watch.mode === 'act') {
      this.#world.keep(this, news);
    }
    if (verdict.do === 'look') {
      this.#lookWanted = true;
    } else {
      await this.#follow(verdict, policy.watch.mode);
    }
  }

  async #judgeState(monitor: Monitor): Promise<void> {
    const observation = await lookThrough(monitor, this.uuid, Deadline.in(PATIENCE));
    if (observation.monitor.kind === 'silent') {
      this.#hearNothing(observation.monitor.why);
      // A late answer would be taken for that to the next question; whoever follows the guest connects again.
      monitor.close();
      return;
    }
    this.#isSilent = false;
    const policy = await this.#world.policy(this);
    const classification = classify(observation);
    this.#classification = classification;
    await this.#follow(verdictOnState(classification, policy.state), policy.watch.mode);
  }

  #hearNothing(why: string): void {
    if (!this.#isSilent) {
      this.#world.log.warn(`${this.name}: QEMU does not answer: ${why}`);
      this.#record({ what: 'seen', silent: why });
    }
    this.#isSilent = true;
  }

  async #follow(verdict: WatchVerdict, mode: 'act' | 'observe'): Promise<void> {
    const text = JSON.stringify(verdict);
    const isNew = text !== this.#verdict;
    this.#verdict = text;
    if (isNew && verdict.do !== 'ignore') {
      this.#record({ what: 'decided', mode, ...verdict });
    }
    if (verdict.do !== 'fail-over') {
      this.#settled = false;
      return;
    }
    const due = performance.now() - this.#lastAttempt >= RETRY;
    if (mode === 'act' && !this.#settled && (isNew || due)) {
      this.#lastAttempt = performance.now();
      await this.#failOver(verdict.fault);
    }
  }

  async #failOver(fault: string): Promise<void> {
    const begun = performance.now();
    const recovery = await this.#world.failOver(this, fault);
    this.#settled = recovery.kind === 'requested' || recovery.kind === 'settled';
    const milliseconds = Math.round(performance.now() - begun);
    this.#record({
      what: 'done',
      action: 'fail-over',
      outcome: recovery.kind,
      why: recovery.why,
      milliseconds,
    });
    const words = `${this.name} (${fault}): ${recovery.why}`;
    if (recovery.kind === 'requested') {
      this.#world.log.info(words);
    } else {
      this.#world.log.warn(words);
    }
  }

  #record(entry: Pick<JournalEntry, 'what'> & { readonly [detail: string]: unknown }): void {
    this.#world.journal.record({ guest: this.name, uuid: this.uuid, ...entry });
  }
}

/** Whether the guest stands still or runs after it as it did not before: such events do not come without end. */
function changesRunning(meaning: Meaning): boolean {
  switch (meaning.kind) {
    case 'stopped':
    case 'resumed':
    case 'shut-down':
      return true;
    case 'io-error':
      return meaning.action === 'stop';
    case 'guest-panicked':
    case 'watchdog':
      return meaning.action === 'pause';
    default:
      return false;
  }
}

/** What an event tells and no query does: of an I/O error `io-status` tells only the first. */
function newsOf(meaning: Meaning): News | undefined {
  switch (meaning.kind) {
    case 'io-error':
      return meaning.action === 'stop' ? { ioError: meaning.noSpace ? 'nospace' : 'failed' } : undefined;
    case 'resumed':
      return { runs: true };
    default:
      return undefined;
  }
}

function newsIn(verdict: WatchVerdict): News | undefined {
  switch (verdict.do) {
    case 'fail-over':
      return { fault: verdict.fault };
    case 'degrade':
      return { survived: verdict.error };
    default:
      return undefined;
  }
}

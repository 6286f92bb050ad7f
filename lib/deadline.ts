import { KvmhaError } from './error.ts';

/**
 * A moment by which work must have ended. One is made from the operation's timeout at start-up and handed
 * through every wait; a part of the work gets a share of it by `within` or leaves time for what follows by
 * `reserving`. Measured on the monotonic clock, so that a step of the wall clock changes nothing.
 */
export class Deadline {
  readonly #at: number;

  private constructor(at: number) {
    this.#at = at;
  }

  /** The moment `milliseconds` from now. */
  static in(milliseconds: number): Deadline {
    return new Deadline(performance.now() + milliseconds);
  }

  /** Milliseconds left, never below 0. */
  remaining(): number {
    return Math.max(0, this.#at - performance.now());
  }

  passed(): boolean {
    return this.remaining() === 0;
  }

  /** This deadline or `milliseconds` from now, whichever comes first. */
  within(milliseconds: number): Deadline {
    return new Deadline(Math.min(this.#at, performance.now() + milliseconds));
  }

  /** An earlier deadline that leaves `milliseconds` of this one for what follows. */
  reserving(milliseconds: number): Deadline {
    return new Deadline(this.#at - milliseconds);
  }

  /**
   * Settles as `work` does, or rejects when the deadline passes first.
   *
   * @param what the thing waited for, as it ends the sentence "timed out waiting for ..."
   * @throws KvmhaError `deadline`
   */
  async race<T>(work: Promise<T>, what: string): Promise<T> {
    let timer: NodeJS.Timeout | undefined;
    const expiry = new Promise<never>((_, reject) => {
      const expire = () => reject(new KvmhaError('deadline', `timed out waiting for ${what}`));
      // A process that has not got the processor for long finds its timers expired before it reads what has come.
      timer = setTimeout(() => setImmediate(expire), this.remaining());
    });
    try {
      return await Promise.race([work, expiry]);
    } finally {
      clearTimeout(timer);
    }
  }

  /**
   * Asks `condition` until it gives a value other than undefined, pausing `pause` milliseconds in between.
   *
   * @returns the value, or undefined when the deadline passed without one
   */
  async poll<T>(
    pause: number,
    condition: () => T | undefined | Promise<T | undefined>,
  ): Promise<T | undefined> {
    for (;;) {
      const value = await condition();
      if (value !== undefined || this.passed()) {
        return value;
      }
      await sleep(Math.min(pause, this.remaining()));
    }
  }
}

/** Resolves after `milliseconds`. */
export function sleep(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

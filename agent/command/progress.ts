import { printError } from '../output.ts';
import { size } from './table.ts';

/** Columns of the bar itself. */
const BAR = 30;

/** Of two looks at a dump, the rate over the last seconds says more than that over all of it. */
const WINDOW = 5000;

interface Sample {
  /** Milliseconds on any clock that only goes forward. */
  readonly at: number;
  readonly done: number;
}

/** Bytes per second over the last seconds; undefined while too little is known. */
export function rateOf(samples: readonly Sample[]): number | undefined {
  const last = samples.at(-1);
  const first = samples.find(({ at }) => last !== undefined && last.at - at <= WINDOW);
  return last === undefined || first === undefined || last.at === first.at
    ? undefined
    : ((last.done - first.done) * 1000) / (last.at - first.at);
}

/** How far a dump is, on one line: `memory [#####     ]  50 %  128 MiB of 256 MiB  64 MiB/s  0:02 left`. */
export function progressLine(done: number, total: number, rate: number | undefined): string {
  const share = total > 0 ? Math.min(1, done / total) : 0;
  const bar = '#'.repeat(Math.floor(share * BAR)).padEnd(BAR);
  const pace =
    rate === undefined || rate <= 0
      ? ''
      : `  ${size(rate)}/s  ${clock(Math.max(0, total - done) / rate)} left`;
  return `memory [${bar}] ${String(Math.floor(share * 100)).padStart(3)} %  ${size(done)} of ${size(total)}${pace}`;
}

/** Seconds as `0:09`, `12:34` or `1:02:03`. */
function clock(seconds: number): string {
  const whole = Math.ceil(seconds);
  const pad = (value: number) => String(value).padStart(2, '0');
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  return hours > 0 ? `${hours}:${pad(minutes)}:${pad(whole % 60)}` : `${minutes}:${pad(whole % 60)}`;
}

/**
 * Tells how far a dump is, on standard error: on a terminal by a line that is drawn anew, else, for a log, by a line for
 * every tenth of it.
 */
export class Progress {
  readonly #terminal: boolean;
  readonly #now: () => number;
  readonly #write: (text: string) => void;
  #samples: Sample[] = [];
  #told = -1;
  #drawn = false;

  constructor(terminal: boolean, write: (text: string) => void = printError, now = () => performance.now()) {
    this.#terminal = terminal;
    this.#write = write;
    this.#now = now;
  }

  show(done: number, total: number): void {
    const at = this.#now();
    this.#samples = [...this.#samples.filter((sample) => at - sample.at <= WINDOW), { at, done }];
    if (this.#terminal) {
      // Back to the margin, and what was longer before is erased (ECMA-48, EL).
      this.#write(`\r${progressLine(done, total, rateOf(this.#samples))}\x1b[K`);
      this.#drawn = true;
      return;
    }
    const tenth = total > 0 ? Math.floor((10 * done) / total) : 0;
    if (tenth > this.#told) {
      this.#told = tenth;
      this.#write(`memory: ${size(done)} of ${size(total)}\n`);
    }
  }

  /** What follows begins on a line of its own. */
  end(): void {
    if (this.#drawn) {
      this.#drawn = false;
      this.#write('\n');
    }
  }
}

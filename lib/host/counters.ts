import type { HostError, Severity } from './host-error.ts';

/** One of the kernel's counters of errors, at one moment. */
export interface Counter {
  /** What it counts: the same for a counter and for the trace events that it counts, see `counterOf`. */
  readonly key: string;
  readonly kind: HostError['kind'];
  readonly source: string;
  readonly severity: Severity;
  readonly component: string;
  readonly count: number;
  /** What it is made of: the DIMMs of a memory controller by their labels, the kinds of a device's errors. */
  readonly parts: Readonly<Record<string, number>>;
  readonly numaNode?: number | undefined;
}

/**
 * Reads a PCI device's `aer_dev_correctable`, `aer_dev_nonfatal` or `aer_dev_fatal`
 * (Documentation/ABI/testing/sysfs-bus-pci-devices-aer): lines of a name and a number, the last of them the total.
 *
 * @returns undefined when there is no total
 */
export function parseAerCounter(
  text: string,
): { readonly total: number; readonly parts: Readonly<Record<string, number>> } | undefined {
  const parts: Record<string, number> = {};
  let total: number | undefined;
  for (const line of text.split('\n').slice(0, 100)) {
    const found = /^(\S.{0,63}) (\d{1,15})$/.exec(line.trim());
    if (found?.[1]?.startsWith('TOTAL_')) {
      total = Number(found[2]);
    } else if (found !== null) {
      parts[found[1] ?? ''] = Number(found[2]);
    }
  }
  return total === undefined ? undefined : { total, parts };
}

/** The key of the counter that counts an error heard of by a trace event; undefined where none does. */
export function counterOf({ kind, component, severity }: HostError): string | undefined {
  switch (kind) {
    case 'memory': {
      const controller = /^mc\d+/.exec(component)?.[0];
      // A memory controller counts all that it did not correct together (edac_raw_mc_handle_error).
      const what = severity === 'corrected' ? 'corrected' : 'uncorrected';
      return controller === undefined ? undefined : `${controller} ${what}`;
    }
    case 'page':
      return 'pages';
    case 'pci':
      return `${component} ${severity}`;
    default:
      return undefined;
  }
}

/**
 * Finds the errors of which counters tell and no trace event does.
 *
 * An error is counted a moment before or after its event is written. What one tells and the other does not is therefore
 * believed at the next reading, if it is still so; where there are no such events, at once.
 */
export class Reconciler {
  readonly #last = new Map<string, Counter>();
  /** Counted, and not yet heard of; negative for what was heard of, and not yet counted. */
  readonly #balances = new Map<string, number>();
  readonly #before = new Map<string, number>();

  /** @param counters as they were read last, by a watcher before this one */
  constructor(counters: readonly Counter[] = []) {
    for (const counter of counters) {
      this.#last.set(counter.key, counter);
    }
  }

  /** As they were read last, to be kept. */
  get counters(): readonly Counter[] {
    return [...this.#last.values()];
  }

  /** Errors were heard of by a trace event. */
  heard(error: HostError): void {
    const key = counterOf(error);
    if (key !== undefined && this.#last.has(key)) {
      this.#balances.set(key, (this.#balances.get(key) ?? 0) - error.count);
    }
  }

  /**
   * Takes a reading of the counters. A counter that is new begins with what it shows; one that shows less than before
   * was reset, and begins anew.
   *
   * @param hears whether a trace event tells of what a counter counts
   * @returns the errors that no trace event told of
   */
  read(counters: readonly Counter[], hears: (counter: Counter) => boolean): HostError[] {
    const found: HostError[] = [];
    const keys = new Set(counters.map(({ key }) => key));
    for (const key of this.#last.keys()) {
      if (!keys.has(key)) {
        this.#forget(key);
      }
    }
    for (const counter of counters) {
      const { key, count } = counter;
      const last = this.#last.get(key);
      const grown = last === undefined ? 0 : count - last.count;
      if (grown < 0) {
        this.#forget(key);
      }
      this.#last.set(key, counter);
      const balance = (this.#balances.get(key) ?? 0) + Math.max(0, grown);
      const believed = hears(counter)
        ? nearerToZero(this.#before.get(key) ?? 0, balance)
        : Math.max(0, balance);
      if (believed > 0) {
        found.push(errorOfCounter(counter, last, believed));
      }
      const rest = hears(counter) ? balance - believed : 0;
      this.#balances.set(key, rest);
      this.#before.set(key, rest);
    }
    return found;
  }

  #forget(key: string): void {
    this.#last.delete(key);
    this.#balances.delete(key);
    this.#before.delete(key);
  }
}

/** What two numbers have in common. */
function nearerToZero(one: number, other: number): number {
  if (one > 0 && other > 0) {
    return Math.min(one, other);
  }
  return one < 0 && other < 0 ? Math.max(one, other) : 0;
}

function errorOfCounter(counter: Counter, last: Counter | undefined, count: number): HostError {
  const { kind, source, severity, component, parts, numaNode } = counter;
  const grown = Object.keys(parts).filter((name) => (parts[name] ?? 0) > (last?.parts[name] ?? 0));
  // With one DIMM it is known where the error is, so that it is counted there.
  const [only, ...others] = grown;
  const isPlace = kind === 'memory' && only !== undefined && others.length === 0;
  return {
    kind,
    severity,
    source,
    count,
    component: isPlace ? `${component} ${only}` : component,
    message: isPlace ? '' : grown.join(', '),
    numaNode,
  };
}

/** Errors that a counter shows when it is read for the first time, which nobody can date. */
export function undated(counters: readonly Counter[]): Counter[] {
  return counters.filter(({ count, severity }) => count > 0 && severity !== 'corrected');
}

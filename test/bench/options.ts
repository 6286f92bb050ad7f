import { InvalidArgumentError, Option } from 'commander';

/** Parses an option that is a small number. */
export function toCount(value: string): number {
  if (!/^[1-9]\d?$/.test(value)) {
    throw new InvalidArgumentError('1 to 99 are wanted.');
  }
  return Number(value);
}

/** An option whose value names some of `all`, with commas between. */
export function someOf<Name extends string>(
  flags: string,
  description: string,
  all: readonly Name[],
): Option {
  return new Option(flags, `${description}: ${all.join(',')}`).default(all, 'all').argParser((value) =>
    value.split(',').map((name) => {
      if (!(all as readonly string[]).includes(name)) {
        throw new InvalidArgumentError(`"${name}" is none of ${all.join(', ')}.`);
      }
      return name as Name;
    }),
  );
}

/** Parses an option that is a list of numbers with commas between. */
export function toCounts(value: string): number[] {
  const counts = value.split(',').map(Number);
  if (!counts.every((count) => Number.isInteger(count) && count >= 0 && count <= 1000)) {
    throw new InvalidArgumentError('numbers up to 1000 with commas between are wanted.');
  }
  return counts;
}

/** The value below which a share of the values lies, by nearest rank. @param values at least one */
export function percentile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil(sorted.length * share) - 1)] ?? Number.NaN;
}

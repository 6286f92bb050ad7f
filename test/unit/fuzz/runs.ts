import assert from 'node:assert/strict';
import fc from 'fast-check';
import { isKvmhaError, messageOf } from '../../../lib/error.ts';

const { KVMHA_FUZZ = '1', KVMHA_FUZZ_SEED = '20100617' } = process.env;

/**
 * How a property is tried: `runs` times, or as many times more as KVMHA_FUZZ says, always with the same input unless
 * KVMHA_FUZZ_SEED is another number. fast-check prints the seed, and the smallest input, of what fails.
 */
export function runs(count: number): { numRuns: number; seed: number } {
  return { numRuns: count * Number(KVMHA_FUZZ), seed: Number(KVMHA_FUZZ_SEED) };
}

/**
 * The result, or the typed failure: anything else that is thrown is a crash.
 *
 * @returns undefined where it failed with a KvmhaError
 */
export async function withoutCrash<T>(work: () => T | Promise<T>): Promise<T | undefined> {
  try {
    return await work();
  } catch (error) {
    assert.ok(
      isKvmhaError(error),
      `not a KvmhaError: ${error instanceof Error ? error.stack : String(error)}`,
    );
    assert.notEqual(messageOf(error), '', 'it does not say why');
    return undefined;
  }
}

/** Text of any characters: controls, lone surrogates, directions, quotes. */
export const anyText: fc.Arbitrary<string> = fc.oneof(
  fc.string({ unit: 'binary' }),
  fc.string({ unit: 'grapheme' }),
  fc.string(),
);

/** What somebody would try as a name, to leave a folder, to be an option, or to reach a shell. */
export const hostileName: fc.Arbitrary<string> = fc.oneof(
  anyText,
  fc.constantFrom(
    ...['..', '.', '../../etc/x', '/etc/passwd', '-rf', '--help', '$(touch x)', '`x`', 'a;b', 'a\nb', 'a b'],
    ...[
      "'",
      '"',
      '\0',
      'a\0b',
      '\u202E',
      '%2e%2e%2f',
      '__proto__',
      'constructor',
      'toString',
      '*',
      '~',
      '#x',
    ],
    ...['é'.repeat(60), 'a'.repeat(300), '0', '1', '🂡', '\uD800', '&amp;', '<x/>', ']]>', '{}', ','],
  ),
);

/** What `String()` and `Number()` throw at. */
const UNPRINTABLE = { toString: 1, valueOf: 1 };

/** Any JSON value, also with the names that objects have by themselves. */
export const anyJson: fc.Arbitrary<unknown> = fc.letrec((tie) => ({
  value: fc.oneof(
    { depthSize: 'small', withCrossShrink: true },
    fc.constantFrom<unknown>(null, true, false, 0, -1, 1e308, 'running', 'paused', '', [], {}, UNPRINTABLE),
    fc.string(),
    fc.double({ noNaN: true, noDefaultInfinity: true }),
    fc.array(tie('value'), { maxLength: 4 }),
    fc.dictionary(
      fc.oneof(
        fc.string(),
        fc.constantFrom('toString', 'valueOf', '__proto__', 'constructor', 'length', 'id', 'return', 'error'),
        fc.constantFrom('class', 'desc', 'event', 'data', 'timestamp', 'QMP', 'status', 'name', 'type'),
      ),
      tie('value'),
      { maxKeys: 4 },
    ),
  ),
})).value;

/** `text` with some of its pieces replaced, doubled or left out. */
export function damaged(text: string): fc.Arbitrary<string> {
  const cut = fc.record({
    at: fc.nat(text.length),
    length: fc.nat(40),
    instead: fc.oneof(anyText, fc.constant('')),
  });
  return fc
    .array(cut, { minLength: 1, maxLength: 4 })
    .map((cuts) =>
      cuts.reduce(
        (now, { at, length, instead }) => now.slice(0, at) + instead + now.slice(at + length),
        text,
      ),
    );
}

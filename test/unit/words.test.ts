import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { splitWords } from '../../lib/words.ts';

describe('splitWords', () => {
  it('splits at blanks and drops the empty rest', () => {
    assert.deepEqual(splitWords('  a\tb\n c '), ['a', 'b', 'c']);
    assert.deepEqual(splitWords(' '), []);
  });

  it('keeps what quotes and backslashes group together, and empty quoted words', () => {
    assert.deepEqual(splitWords(`a'b c'"d e"\\ f '' "\\"\\x"`), ['ab cd e f', '', '"\\x']);
  });

  it('expands, globs and runs nothing', () => {
    assert.deepEqual(splitWords('$HOME `id` * ~ ; >x #y'), ['$HOME', '`id`', '*', '~', ';', '>x', '#y']);
  });

  it('gives nothing for an unclosed quote or a backslash at the end', () => {
    for (const text of [`'a`, `"a`, `"a\\"`, 'a\\']) {
      assert.equal(splitWords(text), undefined, text);
    }
  });

  it('agrees with sh on texts without expansions', () => {
    const text = fc.string({ unit: fc.constantFrom('a', 'B', ' ', '\t', "'", '"', '\\', '-', '=', '%') });
    fc.assert(
      fc.property(text, (sample) => {
        const words = splitWords(sample);
        fc.pre(words !== undefined);
        const printed = execFileSync('sh', ['-c', `printf '<%s>' ${sample}`], { encoding: 'utf8' });
        // printf prints its format once even when there is no argument.
        const expected = words.length === 0 ? '<>' : words.map((word) => `<${word}>`).join('');
        assert.equal(printed, expected);
      }),
      { numRuns: 60 },
    );
  });
});

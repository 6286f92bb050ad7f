import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { stripVTControlCharacters } from 'node:util';
import { frame } from '../../../agent/command/live.ts';

function linesOf(text: string, rows: number, columns: number): string[] {
  return stripVTControlCharacters(frame(text, { rows, columns })).split('\r\n');
}

describe('a frame on a terminal', () => {
  test('begins at the top, and clears what was there before behind each line and below', () => {
    assert.equal(frame('a\nb\n', { rows: 5, columns: 10 }), '\u001b[Ha\u001b[K\r\nb\u001b[K\u001b[J');
  });

  test('breaks a line that is too long at its spaces, and a word that is longer than a line anywhere', () => {
    assert.deepEqual(linesOf('one two  three', 9, 8), ['one two', 'three']);
    assert.deepEqual(linesOf('abcdefghij kl', 9, 4), ['abcd', 'efgh', 'ij', 'kl']);
    assert.deepEqual(linesOf('ab abcdefghi', 9, 4), ['ab', 'abcd', 'efgh', 'i']);
  });

  test('counts what does not fit, and never has more rows than the terminal', () => {
    assert.deepEqual(linesOf('1\n2\n3', 3, 80), ['1', '2', '3']);
    assert.deepEqual(linesOf('1\n2\n3\n4', 3, 80), [
      '1',
      '2',
      '(2 more lines; a higher terminal shows them)',
    ]);
    assert.equal(linesOf('x\n'.repeat(100), 10, 4).length, 10);
  });

  test('does not count colours as characters', () => {
    const green = (text: string) => `\u001b[32m${text}\u001b[39m`;
    assert.deepEqual(linesOf(`${green('online')} ${green('green')}`, 9, 12), ['online green']);
  });
});

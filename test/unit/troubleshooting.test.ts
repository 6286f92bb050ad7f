import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { GUEST_STATES } from '../../lib/state/classify.ts';

const PROJECT = join(import.meta.dirname, '../..');
const page = readFileSync(join(PROJECT, 'docs/troubleshooting.md'), 'utf8');

/** The words of the page's headings, each of which is a part of an exit reason. */
const documented = [...page.matchAll(/^### `(.+)`$/gm)].map(([, words]) => words ?? '');

function sources(...directories: string[]): { path: string; text: string }[] {
  return directories.flatMap((directory) =>
    readdirSync(join(PROJECT, directory), { recursive: true, encoding: 'utf8' })
      .filter((name) => name.endsWith('.ts'))
      .map((name) => ({
        path: join(directory, name),
        text: readFileSync(join(PROJECT, directory, name), 'utf8'),
      })),
  );
}

/** What stands between the parenthesis before `start` and the one that closes it. */
function argumentsAt(text: string, start: number): string {
  let depth = 1;
  let quote = '';
  for (let at = start; at < text.length; at += 1) {
    const character = text[at] ?? '';
    if (quote !== '') {
      if (character === '\\') {
        at += 1;
      } else if (character === quote) {
        quote = '';
      }
    } else if (`'"\``.includes(character)) {
      quote = character;
    } else if (character === '(') {
      depth += 1;
    } else if (character === ')') {
      depth -= 1;
      if (depth === 0) {
        return text.slice(start, at);
      }
    }
  }
  return text.slice(start);
}

/** The fixed words in code: its string literals, with what is put in by an ellipsis. */
function words(code: string): string {
  return [...code.matchAll(/'((?:[^'\\]|\\.)*)'|`((?:[^`\\]|\\.)*)`/g)]
    .map(([, plain, template]) => plain ?? (template ?? '').replace(/\$\{(?:[^{}]|\{[^{}]*\})*\}/g, '...'))
    .join('')
    .replaceAll("\\'", "'");
}

/** Every exit reason that is put into words in the code of the agents, as far as it is more than others' words. */
const reasons = sources('agent/ocf', 'agent/watch').flatMap(({ path, text }) => [
  ...[...text.matchAll(/\.exitReason\(|new OcfFailure\(/g)].map((call) => ({
    path,
    text: words(argumentsAt(text, call.index + call[0].length)),
  })),
  // What refusal() and preservedWords() give is passed on by others.
  ...(path.endsWith('reasons.ts')
    ? [...text.matchAll(/return \(?\s*(`(?:[^`\\]|\\.)*`)/g)].map(([, literal]) => ({
        path,
        text: words(literal ?? ''),
      }))
    : []),
]);
/** What is left of a reason without what others say, and without the names of states that decide about it. */
function ownWords(text: string): string {
  return [...GUEST_STATES, 'monitor-role-stopped', 'unknown']
    .reduce((left, state) => left.replaceAll(state, ''), text)
    .replace(/[ .:;()]/g, '');
}
const worded = reasons.filter(({ text }) => ownWords(text) !== '');

describe('docs/troubleshooting.md', () => {
  test('has the words of every exit reason of the agents', () => {
    assert.ok(worded.length > 20, 'the reasons are found in the code');
    const advice = /^(It may run elsewhere|Resume it with|Free space|Look at process)/;
    const missing = worded
      .filter(({ text }) => !advice.test(text) && !documented.some((known) => text.includes(known)))
      .map(({ path, text }) => `${path}: ${text}`);
    assert.deepEqual(missing, []);
  });

  test('has no words that the code does not have', () => {
    const code = sources('agent', 'lib').map(({ text }) => text);
    assert.deepEqual(
      documented.filter((known) => !code.some((text) => text.includes(known))),
      [],
    );
  });

  test('has a row for every state of a guest', () => {
    const rows = page.match(/^\| `.*$/gm)?.map((row) => row.split('|')[1]) ?? [];
    const listed = rows.flatMap((cell) => [...(cell ?? '').matchAll(/`([^`]+)`/g)].map(([, state]) => state));
    assert.deepEqual([...listed].sort(), [...GUEST_STATES].sort());
  });
});

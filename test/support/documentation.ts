import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

const PROJECT = join(import.meta.dirname, '../..');

/** The blocks of commands in a file, without their indentation; a line that goes on in the next is joined with it. */
function blocks(file: string): string[] {
  const text = readFileSync(join(PROJECT, file), 'utf8').replace(/\\\n\s+/g, '');
  return text
    .split(/\n\n/)
    .filter((part) => /^ {4,}\S/.test(part))
    .map((part) => part.replace(/^ +/gm, ''));
}

/** The one block of commands in a file of the project that begins like this. */
export function block(file: string, beginning: string): string {
  const found = blocks(file).filter((each) => each.startsWith(beginning));
  assert.equal(found.length, 1, `${file} has ${found.length} blocks that begin with "${beginning}"`);
  return found[0] as string;
}

/** `text` with each of the changes made, which all must have something to change. */
export function changed(text: string, changes: readonly (readonly [from: string | RegExp, to: string])[]) {
  return changes.reduce((before, [from, to]) => {
    const isThere = typeof from === 'string' ? before.includes(from) : before.search(from) >= 0;
    assert.ok(isThere, `there is no ${from} in "${before}"`);
    return before.replaceAll(from, to);
  }, text);
}

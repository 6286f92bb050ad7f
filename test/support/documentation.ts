import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';

const PROJECT = join(import.meta.dirname, '../..');

/** README.md and the manual below `root`, which is the project or where the documentation is installed. */
export function pagesBelow(root: string): string[] {
  const manual = readdirSync(join(root, 'docs')).filter((name) => name.endsWith('.md'));
  return ['README.md', ...manual.sort().map((name) => `docs/${name}`)];
}

/** The links of a page that lead to no file, or to no heading in it. */
export function brokenLinks(root: string, page: string): string[] {
  const text = readFileSync(join(root, page), 'utf8');
  const links = [...text.matchAll(/\]\(([^)\s]+)\)/g)].map(([, target = '']) => target);
  return links.filter((link) => {
    const [path = '', heading] = link.split('#');
    const file = join(root, path === '' ? page : join(dirname(page), path));
    return (
      !/^[a-z]+:/.test(link) &&
      (!existsSync(file) ||
        (heading !== undefined && !headings(readFileSync(file, 'utf8')).includes(heading)))
    );
  });
}

/** What the headings of a page are called in links to them. */
function headings(text: string): string[] {
  return [...text.matchAll(/^#+ (.*)$/gm)].map(([, words = '']) =>
    words
      .toLowerCase()
      .replace(/[^\w\s-]/g, '')
      .replaceAll(' ', '-'),
  );
}

/**
 * The blocks of commands in a file, without their indentation: what is indented, or stands between fences. A line that
 * goes on in the next is joined with it.
 */
export function blocks(file: string): string[] {
  const found: string[] = [];
  let inList = false;
  const parts = readFileSync(join(PROJECT, file), 'utf8')
    .replace(/^```\w*\n((?:.*\n)*?)^```$/gm, (_, code: string) => code.replace(/^/gm, '        '))
    .replace(/\\\n\s+/g, '')
    .split(/\n\n/);
  for (const part of parts) {
    if (/^\S/.test(part)) {
      inList = /^(\d+\.|[-*]) /.test(part);
    } else if (part.startsWith(inList ? '        ' : '    ')) {
      const [indent = ''] = /^ +/.exec(part) ?? [];
      found.push(part.trimEnd().replaceAll(`\n${indent}`, '\n').trimStart());
    }
  }
  return found;
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

import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { describe, test } from 'node:test';

const PROJECT = join(import.meta.dirname, '../..');
const PAGES = [
  'README.md',
  'test/lab/README.md',
  ...readdirSync(join(PROJECT, 'docs'))
    .filter((name) => name.endsWith('.md'))
    .map((name) => `docs/${name}`),
];

describe('the documentation', () => {
  for (const page of PAGES) {
    const text = readFileSync(join(PROJECT, page), 'utf8');

    test(`${page} refers to files that are there`, () => {
      const links = [...text.matchAll(/\]\(([^)#:]+)\)/g)].map(([, target]) =>
        join(dirname(page), target ?? ''),
      );
      const paths = [...text.matchAll(/`((?:agent|lib|test|scripts|packaging)\/[\w./-]+)`/g)].map(
        ([, path]) => path ?? '',
      );
      assert.deepEqual(
        [...links, ...paths].filter((path) => !existsSync(join(PROJECT, path))),
        [],
      );
    });
  }

  test('is reached from README.md', () => {
    const readme = readFileSync(join(PROJECT, 'README.md'), 'utf8');
    assert.deepEqual(
      PAGES.filter((page) => page.startsWith('docs/') && !readme.includes(`(${page})`)),
      [],
    );
  });
});

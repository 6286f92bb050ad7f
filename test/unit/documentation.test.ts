import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { brokenLinks, pagesBelow } from '../support/documentation.ts';

const PROJECT = join(import.meta.dirname, '../..');
const PAGES = ['test/lab/README.md', ...pagesBelow(PROJECT)];

describe('the documentation', () => {
  for (const page of PAGES) {
    const text = readFileSync(join(PROJECT, page), 'utf8');

    test(`${page} refers to files that are there`, () => {
      const paths = [...text.matchAll(/`((?:agent|lib|test|scripts|packaging)\/[\w./-]+)`/g)].map(
        ([, path]) => path ?? '',
      );
      const missing = paths.filter((path) => !existsSync(join(PROJECT, path)));
      assert.deepEqual([...brokenLinks(PROJECT, page), ...missing], []);
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

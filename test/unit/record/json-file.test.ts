import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { readJsonFile, writeJsonFile } from '../../../lib/record/json-file.ts';

describe('a record', () => {
  let folder: string;
  let path: string;
  before(() => {
    folder = mkdtempSync(join(tmpdir(), 'kvmha-record-'));
    path = join(folder, 'record.json');
  });
  after(() => rmSync(folder, { recursive: true }));

  const read = () => readJsonFile(path, (value): value is object => typeof value === 'object');

  test('is written with the number of its format, and read without it', () => {
    writeJsonFile(path, { one: 1 });
    assert.deepEqual(JSON.parse(readFileSync(path, 'utf8')), { format: 1, one: 1 });
    assert.deepEqual(read(), { one: 1 });
  });

  test('that has no number was written before there was one, and is read', () => {
    writeFileSync(path, '{"one":1}');
    assert.deepEqual(read(), { one: 1 });
  });

  test('of a format that is not known cannot be read', () => {
    for (const format of ['2', '0', '"1"', 'null']) {
      writeFileSync(path, `{"format":${format},"one":1}`);
      assert.throws(
        read,
        /record\.json cannot be read: its format is .*, and this version of kvmha knows 1 alone/,
      );
    }
  });
});

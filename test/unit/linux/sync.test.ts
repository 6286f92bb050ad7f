import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { Deadline } from '../../../lib/deadline.ts';
import { isKvmhaError } from '../../../lib/error.ts';
import { syncFiles } from '../../../lib/linux/sync.ts';

describe('files that are synced', () => {
  const directory = mkdtempSync(join(tmpdir(), 'kvmha-sync-'));
  after(() => rmSync(directory, { recursive: true }));
  const present = ['first', 'second'].map((name) => join(directory, name));
  for (const path of present) {
    writeFileSync(path, 'x');
  }
  const absent = join(directory, 'absent');
  const deadline = () => Deadline.in(60_000);

  test('may be several, or none', async () => {
    await syncFiles(present, deadline());
    await syncFiles([], deadline());
  });

  test('are told from one that is not there', async () => {
    await assert.rejects(
      syncFiles([...present, absent], deadline()),
      (error) => isKvmhaError(error, 'file') && error.message.includes(absent),
    );
  });

  test('have failed where one has, whatever is missing beside it', async () => {
    // A file cannot be a folder, which is no "No such file or directory" (ENOTDIR).
    await assert.rejects(syncFiles([absent, join(present[0] ?? '', 'below')], deadline()), (error) =>
      isKvmhaError(error, 'program-failed'),
    );
  });
});

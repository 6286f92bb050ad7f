import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { errnoOf, isKvmhaError } from '../../lib/error.ts';
import { readTextFile } from '../../lib/text-file.ts';

describe('readTextFile', () => {
  let directory: string;
  let path: string;
  before(async () => {
    directory = await mkdtemp(join(tmpdir(), 'kvmha-text-file-'));
    path = join(directory, 'file');
  });
  after(() => rm(directory, { recursive: true }));

  it('reads text up to the limit, also through a symbolic link, without a byte order mark', async () => {
    await writeFile(path, '\uFEFFgrün');
    const link = join(directory, 'link');
    await symlink(path, link);
    const { text, stat } = await readTextFile(link, 8);
    assert.equal(text, 'grün');
    assert.equal(stat.size, 8n);
    await writeFile(path, '');
    assert.equal((await readTextFile(path, 0)).text, '');
  });

  it('refuses a file that is larger than the limit', async () => {
    await writeFile(path, 'abc');
    await assert.rejects(readTextFile(path, 2), (error) => isKvmhaError(error, 'malformed'));
  });

  it('refuses what is not UTF-8', async () => {
    await writeFile(path, Uint8Array.of(0x61, 0xff));
    await assert.rejects(readTextFile(path, 10), (error) => isKvmhaError(error, 'malformed'));
  });

  it('hands on why a file cannot be read', async () => {
    await assert.rejects(readTextFile(join(directory, 'none'), 10), (error) => {
      return isKvmhaError(error, 'file') && errnoOf(error.cause) === 'ENOENT';
    });
  });

  it('does not wait for a pipe without a writer', { timeout: 5000 }, async () => {
    const pipe = join(directory, 'pipe');
    execFileSync('mkfifo', [pipe]);
    await assert.rejects(readTextFile(pipe, 10), (error) => isKvmhaError(error, 'malformed'));
  });
});

import assert from 'node:assert/strict';
import { chmod, mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { Journal } from '../../lib/journal.ts';

let directory: string;
before(async () => {
  directory = await mkdtemp(join(tmpdir(), 'kvmha-journal-'));
});
after(() => rm(directory, { recursive: true, force: true }));

const warnings: string[] = [];
const log = {
  debug: () => {},
  info: () => {},
  warn: (message: string) => warnings.push(message),
  err: (message: string) => warnings.push(message),
};

async function lines(path: string): Promise<{ readonly [key: string]: unknown }[]> {
  return (await readFile(path, 'utf8'))
    .split('\n')
    .slice(0, -1)
    .map((line) => JSON.parse(line));
}

describe('Journal', () => {
  it('writes a line for each entry, in order, with time and writer, for root alone', async () => {
    const path = join(directory, 'new', 'folder', 'events.jsonl');
    const journal = new Journal('agent', log, path);
    journal.record({ what: 'seen', guest: 'web', event: 'STOP', odd: 'a\nb"\u2028' });
    journal.record({ what: 'done', guest: 'web', resource: undefined });
    await journal.settled();
    journal.record({ what: 'proved', guest: 'db', uuid: 'x' });
    await journal.settled();
    const written = await lines(path);
    assert.deepEqual(
      written.map(({ time: _, ...rest }) => rest),
      [
        { by: 'agent', pid: process.pid, what: 'seen', guest: 'web', event: 'STOP', odd: 'a\nb"\u2028' },
        { by: 'agent', pid: process.pid, what: 'done', guest: 'web' },
        { by: 'agent', pid: process.pid, what: 'proved', guest: 'db', uuid: 'x' },
      ],
    );
    assert.ok(Math.abs(Date.parse(String(written[0]?.['time'])) - Date.now()) < 60_000);
    assert.equal((await stat(path)).mode & 0o777, 0o600);
    assert.equal((await stat(join(path, '..'))).mode & 0o777, 0o700);
    assert.deepEqual(warnings, []);
  });

  it('appends whole lines beside other writers, and longer ones than a pipe holds', async () => {
    const path = join(directory, 'shared.jsonl');
    const writers = Array.from({ length: 8 }, () => new Journal('watcher', log, path));
    for (let round = 0; round < 3; round++) {
      for (const [number, writer] of writers.entries()) {
        writer.record({ what: 'seen', guest: `g${number}`, round, text: 'x'.repeat(100_000) });
      }
      await Promise.all(writers.map((writer) => writer.settled()));
    }
    const written = await lines(path);
    assert.equal(written.length, 24);
    assert.ok(written.every(({ text }) => String(text).length === 100_000));
  });

  it('moves a long file out of the way, and loses nothing by doing so', async () => {
    const path = join(directory, 'long.jsonl');
    const writers = Array.from({ length: 4 }, () => new Journal('watcher', log, path, 1000));
    for (let round = 0; round < 4; round++) {
      for (const [number, writer] of writers.entries()) {
        writer.record({ what: 'seen', guest: `g${number}`, round });
      }
      await Promise.all(writers.map((writer) => writer.settled()));
    }
    const kept = [...(await lines(`${path}.1`)), ...(await lines(path))];
    assert.equal(kept.length, 16);
    assert.ok((await stat(path)).size < 1000);
  });

  it('says in the log what it cannot write, and goes on', async () => {
    await writeFile(join(directory, 'file'), '');
    await chmod(join(directory, 'file'), 0o600);
    const journal = new Journal('agent', log, join(directory, 'file', 'events.jsonl'));
    journal.record({ what: 'seen', guest: 'web' });
    await journal.settled();
    assert.match(warnings.pop() ?? '', /events.jsonl was not written: .*(Not a directory|File exists)/);
  });
});

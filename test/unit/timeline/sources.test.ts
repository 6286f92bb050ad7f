import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { isKvmhaError } from '../../../lib/error.ts';
import { copiedJournal, localJournal, readTimeline, type Source } from '../../../lib/timeline/sources.ts';

const LINE = '{"time":"2026-11-25T04:00:00Z","what":"seen"}\n';

describe('copies of journals', () => {
  let folder: string;
  before(() => {
    folder = mkdtempSync(join(tmpdir(), 'kvmha-timeline-'));
    for (const node of ['alpha', 'beta', 'empty']) {
      mkdirSync(join(folder, node));
    }
    writeFileSync(join(folder, 'alpha/events.jsonl'), LINE);
    writeFileSync(join(folder, 'alpha/events.jsonl.1'), LINE + LINE);
    writeFileSync(join(folder, 'alpha/events.jsonl.lock'), '');
    writeFileSync(join(folder, 'beta/events.jsonl'), `${LINE}half`);
    writeFileSync(join(folder, 'gamma.jsonl'), LINE);
  });
  after(() => rmSync(folder, { recursive: true }));

  const told = (sources: readonly Source[]) =>
    sources.map(
      ({ name, node, lines, malformed }) =>
        `${node} ${name.slice(folder.length + 1)} ${lines.length} ${malformed.length}`,
    );

  test('are read with what was rotated away, and each knows its node by its folder', async () => {
    assert.deepEqual(told(await copiedJournal(folder)), [
      'alpha alpha/events.jsonl 1 0',
      'alpha alpha/events.jsonl.1 2 0',
      'beta beta/events.jsonl 1 1',
    ]);
    assert.deepEqual(told(await copiedJournal(join(folder, 'alpha', 'events.jsonl'))), [
      'alpha alpha/events.jsonl 1 0',
    ]);
    assert.deepEqual(told(await copiedJournal(join(folder, 'beta/'))), ['beta beta/events.jsonl 1 1']);
  });

  test('know it by the name of their file, or by what stands before an equals sign', async () => {
    assert.deepEqual(told(await copiedJournal(join(folder, 'gamma.jsonl'))), ['gamma gamma.jsonl 1 0']);
    assert.deepEqual(told(await copiedJournal(`delta=${join(folder, 'gamma.jsonl')}`)), [
      'delta gamma.jsonl 1 0',
    ]);
    assert.deepEqual(told(await copiedJournal(`delta=${join(folder, 'beta')}`)), [
      'delta beta/events.jsonl 1 1',
    ]);
  });

  test('that are not there are a failure, which names them', async () => {
    for (const name of ['nothing', 'empty']) {
      await assert.rejects(
        () => copiedJournal(join(folder, name)),
        (error) => isKvmhaError(error, 'file') && error.message.includes(join(folder, name)),
      );
    }
  });

  test("this node's journal may not be there yet", async () => {
    assert.deepEqual(await localJournal('here', join(folder, 'none/events.jsonl')), []);
    assert.deepEqual(told(await localJournal('here', join(folder, 'beta/events.jsonl'))), [
      'here beta/events.jsonl 1 1',
    ]);
  });

  test('what another node prints is understood, and what it cannot mean is refused', () => {
    const entry = { time: '2026-11-25T04:00:00Z', what: 'seen' };
    const printed = { sources: [{ malformed: [{ line: 3, why: 'it is not JSON' }] }], events: [{ entry }] };
    const [source] = readTimeline(JSON.stringify(printed), 'node2');
    assert.equal(source?.lines[0]?.node, 'node2');
    assert.equal(source?.malformed.length, 1);
    for (const text of [
      '',
      'Welcome to node2\n{}',
      '{}',
      '{"sources":[],"events":[{"entry":{}}]}',
      '{"sources":[],"events":[1]}',
    ]) {
      assert.throws(
        () => readTimeline(text, 'node2'),
        (error) => isKvmhaError(error, 'protocol') && /^node2: /.test(error.message),
      );
    }
  });
});

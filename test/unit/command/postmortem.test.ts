import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { renderManifest, whyWithoutMemory } from '../../../agent/command/postmortem.ts';
import { Progress, progressLine, rateOf } from '../../../agent/command/progress.ts';
import type { Manifest } from '../../../lib/guest/postmortem.ts';
import { folderFor, type StoredPostmortem, surplus } from '../../../lib/guest/postmortem-retention.ts';

const manifest: Manifest = {
  node: 'node1',
  kernel: '6.1.0',
  guest: { name: 'web', uuid: null, resource: null },
  begun: '',
  ended: '',
  state: 'quiesced-failover-safe',
  reason: '',
  fault: 'io-error',
  qemu: { pid: 318, arguments: [] },
  complete: true,
  files: [{ name: 'memory.elf', bytes: 1024 ** 3, sha256: '' }],
  missing: [],
  unreadable: [],
};

test('each post-mortem gets a folder of its own, whatever the guest is called', () => {
  const moment = new Date('2026-11-25T02:01:07.123Z');
  assert.equal(folderFor('web', moment, '/dumps'), '/dumps/web-2026-11-25T02-01-07Z');
  assert.equal(folderFor('a/../b c', moment, '/dumps'), '/dumps/a%2F..%2Fb%20c-2026-11-25T02-01-07Z');
});

test('memory is dumped unless it was not to be, or has failed and was not asked for', () => {
  assert.equal(whyWithoutMemory(undefined, undefined), undefined);
  assert.match(whyWithoutMemory(false, undefined) ?? '', /--no-memory/);
  assert.match(whyWithoutMemory(undefined, 'memory-failure') ?? '', /--memory dumps it all the same/);
  assert.equal(whyWithoutMemory(true, 'memory-failure'), undefined);
});

test('what was collected is listed, and what is missing', () => {
  assert.match(
    renderManifest('/d', manifest),
    /^ {2}memory\.elf {2}1\.0 GiB\nThe post-mortem in \/d is complete/,
  );
  assert.match(
    renderManifest('/d', { ...manifest, unreadable: [{ address: '0x3f000', bytes: 4096 }] }),
    /^ {2}not in the memory: 4\.0 KiB at 0x3f000, which cannot be read\nThe post-mortem in \/d is complete/m,
  );
  const missing = [{ name: 'memory.elf', why: 'no\nspace' }];
  assert.match(
    renderManifest('/d', { ...manifest, complete: false, files: [], missing }),
    /^ {2}missing: memory\.elf: no space\nThe post-mortem in \/d is NOT complete/,
  );
});

describe('progress', () => {
  test('tells how much is written, how fast, and how long it will take', () => {
    const mebibyte = 1024 ** 2;
    assert.equal(
      progressLine(64 * mebibyte, 256 * mebibyte, 16 * mebibyte),
      `memory [#######${' '.repeat(23)}]  25 %  64 MiB of 256 MiB  16 MiB/s  0:12 left`,
    );
    assert.match(progressLine(0, 2 ** 40, 2 ** 20), / 291:16:16 left$/);
    assert.match(progressLine(1, 2, undefined), /50 % {2}1 B of 2 B$/);
    assert.match(progressLine(0, 0, 5), /^memory \[ {30}\] {3}0 %/);
  });

  test('has no rate before the second look, and then that of the last seconds', () => {
    assert.equal(rateOf([{ at: 0, done: 5 }]), undefined);
    assert.equal(
      rateOf([
        { at: 0, done: 0 },
        { at: 9000, done: 1000 },
        { at: 10_000, done: 3000 },
      ]),
      2000,
    );
  });

  test('is one line drawn anew on a terminal, and a line for each tenth in a log', () => {
    const told: string[] = [];
    let now = 0;
    const clock = () => now;
    const terminal = new Progress(true, (text) => told.push(text), clock);
    for (const done of [0, 50, 100]) {
      terminal.show(done, 100);
      now += 1000;
    }
    terminal.end();
    terminal.end();
    assert.equal(told.length, 4);
    assert.ok(told.slice(0, 3).every((text) => text.startsWith('\r') && !text.includes('\n')));
    assert.equal(told[3], '\n');
    told.length = 0;
    const log = new Progress(false, (text) => told.push(text), clock);
    for (let done = 0; done <= 1000; done += 1) {
      log.show(done, 1000);
    }
    log.end();
    assert.equal(told.length, 11);
    assert.ok(told.every((text) => /^memory: .*\n$/.test(text)));
  });
});

describe('of older post-mortems', () => {
  const stored = (path: string, bytes: number, more: Partial<StoredPostmortem> = {}): StoredPostmortem => ({
    path,
    moment: path,
    bytes,
    whole: true,
    inUse: false,
    ...more,
  });
  const removed = (limits: [number: number, bytes: number], ...all: StoredPostmortem[]) =>
    surplus(all, { number: limits[0], bytes: limits[1] }).map(({ path }) => path);

  test('none is removed without a limit, or within it', () => {
    const all = [stored('1', 10), stored('2', 10)];
    assert.deepEqual(removed([0, 0], ...all), []);
    assert.deepEqual(removed([2, 20], ...all), []);
  });

  test('the oldest are removed, by number and by size', () => {
    const all = [stored('3', 10), stored('1', 10), stored('2', 10)];
    assert.deepEqual(removed([2, 0], ...all), ['1']);
    assert.deepEqual(removed([0, 10], ...all), ['1', '2']);
  });

  test('those that were never completed are removed first', () => {
    const all = [stored('1', 10), stored('2', 10, { whole: false }), stored('3', 10)];
    assert.deepEqual(removed([2, 0], ...all), ['2']);
  });

  test('the newest complete one stays, however small the limit', () => {
    const all = [stored('1', 10), stored('2', 10), stored('3', 10, { whole: false })];
    assert.deepEqual(removed([1, 1], ...all), ['3', '1']);
  });

  test('that of a guest that is still here stays', () => {
    const all = [stored('1', 10, { inUse: true }), stored('2', 10), stored('3', 10)];
    assert.deepEqual(removed([1, 1], ...all), ['2']);
  });
});

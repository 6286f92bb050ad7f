import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import {
  appendFileSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, beforeEach, describe, it } from 'node:test';
import { promisify } from 'node:util';
import fc from 'fast-check';
import { enterStormGuard, parseLines, stormHolds } from '../../../lib/cluster/storm-guard.ts';

const LIMITS = { guests: 2, seconds: 60 };

describe('stormHolds', () => {
  const at = (...pairs: [time: number, guest: string][]) => pairs.map(([time, guest]) => ({ time, guest }));

  it('lets a guest through while fewer others were quiesced than are allowed', () => {
    assert.equal(stormHolds([], 'a', 1000, LIMITS), undefined);
    assert.equal(stormHolds(at([990, 'b']), 'a', 1000, LIMITS), undefined);
    assert.match(
      stormHolds(at([990, 'b'], [999, 'c']), 'a', 1000, LIMITS) ?? '',
      /^2 other guests of this node were quiesced in the last 60 s, at most 2 may be$/,
    );
  });

  it('forgets what is older than the time', () => {
    assert.equal(stormHolds(at([940, 'b'], [999, 'c']), 'a', 1000, LIMITS), undefined);
    assert.ok(stormHolds(at([940.1, 'b'], [999, 'c']), 'a', 1000, LIMITS));
  });

  it('counts guests, not attempts, and not those of the guest itself', () => {
    assert.equal(
      stormHolds(at([990, 'b'], [995, 'b'], [999, 'a'], [999, 'a']), 'a', 1000, LIMITS),
      undefined,
    );
  });

  it('does not count entries from the future', () => {
    assert.equal(stormHolds(at([5000, 'b'], [6000, 'c']), 'a', 1000, LIMITS), undefined);
  });

  it('never lets more guests through in any window than are allowed', () => {
    const requests = fc.array(fc.tuple(fc.integer({ min: 0, max: 300 }), fc.constantFrom(...'abcdefg')));
    const limits = fc.record({
      guests: fc.integer({ min: 1, max: 4 }),
      seconds: fc.integer({ min: 1, max: 100 }),
    });
    fc.assert(
      fc.property(requests, limits, (list, limit) => {
        const through: { time: number; guest: string }[] = [];
        for (const [time, guest] of list.toSorted(([a], [b]) => a - b)) {
          if (stormHolds(through, guest, time, limit) === undefined) {
            through.push({ time, guest });
          }
          const window = through.filter((each) => time - each.time < limit.seconds);
          assert.ok(new Set(window.map((each) => each.guest)).size <= limit.guests);
        }
      }),
    );
  });
});

describe('parseLines', () => {
  it('skips and counts what it cannot read, and drops what was taken back', () => {
    const { entries, ignored } = parseLines(
      '\n10 a t1\n\n11.25 b t2\n\n-t1\nrubbish\n12 c\n\u0000\n-\nx y z\n\n13 d t4\n',
    );
    assert.deepEqual(
      entries.map(({ time, guest }) => [time, guest]),
      [
        [11.25, 'b'],
        [13, 'd'],
      ],
    );
    assert.equal(ignored, 4);
  });
});

describe('enterStormGuard', () => {
  let directory: string;
  let path: string;
  before(() => {
    directory = mkdtempSync(join(tmpdir(), 'kvmha-storm-'));
  });
  after(() => rmSync(directory, { recursive: true }));
  let count = 0;
  beforeEach(() => {
    count += 1;
    path = join(directory, String(count), 'quiesced');
  });
  const enter = (guest: string, now?: number) =>
    enterStormGuard(guest, LIMITS, path, now === undefined ? undefined : () => now);

  it('counts over all guests, in a file that root alone can read', () => {
    assert.equal(enter('a').kind, 'clear');
    assert.equal(enter('b').kind, 'clear');
    const held = enter('c');
    assert.ok(held.kind === 'held');
    assert.match(held.why, /2 other guests/);
    assert.equal(statSync(path).mode & 0o777, 0o600);
  });

  it('lets a guest that was let through try again, and one that was held when the time is over', () => {
    enter('a', 100);
    enter('b', 110);
    assert.equal(enter('b', 120).kind, 'clear');
    assert.equal(enter('c', 130).kind, 'held');
    assert.equal(enter('c', 159).kind, 'held');
    assert.equal(enter('c', 160).kind, 'clear');
    assert.equal(enter('d', 165).kind, 'held');
  });

  it('does not count a guest that was not quiesced after all', () => {
    const answer = enter('a');
    enter('b');
    assert.ok(answer.kind === 'clear');
    answer.withdraw();
    assert.equal(enter('c').kind, 'clear');
    assert.equal(enter('d').kind, 'held');
  });

  it('lets through exactly as many of those that ask at the same time', async () => {
    const module = join(import.meta.dirname, '../../../lib/cluster/storm-guard.ts');
    const script = `
      const { enterStormGuard } = await import(${JSON.stringify(module)});
      const [path, guest, start] = process.argv.slice(1);
      while (Date.now() < Number(start));
      console.log(enterStormGuard(guest, { guests: 3, seconds: 60 }, path).kind);`;
    const start = String(Date.now() + 1_500);
    const answers = await Promise.all(
      Array.from({ length: 8 }, async (_, guest) => {
        const args = ['--input-type=module', '--eval', script, path, `guest${guest}`, start];
        return (await promisify(execFile)(process.execPath, args)).stdout.trim();
      }),
    );
    const clear = answers.filter((answer) => answer === 'clear').length;
    assert.equal(clear, 3, answers.join(' '));
    assert.equal(parseLines(readFileSync(path, 'utf8')).entries.length, 3);
  });

  it('skips torn lines, which do not spoil the next', () => {
    enter('a', 100);
    appendFileSync(path, '\n10');
    enter('b', 101);
    const answer = enter('c', 102);
    assert.equal(answer.kind, 'held');
    assert.equal(answer.ignoredLines, 1);
  });

  it('reads the end of a file that has grown long', () => {
    enter('a', 100);
    appendFileSync(path, '\n1 z old\n'.repeat(60_000));
    enter('b', 101);
    enter('c', 102);
    assert.equal(enter('d', 103).kind, 'held');
  });

  it('holds when the file cannot be used', () => {
    mkdirSync(path, { recursive: true });
    const answer = enter('a');
    assert.ok(answer.kind === 'held');
    assert.match(answer.why, /cannot be used: EISDIR/);
    rmSync(path, { recursive: true });
    writeFileSync(join(directory, 'target'), '');
    symlinkSync(join(directory, 'target'), path);
    assert.equal(enter('a').kind, 'held');
  });
});

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { DOMParser } from '@xmldom/xmldom';
import { plot } from '../../bench/failover/plot.ts';
import type { Outcome } from '../../bench/failover/run.ts';
import { markdown, spread, summarize } from '../../bench/failover/summary.ts';

function outcome(change: Partial<Outcome>): Outcome {
  return {
    agent: 'watcher',
    fault: 'io-error',
    detected: null,
    proved: null,
    wrote: null,
    node: null,
    limit: 60_000,
    fenced: 0,
    rebooted: 0,
    preserved: false,
    ...change,
  };
}

const OUTCOMES = [
  outcome({ agent: 'virtualdomain', preserved: true }),
  outcome({ wrote: 3000, preserved: true }),
  outcome({ wrote: 1500, preserved: true }),
  outcome({ wrote: 2000 }),
  outcome({ agent: 'polling', fault: 'power', wrote: 4000, fenced: 1, rebooted: 2 }),
  outcome({ agent: 'polling', fault: 'power', fenced: 1, rebooted: 1 }),
];

test('the median of an even number of runs lies between the two in the middle', () => {
  assert.deepEqual(spread([4, 1, 3]), { median: 3, least: 1, most: 4 });
  assert.deepEqual(spread([10, 1, 2, 4]), { median: 3, least: 1, most: 10 });
  assert.deepEqual(spread([7]), { median: 7, least: 7, most: 7 });
});

test('runs are told of by fault and agent: how long, how many nodes, and whether QEMU was kept', () => {
  const rows = markdown(summarize(OUTCOMES))
    .trimEnd()
    .split('\n')
    .slice(2)
    .map((line) =>
      line
        .split('|')
        .slice(1, -1)
        .map((cell) => cell.trim()),
    );
  assert.deepEqual(rows, [
    [
      'I/O error that stops the guest',
      'KvmGuest and the watcher',
      ...['3', '2.0 s (1.5 to 3.0)', '0', '0', 'yes, in 2 of 3'],
    ],
    ['I/O error that stops the guest', 'VirtualDomain', '1', 'never within 60 s', '0', '0', 'unnoticed'],
    [
      'power cut of the node',
      'KvmGuest, monitor alone',
      ...['2', '4.0 s (4.0 to 4.0); in 1 of 2 never within 60 s', '2', '3', 'no'],
    ],
  ]);
});

test('the plot is one well-formed picture that needs nothing else, with a point for each run', () => {
  const picture = plot(summarize(OUTCOMES), 'on <a> & b');
  const problems: string[] = [];
  const onError = (level: string, message: string) => problems.push(`${level}: ${message}`);
  const { documentElement } = new DOMParser({ onError }).parseFromString(picture, 'image/svg+xml');
  assert.deepEqual(problems, []);
  assert.equal(documentElement?.nodeName, 'svg');
  assert.equal(picture.match(/<circle /g)?.length, 4);
  assert.equal(picture.match(/<path /g)?.length, 2, 'an arrow where a guest never wrote again');
  assert.ok(picture.includes('on &#60;a&#62; &#38; b'));
  assert.doesNotMatch(picture, /NaN|undefined|href|url\(|<script|<style/);
});

test('what is said below the plot goes on in the next line', () => {
  const picture = plot(summarize(OUTCOMES), 'word '.repeat(60).trim());
  const lines = [...picture.matchAll(/>(word[ word]*)</g)].map(([, line]) => line ?? '');
  assert.deepEqual(
    lines.map((line) => line.split(' ').length),
    [29, 29, 2],
  );
});

test('a longer time is further to the right, and none leaves the plot', () => {
  const times = [1, 400, 1500, 60_000, 9_999_999];
  const picture = plot(summarize(times.map((wrote) => outcome({ wrote }))), '');
  const places = [...picture.matchAll(/<circle cx="([\d.]+)"/g)].map(([, x]) => Number(x));
  assert.deepEqual(
    places,
    places.toSorted((a, b) => a - b),
  );
  assert.equal(places.length, times.length);
  assert.equal(places[0], places[1], 'both at the beginning');
  assert.ok((places[2] ?? 0) < (places[3] ?? 0) && (places[3] ?? 0) < (places[4] ?? 0));
});

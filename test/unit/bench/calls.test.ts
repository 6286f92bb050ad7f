import assert from 'node:assert/strict';
import { test } from 'node:test';
import { DOMParser } from '@xmldom/xmldom';
import { type Measurement, spreadWords } from '../../bench/calls/measure.ts';
import { plot } from '../../bench/calls/plot.ts';
import { percentile } from '../../bench/options.ts';

function call(user: number, system: number): Measurement {
  return { wall: 50, user, system, memory: 60, read: 1, exitCode: 0 };
}

test('the cost of a call is told by the median and the range', () => {
  assert.equal(spreadWords([30, 10, 20]), '20 (10 to 30)');
  assert.equal(spreadWords([10, 10.2]), '10');
});

test('a percentile is one of the values', () => {
  const values = Array.from({ length: 200 }, (_, index) => 200 - index);
  assert.equal(percentile(values, 0.5), 100);
  assert.equal(percentile(values, 0.99), 198);
  assert.equal(percentile([7], 0.99), 7);
});

test('the picture of calls names each, and says how much processor time it takes', () => {
  const measurements = [call(20, 10), call(21, 10), call(40, 20)];
  const svg = plot([{ who: 'KvmGuest', what: 'monitor <a & b>', measurements }], 'Measured; on this');
  const texts = [...new DOMParser().parseFromString(svg, 'image/svg+xml').getElementsByTagName('text')].map(
    (element) => element.textContent,
  );
  for (const words of ['monitor <a & b>', 'KvmGuest', '31 ms', 'Measured', 'on this']) {
    assert.ok(texts.includes(words), words);
  }
});

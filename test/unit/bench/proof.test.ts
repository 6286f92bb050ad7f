import assert from 'node:assert/strict';
import { test } from 'node:test';
import { DOMParser } from '@xmldom/xmldom';
import { plot } from '../../bench/proof/plot.ts';
import { type Measured, stepTable, table } from '../../bench/proof/summary.ts';

function measured(change: Partial<Measured>): Measured {
  return {
    qemu: 'QEMU 7.2',
    series: 'disks, cache=none',
    disks: 1,
    memory: 32,
    took: 40,
    steps: [
      ['record', 10],
      ['stop', 14],
    ],
    ...change,
  };
}

const MEASURED = [
  measured({}),
  measured({ took: 30 }),
  measured({ took: 44, disks: 2 }),
  measured({ took: 41, qemu: 'QEMU <10>' }),
  measured({ took: 120, series: 'memory', memory: 8192 }),
];

test('times of a proof are told by what was varied and by QEMU', () => {
  assert.deepEqual(table(MEASURED).trim().split('\n').slice(2), [
    '| disks, cache=none | 1 disk | 35 (30 to 40) | 41 (41 to 41) |',
    '| disks, cache=none | 2 disks | 44 (44 to 44) |  |',
    '| memory | 8 GiB | 120 (120 to 120) |  |',
  ]);
});

test('the steps of a proof add up to its time', () => {
  assert.deepEqual(stepTable(MEASURED.slice(0, 1)).trim().split('\n').slice(2), [
    '| assess | 10.0 |',
    '| record | 4.0 |',
    '| stop | 26.0 |',
  ]);
});

test('the picture of the times of a proof is XML, with a point for each run', () => {
  const picture = new DOMParser({
    onError: (level, message) => assert.fail(`${level}: ${message}`),
  }).parseFromString(plot(MEASURED, 'here & now'), 'image/svg+xml');
  assert.equal(picture.getElementsByTagName('circle').length, MEASURED.length);
});

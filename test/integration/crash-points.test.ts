import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { Deadline } from '../../lib/deadline.ts';
import { isKvmhaError } from '../../lib/error.ts';
import { runChecked } from '../../lib/run.ts';
import { type CrashPoint, crashPoints, type Fate, interrupt, SCENARIOS, Stage } from '../nemesis/crash.ts';

/** A few of all the moments, those at which most is at stake; `make crash-points` tries every one. */
const SAMPLE: readonly (readonly [
  string,
  Fate,
  string,
  (points: readonly CrashPoint[]) => CrashPoint | undefined,
])[] = [
  [
    'a watcher that quiesces',
    'dies',
    'when what it does is not yet recorded',
    (points) => points.find(({ call }) => call.startsWith('rename')),
  ],
  [
    'a monitor that quiesces',
    'dies-with-its-children',
    'when all is done but to write down the proof',
    (points) => points.findLast(({ call }) => call.startsWith('clone')),
  ],
  ['kvmha release', 'is-overtaken', 'halfway', (points) => points[Math.floor(points.length / 2)]],
];

const strace = await runChecked('strace', ['--version'], { deadline: Deadline.in(10_000) }).then(
  () => true,
  (error: unknown) => {
    assert.ok(isKvmhaError(error), String(error));
    return false;
  },
);
const skip = strace ? false : 'strace(1), which interrupts the actions, is not there';

describe('the next action finishes what was interrupted, and the guest runs again', { skip }, () => {
  let stage: Stage;
  before(async () => {
    stage = await Stage.set();
  });
  after(() => stage?.[Symbol.asyncDispose]());

  for (const [name, fate, when, choose] of SAMPLE) {
    test(`after ${name}, which ${fate.replaceAll('-', ' ')} ${when}`, async () => {
      const scenario = SCENARIOS.find((each) => each.name === name);
      assert.ok(scenario);
      const point = choose(await crashPoints(stage, scenario));
      assert.ok(point, 'it has no such moment');
      await interrupt(stage, scenario, point, fate);
    });
  }
});

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { Deadline } from '../../lib/deadline.ts';
import { isKvmhaError } from '../../lib/error.ts';
import { runChecked } from '../../lib/run.ts';
import { Cast, crashPoints, type Fate } from '../nemesis/crash.ts';
import { Stage } from '../nemesis/crash-player.ts';
import { SCENARIOS, type Scenario } from '../nemesis/crash-scenarios.ts';
import type { CrashPoint } from '../nemesis/crash-trace.ts';

type Choose = (points: readonly CrashPoint[]) => CrashPoint | undefined;

/** A few of all the moments, those at which most is at stake; `make crash-points` tries every one. */
const SAMPLE: readonly (readonly [string, Fate, string, Choose])[] = [
  ['a monitor that quiesces', 'is-overtaken', 'with its record just written', recorded],
  ['a monitor that quiesces', 'dies-with-its-children', 'with a proof that is not written down', proved],
  ['a watcher that quiesces', 'dies', 'before what it does is recorded', recorded],
];

function recorded(points: readonly CrashPoint[]): CrashPoint | undefined {
  return points.find(({ call, text }) => call.startsWith('rename') && text.includes('quiesce.json'));
}

/** A child writes each line of the journal, and a monitor's first is the proof. */
function proved(points: readonly CrashPoint[]): CrashPoint | undefined {
  const written = points.findIndex(({ text }) => text.includes('"{\\"time\\":'));
  return points.slice(0, written).findLast(({ call }) => /^(?:clone|clone3|vfork)$/.test(call));
}

const strace = await runChecked('strace', ['--version'], { deadline: Deadline.in(20_000) }).then(
  () => true,
  (error: unknown) => {
    assert.ok(isKvmhaError(error), String(error));
    return false;
  },
);
const skip = strace ? false : 'strace(1), which interrupts the actions, is not there';

describe('the next action finishes what was interrupted, and the guest runs again', { skip }, () => {
  let stage: Stage;
  const known = new Map<Scenario, readonly CrashPoint[]>();
  before(async () => {
    stage = await Stage.set();
  });
  after(() => stage?.[Symbol.asyncDispose]());

  for (const [name, fate, when, choose] of SAMPLE) {
    test(`after ${name}, which ${fate.replaceAll('-', ' ')} ${when}`, async () => {
      const scenario = SCENARIOS.find((each) => each.name === name);
      assert.ok(scenario);
      // Where the machine is slow, it may do something once more, and the next time end before that moment.
      for (let attempt = 1; attempt <= 3; attempt++) {
        const points = known.get(scenario) ?? (await crashPoints(stage, scenario));
        known.set(scenario, points);
        const point = choose(points);
        assert.ok(point, `there is no such moment among\n${points.map(({ text }) => text).join('\n')}`);
        await using cast = new Cast(stage, scenario);
        if (await cast.interrupt(point, fate)) {
          return;
        }
        known.delete(scenario);
      }
      assert.fail('it always came to its end before it could be interrupted');
    });
  }
});

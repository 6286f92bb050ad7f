import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { OCF } from '../../../lib/ocf.ts';
import { GUEST_STATES, type GuestState } from '../../../lib/state/classify.ts';
import {
  type Behaviour,
  changesNothing,
  type Policy,
  SITUATIONS,
  type Situation,
  verdict,
} from '../../../lib/state/verdict.ts';

const DEFAULTS: Policy = {
  ...{ operatorPause: 'healthy', outOfSpace: 'hold', guestPanic: 'fence', degraded: 'report' },
};
const POLICIES: Policy[] = (['healthy', 'failed'] as const).flatMap((operatorPause) =>
  (['hold', 'fail'] as const).flatMap((outOfSpace) =>
    (['fence', 'preserve'] as const).flatMap((guestPanic) =>
      (['report', 'ignore'] as const).map((degraded) => ({
        ...{ operatorPause, outOfSpace, guestPanic, degraded },
      })),
    ),
  ),
);

/** A behaviour in few words: "quiesce: 7, else 1". */
function inWords(behaviour: Behaviour): string {
  switch (behaviour.do) {
    case 'answer':
      return String(behaviour.code);
    case 'refuse':
      return `refuse ${behaviour.code} ${behaviour.why}`;
    case 'wait':
      return `wait, else ${behaviour.code}${behaviour.why === undefined ? '' : ` ${behaviour.why}`}`;
    case 'shut-down':
      return behaviour.wakeFirst ? 'wake, shut-down' : 'shut-down';
    case 'fence':
      return `fence, ${inWords(behaviour.then)}`;
    case 'quiesce':
      return `quiesce: ${behaviour.proven}, else ${inWords(behaviour.otherwise)}`;
    default:
      return behaviour.do;
  }
}

/** Every behaviour that `behaviour` may come to. */
function ways(behaviour: Behaviour): Behaviour[] {
  switch (behaviour.do) {
    case 'fence':
      return [behaviour, ...ways(behaviour.then)];
    case 'quiesce':
      return [behaviour, ...ways(behaviour.otherwise)];
    default:
      return [behaviour];
  }
}

function everyPolicy(state: GuestState, situation: Situation): Behaviour[] {
  return POLICIES.map((policy) => verdict(state, situation, policy));
}

describe('the state table, by the default policy', () => {
  const EXPECTED: { [state in GuestState]: string[] } = {
    running: ['0', '0', '0', 'shut-down', '0', 'migrate', '0'],
    degraded: ['190', '190', '0', 'shut-down', '0', 'migrate', '0'],
    transient: ['0', '0', '7', 'shut-down', 'wait, else 1', 'wait, else 1', 'wait, else 1'],
    'paused-by-operator': ['0', '0', '7', 'shut-down', '0', 'migrate', '0'],
    incoming: ['7', '7', '7', 'destroy', 'wait, else 1', 'refuse 1 not-running', 'wait, else 1'],
    'migrated-away': [
      ...['7', '7', '7', 'destroy', 'refuse 1 runs-elsewhere', '0', 'refuse 1 runs-elsewhere'],
    ],
    'post-copy': [
      ...['1', '1', '7', 'wait, else 1 post-copy', 'refuse 1 post-copy', 'refuse 1 post-copy'],
      'refuse 1 post-copy',
    ],
    suspended: ['0', '0', '7', 'wake, shut-down', '0', 'migrate', '0'],
    'out-of-space': ['0', '0', '7', 'shut-down', '0', 'migrate', '0'],
    faulted: [
      ...['1', 'quiesce: 7, else 1', '7', 'quiesce: 0, else destroy'],
      ...['refuse 1 stop-first', 'refuse 1 unfit', 'refuse 1 unfit'],
    ],
    'quiesced-failover-safe': [
      ...['7', '7', '7', '0', 'refuse 5 preserved', 'refuse 1 preserved', 'refuse 5 preserved'],
    ],
    'shut-off': [
      ...['7', 'fence, 7', '7', 'fence, 0', 'boot', 'refuse 1 not-running', 'refuse 1 not-running'],
    ],
    'shut-off-process-left': [
      ...['1', 'fence, 7', '7', 'fence, 0', 'fence, boot', 'refuse 1 not-running', 'refuse 1 not-running'],
    ],
    crashed: [...['1', 'fence, 7', '7', 'fence, 0', 'fence, boot', 'refuse 1 unfit', 'refuse 1 unfit']],
    unknown: ['1', '1', '7', 'destroy', 'refuse 1 stop-first', 'refuse 1 unfit', 'wait, else 1'],
  };

  for (const state of GUEST_STATES) {
    test(state, () => {
      const actual = SITUATIONS.map((situation) => inWords(verdict(state, situation, DEFAULTS)));
      assert.deepEqual(actual, EXPECTED[state]);
    });
  }
});

describe('the operator chooses', () => {
  const chosen = (state: GuestState, policy: Partial<Policy>) =>
    SITUATIONS.map((situation) => inWords(verdict(state, situation, { ...DEFAULTS, ...policy })));

  test('that a guest paused by an operator has failed', () => {
    assert.deepEqual(chosen('paused-by-operator', { operatorPause: 'failed' }), [
      ...['0', '1', '7', 'shut-down', 'refuse 1 stop-first', 'refuse 1 unfit', 'refuse 1 unfit'],
    ]);
  });

  test('that a guest out of space has failed, without quiescing it', () => {
    assert.deepEqual(chosen('out-of-space', { outOfSpace: 'fail' }), [
      ...['0', '1', '7', 'shut-down', 'refuse 1 stop-first', 'refuse 1 unfit', 'refuse 1 unfit'],
    ]);
  });

  test('not to be told of errors that a guest has survived', () => {
    assert.deepEqual(chosen('degraded', { degraded: 'ignore' }), [
      ...['0', '0', '0', 'shut-down', '0', 'migrate', '0'],
    ]);
  });

  test('to preserve a guest that panicked, and to fence it where that is not proved', () => {
    assert.deepEqual(chosen('crashed', { guestPanic: 'preserve' }), [
      ...['1', 'quiesce: 7, else fence, 7', '7', 'quiesce: 0, else fence, 0'],
      ...['refuse 1 stop-first', 'refuse 1 unfit', 'refuse 1 unfit'],
    ]);
  });

  test('nothing about any other state', () => {
    for (const state of GUEST_STATES) {
      if (!['paused-by-operator', 'out-of-space', 'crashed', 'degraded'].includes(state)) {
        for (const situation of SITUATIONS) {
          assert.equal(new Set(everyPolicy(state, situation).map(inWords)).size, 1);
        }
      }
    }
  });
});

describe('whatever the policy', () => {
  test('a probe and a monitor for role Stopped answer at once and change nothing', () => {
    for (const state of GUEST_STATES) {
      for (const situation of ['probe', 'monitor-role-stopped'] as const) {
        for (const behaviour of everyPolicy(state, situation)) {
          assert.equal(behaviour.do, 'answer');
          assert.ok(changesNothing(behaviour));
        }
      }
    }
  });

  test('a monitor for role Stopped answers 0 only if the vCPUs are seen running, else 7', () => {
    for (const state of GUEST_STATES) {
      for (const behaviour of everyPolicy(state, 'monitor-role-stopped')) {
        const code = state === 'running' || state === 'degraded' ? OCF.SUCCESS : OCF.NOT_RUNNING;
        assert.deepEqual(behaviour, { do: 'answer', code });
      }
    }
  });

  test('a probe answers 7 only where nothing may run or touch the images', () => {
    const states = GUEST_STATES.filter((state) =>
      everyPolicy(state, 'probe').some((behaviour) => inWords(behaviour) === '7'),
    );
    assert.deepEqual(states, ['incoming', 'migrated-away', 'quiesced-failover-safe', 'shut-off']);
  });

  test('only a guest that has ended or crashed leads a monitor to the fencing stage', () => {
    const states = GUEST_STATES.filter((state) =>
      everyPolicy(state, 'monitor')
        .flatMap(ways)
        .some((way) => way.do === 'fence'),
    );
    assert.deepEqual(states, ['shut-off', 'shut-off-process-left', 'crashed']);
  });

  test('a monitor never ends a guest otherwise, starts or moves one', () => {
    for (const state of GUEST_STATES) {
      for (const way of everyPolicy(state, 'monitor').flatMap(ways)) {
        assert.ok(['answer', 'quiesce', 'fence'].includes(way.do), `${state}: ${way.do}`);
      }
    }
  });

  test('a monitor never answers that a guest runs which does not or may not', () => {
    const states: GuestState[] = [
      ...(['faulted', 'unknown', 'crashed', 'quiesced-failover-safe', 'post-copy'] as const),
      ...(['shut-off', 'shut-off-process-left', 'migrated-away', 'incoming'] as const),
    ];
    for (const state of states) {
      for (const way of everyPolicy(state, 'monitor').flatMap(ways)) {
        const code = way.do === 'answer' ? way.code : way.do === 'quiesce' ? way.proven : OCF.NOT_RUNNING;
        assert.ok(code === OCF.ERR_GENERIC || code === OCF.NOT_RUNNING, `${state}: ${inWords(way)}`);
      }
    }
  });

  test('only a faulted guest, or by choice a crashed one, is quiesced', () => {
    for (const situation of SITUATIONS) {
      for (const state of GUEST_STATES) {
        const quiesces = everyPolicy(state, situation).some((behaviour) => behaviour.do === 'quiesce');
        const expected =
          (situation === 'monitor' || situation === 'stop') && ['faulted', 'crashed'].includes(state);
        assert.equal(quiesces, expected, `${state}, ${situation}`);
      }
    }
  });

  test('a preserved guest is never touched', () => {
    for (const situation of SITUATIONS) {
      for (const behaviour of everyPolicy('quiesced-failover-safe', situation)) {
        assert.ok(changesNothing(behaviour), situation);
      }
    }
  });

  test('a stop answers 0 for a preserved guest without doing anything, and for no other', () => {
    for (const state of GUEST_STATES) {
      for (const behaviour of everyPolicy(state, 'stop')) {
        const idle = behaviour.do === 'answer' || behaviour.do === 'boot';
        assert.equal(idle, state === 'quiesced-failover-safe', `${state}: ${inWords(behaviour)}`);
      }
    }
  });

  test('a stop ends every guest or proves it safe, except in post-copy', () => {
    for (const state of GUEST_STATES) {
      for (const behaviour of everyPolicy(state, 'stop')) {
        const last = ways(behaviour).at(-1) as Behaviour;
        const ended = last.do === 'shut-down' || last.do === 'destroy' || inWords(last) === '0';
        assert.equal(ended, state !== 'post-copy', `${state}: ${inWords(behaviour)}`);
      }
    }
  });

  test('a start boots only what is shut off, or what the fencing stage has ended first', () => {
    for (const state of GUEST_STATES) {
      for (const behaviour of everyPolicy(state, 'start')) {
        if (ways(behaviour).some((way) => way.do === 'boot')) {
          assert.ok(['shut-off', 'shut-off-process-left', 'crashed'].includes(state), state);
          assert.equal(behaviour.do, state === 'shut-off' ? 'boot' : 'fence');
        }
      }
    }
  });

  test('a start and a migrate_from beside a preserved guest ban the node', () => {
    for (const situation of ['start', 'migrate_from'] as const) {
      for (const behaviour of everyPolicy('quiesced-failover-safe', situation)) {
        assert.deepEqual(behaviour, { do: 'refuse', code: OCF.ERR_INSTALLED, why: 'preserved' });
      }
    }
  });

  test('a start never boots or resumes a guest that was seen running elsewhere', () => {
    for (const state of ['migrated-away', 'post-copy'] as const) {
      assert.ok(everyPolicy(state, 'start').every(({ do: action }) => action === 'refuse'));
    }
  });

  test('a migrate_from changes nothing: the guest arrives by itself', () => {
    for (const state of GUEST_STATES) {
      assert.ok(everyPolicy(state, 'migrate_from').every(changesNothing), state);
    }
  });

  test('a migrate_from that has nothing to wait for answers at once', () => {
    for (const state of ['shut-off', 'shut-off-process-left', 'crashed', 'faulted'] as const) {
      assert.ok(everyPolicy(state, 'migrate_from').every((behaviour) => behaviour.do === 'refuse'));
    }
  });
});

test('whatever ends, starts, moves or quiesces a guest changes something', () => {
  const changing = new Set(
    GUEST_STATES.flatMap((state) => SITUATIONS.flatMap((situation) => everyPolicy(state, situation)))
      .filter((behaviour) => !changesNothing(behaviour))
      .map((behaviour) => behaviour.do),
  );
  assert.deepEqual([...changing].sort(), ['boot', 'destroy', 'fence', 'migrate', 'quiesce', 'shut-down']);
});

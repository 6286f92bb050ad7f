import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import {
  afterQuiet,
  declare,
  HEALTHY,
  type HealthPolicy,
  type HostHealth,
  isHostHealth,
  isWorse,
  type Judgement,
  judge,
  leftOutUntil,
  type Moment,
} from '../../../lib/host/health.ts';
import type { HostError } from '../../../lib/host/host-error.ts';
import { DEFAULT_POLICY } from '../../../lib/policy.ts';

const policy = DEFAULT_POLICY.host;

function at(uptime: number): Moment {
  return { time: new Date(uptime * 1000).toISOString(), uptime };
}

function memory(more: Partial<HostError> = {}): HostError {
  return {
    kind: 'memory',
    severity: 'uncorrected',
    source: 'ras:mc_event',
    count: 1,
    component: 'mc0 DIMM_A1',
    message: 'memory read error',
    ...more,
  };
}

/** What follows from errors one after the other; the last verdict, and the state after it. */
function after(
  errors: readonly (readonly [number, HostError])[],
  by: HealthPolicy = policy,
  start: HostHealth = HEALTHY,
): Judgement {
  let judgement: Judgement | undefined;
  for (const [uptime, error] of errors) {
    judgement = judge(judgement?.state ?? start, error, by, at(uptime));
  }
  assert.ok(judgement);
  return judgement;
}

describe('health', () => {
  it('becomes what the policy says of an error', () => {
    const cases: [HostError, string][] = [
      [memory(), 'red'],
      [memory({ guest: 'vm1' }), 'yellow'],
      [memory({ severity: 'fatal', guest: 'vm1' }), 'red'],
      [memory({ severity: 'informational' }), 'green'],
      [memory({ severity: 'corrected' }), 'green'],
      [memory({ kind: 'page', component: 'memory' }), 'red'],
      [memory({ kind: 'pci', component: '0000:3b:00.0' }), 'yellow'],
      [memory({ kind: 'pci', component: '0000:3b:00.0', severity: 'fatal' }), 'red'],
      [memory({ kind: 'other', component: 'firmware' }), 'yellow'],
      [memory({ kind: 'storm', component: 'guests' }), 'yellow'],
    ];
    for (const [error, health] of cases) {
      assert.equal(after([[100, error]]).state.health, health, JSON.stringify(error));
    }
    const lenient = { ...policy, memory: 'ignore', fatal: 'yellow' } as const;
    assert.equal(after([[100, memory()]], lenient).state.health, 'green');
    assert.equal(after([[100, memory({ severity: 'fatal' })]], lenient).state.health, 'yellow');
  });

  it('says since when and why it is as it is, and only becomes worse', () => {
    const { state, verdict } = after([
      [100, memory({ kind: 'pci', component: '0000:3b:00.0' })],
      [200, memory()],
      [300, memory({ kind: 'pci', component: '0000:3b:00.0' })],
    ]);
    assert.equal(verdict.do, 'keep');
    assert.equal(state.health, 'red');
    assert.equal(state.since, at(200).time);
    assert.match(String(state.why), /^mc0 DIMM_A1: uncorrected error/);
    assert.equal(state.totals.uncorrected, 3);
    assert.equal(state.recent.length, 3);
  });

  it('depends on corrected errors by their rate, for each component by itself', () => {
    const rate = { ...policy, corrected: { health: 'yellow', errors: 10, seconds: 3600 } } as const;
    const ce = (component: string, count = 1) => memory({ severity: 'corrected', component, count });
    assert.equal(
      after(
        [
          [0, ce('A', 9)],
          [1, ce('B', 9)],
        ],
        rate,
      ).state.health,
      'green',
    );
    const { state, verdict } = after(
      [
        [0, ce('A', 9)],
        [3000, ce('A')],
      ],
      rate,
    );
    assert.equal(state.health, 'yellow');
    assert.equal(verdict.do === 'raise' && verdict.why, 'A: 10 corrected errors within 3600 s');
    assert.equal(
      after(
        [
          [0, ce('A', 9)],
          [3700, ce('A', 9)],
        ],
        rate,
      ).state.health,
      'green',
    );
    assert.equal(
      after(
        [
          [0, ce('__proto__', 9)],
          [1, ce('__proto__')],
        ],
        rate,
      ).state.health,
      'yellow',
    );
  });

  it('counts an error of memory once of which two sources tell', () => {
    const address = 0x1234_5678n;
    const page = memory({ kind: 'page', source: 'ras:memory_failure_event', address: 0x1234_5000n });
    const { verdict, state } = after([
      [100, memory({ address })],
      [101, page],
    ]);
    assert.equal(verdict.do, 'skip');
    assert.equal(state.totals.uncorrected, 1);
    assert.equal(
      after([
        [100, memory({ address })],
        [200, page],
      ]).state.totals.uncorrected,
      2,
    );
    assert.equal(
      after([
        [100, memory({ address })],
        [101, memory({ address })],
      ]).state.totals.uncorrected,
      2,
    );
  });

  it('returns to green by an operator, who also ends the counting', () => {
    const { state } = after([
      [100, memory()],
      [101, memory({ severity: 'corrected', count: 49 })],
    ]);
    const green = declare(state, 'green', 'DIMM replaced', at(200));
    assert.equal(green.health, 'green');
    assert.deepEqual(green.rates, {});
    const one = memory({ severity: 'corrected' });
    assert.equal(after([[201, one]], policy, green).state.health, 'green');
    assert.equal(after([[201, memory()]], policy, green).verdict.do, 'raise');
  });

  it('returns to green after the quiet time where there is one, unless an operator has set it', () => {
    const quiet = { ...policy, quietTime: 600 };
    const { state } = after(
      [
        [100, memory()],
        [500, memory()],
      ],
      quiet,
    );
    assert.equal(afterQuiet(state, quiet, at(1000)), undefined);
    assert.equal(afterQuiet(state, quiet, at(1100))?.health, 'green');
    assert.equal(afterQuiet(state, policy, at(99_999)), undefined);
    const set = declare(state, 'red', 'by hand', at(600));
    assert.equal(afterQuiet(set, quiet, at(99_999)), undefined);
  });

  it('stays bounded and readable, whatever comes', () => {
    const error = fc.record({
      kind: fc.constantFrom('memory', 'page', 'pci', 'processor', 'other', 'storm'),
      severity: fc.constantFrom('informational', 'corrected', 'uncorrected', 'fatal'),
      source: fc.constantFrom('a', 'b'),
      count: fc.integer({ min: 1, max: 100_000 }),
      component: fc.oneof(fc.string(), fc.constantFrom('__proto__', 'constructor', 'mc0')),
      message: fc.string(),
      address: fc.option(fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), { nil: undefined }),
    }) as fc.Arbitrary<HostError>;
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.nat(1_000_000), error), { maxLength: 400 }), (errors) => {
        let state = HEALTHY;
        for (const [uptime, each] of errors) {
          const next = judge(state, each, policy, at(uptime)).state;
          assert.ok(!isWorse(state.health, next.health));
          state = JSON.parse(JSON.stringify(next)) as HostHealth;
          assert.ok(isHostHealth(state));
        }
        assert.ok(state.recent.length <= 10 && state.pages.length <= 64);
        assert.ok(Object.keys(state.rates).length <= 128);
        assert.ok(Object.values(state.rates).every((slots) => slots.length <= 24));
      }),
      { numRuns: 50 },
    );
  });

  it('is not read from what is no record of it', () => {
    for (const value of [null, 1, {}, { ...HEALTHY, health: 'blue' }, { ...HEALTHY, writing: {} }]) {
      assert.ok(!isHostHealth(value));
    }
  });
});

describe('the journal', () => {
  it('takes a few of many errors, and tells how many it left out', () => {
    let state = HEALTHY;
    let written = 0;
    for (let i = 0; i < 5000; i += 1) {
      const judgement = judge(state, memory({ severity: 'corrected' }), policy, at(100 + i / 1000));
      ({ state } = judgement);
      written += judgement.journal.write ? 1 : 0;
    }
    assert.equal(written, 10);
    assert.equal(leftOutUntil(state, at(110)), undefined);
    const told = leftOutUntil(state, at(170));
    assert.equal(told?.leftOut, 4990);
    assert.equal(told && leftOutUntil(told.state, at(999)), undefined);
    // Otherwise the next one tells.
    const next = judge(state, memory({ severity: 'corrected' }), policy, at(170));
    assert.deepEqual(next.journal, { write: true, leftOut: 4990 });
  });

  it('takes what matters more beside a flood of what matters less', () => {
    let state = HEALTHY;
    for (let i = 0; i < 5000; i += 1) {
      ({ state } = judge(state, memory({ severity: 'corrected' }), policy, at(100)));
    }
    assert.deepEqual(judge(state, memory(), policy, at(100)).journal, { write: true, leftOut: 0 });
  });
});

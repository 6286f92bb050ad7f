import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { type Finding, isComplete, PROOF_ITEMS, type Proof } from '../../../lib/quiesce/proof.ts';
import { classify, GUEST_STATES } from '../../../lib/state/classify.ts';
import {
  DOMAIN_STATES,
  type LibvirtView,
  type MigrationView,
  type MonitorView,
  type Observation,
  type ProcessView,
  RUN_STATES,
} from '../../../lib/state/observation.ts';
import { changesNothing, type Policy, type Situation, verdict } from '../../../lib/state/verdict.ts';
import { LABELS } from './labels.ts';
import { WHOLE_PROOF } from './observations.ts';

const text = fc.string({ minLength: 1, maxLength: 8 });
const reason = fc.oneof(fc.constantFrom(...new Set(Object.values(LABELS).flat())), text);

const libvirtView: fc.Arbitrary<LibvirtView> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record(
      {
        kind: fc.constant('state' as const),
        state: fc.oneof({ weight: 9, arbitrary: fc.constantFrom(...DOMAIN_STATES) }, text),
        reason,
        job: fc.boolean(),
        incoming: fc.boolean(),
      },
      { requiredKeys: ['kind', 'state', 'reason'] },
    ),
  },
  fc.constant({ kind: 'no-domain' as const }),
  fc.record({ kind: fc.constant('silent' as const), why: text }),
  fc.constant({ kind: 'not-asked' as const }),
);

/** Every runstate, `running` often, and sometimes with a `running` that contradicts it. */
const monitorView: fc.Arbitrary<MonitorView> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc
      .record({
        runstate: fc.oneof(fc.constantFrom(...RUN_STATES), fc.constant('running'), text),
        contradicts: fc.integer({ min: 0, max: 4 }).map((number) => number === 0),
        failedDevices: fc.array(
          fc.record({ device: text, ioStatus: fc.constantFrom('failed' as const, 'nospace' as const) }),
          { maxLength: 3 },
        ),
      })
      .map(({ runstate, contradicts, failedDevices }) => ({
        kind: 'status' as const,
        runstate,
        running: (runstate === 'running') !== contradicts,
        failedDevices,
      })),
  },
  fc.constant({ kind: 'absent' as const }),
  fc.record({ kind: fc.constant('silent' as const), why: text }),
  fc.constant({ kind: 'not-asked' as const }),
);

const processView: fc.Arbitrary<ProcessView> = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({ kind: fc.constant('alive' as const), pid: fc.nat(), stopped: fc.boolean() }),
  },
  fc.record({ kind: fc.constant('dying' as const), pid: fc.nat() }),
  fc.constant({ kind: 'none' as const }),
  fc.record({ kind: fc.constant('unknown' as const), why: text }),
);

/** The whole proof, often, or any part of one. */
const proof: fc.Arbitrary<Proof> = fc.oneof(
  fc.constant(WHOLE_PROOF),
  fc.uniqueArray(fc.constantFrom(...PROOF_ITEMS), { maxLength: 2 }).map(
    (failed): Proof => ({
      ...WHOLE_PROOF,
      ...Object.fromEntries(failed.map((item): [string, Finding] => [item, { holds: false, seen: '' }])),
    }),
  ),
  fc
    .subarray([...PROOF_ITEMS])
    .map((items): Proof => Object.fromEntries(items.map((item) => [item, { holds: true, seen: '' }]))),
);

const migration: fc.Arbitrary<MigrationView> = fc.record({
  targetRunning: fc.boolean(),
  holdsImageLock: fc.boolean(),
});

const observation: fc.Arbitrary<Observation> = fc.record(
  {
    libvirt: libvirtView,
    monitor: monitorView,
    process: processView,
    quiesceBegun: fc.boolean(),
    proof,
    migration,
    heldFault: text,
    survivedError: text,
    startPending: fc.boolean(),
    vcpusUseTime: fc.boolean(),
  },
  { requiredKeys: ['libvirt', 'monitor', 'process', 'quiesceBegun'] },
);

const policy: fc.Arbitrary<Policy> = fc.record({
  operatorPause: fc.constantFrom('healthy', 'failed'),
  degraded: fc.constantFrom('report', 'ignore'),
  outOfSpace: fc.constantFrom('hold', 'fail'),
  guestPanic: fc.constantFrom('fence', 'preserve'),
});

function holds(check: (observation: Observation) => void): void {
  fc.assert(fc.property(observation, check), { numRuns: 5000 });
}

/** Written from the types alone: QMP's word where it answered, else libvirt's, else what was seen of them. */
function vcpusSaidToRun({ monitor, libvirt, vcpusUseTime }: Observation): boolean {
  if (monitor.kind === 'status') {
    return monitor.running || monitor.runstate === 'running';
  }
  if (libvirt.kind === 'silent') {
    return vcpusUseTime === true;
  }
  return libvirt.kind === 'state' && ['running', 'idle'].includes(libvirt.state);
}

describe('for every observation', () => {
  test('there is one known state, the same each time, and a reason', () => {
    holds((seen) => {
      const classification = classify(seen);
      assert.ok(GUEST_STATES.includes(classification.state));
      assert.ok(classification.reason.length > 0);
      assert.deepEqual(classify(structuredClone(seen)), classification);
    });
  });

  test('failover-safe means: whole proof, qemu alive and not stopped, no vCPU said to run', () => {
    let safe = 0;
    holds((seen) => {
      if (classify(seen).state === 'quiesced-failover-safe') {
        safe++;
        assert.ok(isComplete(seen.proof));
        assert.ok(seen.process.kind === 'alive' && !seen.process.stopped);
        assert.ok(!vcpusSaidToRun(seen));
      }
    });
    assert.ok(safe > 50, `only ${safe} of the observations were failover-safe`);
  });

  test('whole proof, qemu alive and not stopped, no vCPU said to run means: failover-safe', () => {
    holds((seen) => {
      const whole = { ...seen, proof: WHOLE_PROOF };
      const alive = { ...whole, process: { kind: 'alive', pid: 7, stopped: false } } as const;
      assert.equal(classify(alive).state === 'quiesced-failover-safe', !vcpusSaidToRun(alive));
    });
  });

  test('a quiesce that was begun is failover-safe or faulted while qemu lives', () => {
    holds((seen) => {
      if ((seen.quiesceBegun || seen.proof !== undefined) && seen.process.kind === 'alive') {
        assert.match(classify(seen).state, /^(quiesced-failover-safe|faulted)$/);
      }
    });
  });

  test('a fault or a panic that QMP reports is never healthy', () => {
    holds((seen) => {
      if (
        seen.monitor.kind === 'status' &&
        ['io-error', 'internal-error', 'watchdog', 'guest-panicked'].includes(seen.monitor.runstate)
      ) {
        assert.doesNotMatch(
          classify(seen).state,
          /^(running|degraded|transient|paused-by-operator|suspended)$/,
        );
      }
    });
  });

  test('running needs vCPUs that are said to run', () => {
    holds((seen) => {
      if (['running', 'degraded'].includes(classify(seen).state)) {
        assert.ok(vcpusSaidToRun(seen));
      }
    });
  });

  test('shut off needs a process table that shows none, or that libvirt is the only one to answer', () => {
    holds((seen) => {
      if (classify(seen).state === 'shut-off') {
        assert.ok(seen.process.kind === 'none' || seen.process.kind === 'unknown');
        assert.notEqual(seen.monitor.kind, 'status');
      }
    });
  });

  test('no monitor starts the fencing stage on vCPUs that are said to run', () => {
    fc.assert(
      fc.property(observation, policy, (seen, chosen) => {
        if (vcpusSaidToRun(seen) && seen.process.kind !== 'dying' && seen.process.kind !== 'none') {
          assert.notEqual(verdict(classify(seen).state, 'monitor', chosen).do, 'fence');
        }
      }),
      { numRuns: 5000 },
    );
  });

  test('a probe and a monitor for role Stopped change nothing', () => {
    fc.assert(
      fc.property(
        observation,
        policy,
        fc.constantFrom<Situation>('probe', 'monitor-role-stopped'),
        (seen, chosen, situation) => {
          assert.ok(changesNothing(verdict(classify(seen).state, situation, chosen)));
        },
      ),
      { numRuns: 5000 },
    );
  });

  test('a probe lets the guest start elsewhere only if no live qemu but a safe or remaining one is seen', () => {
    fc.assert(
      fc.property(observation, policy, (seen, chosen) => {
        const { state } = classify(seen);
        const behaviour = verdict(state, 'probe', chosen);
        if (behaviour.do === 'answer' && behaviour.code === 7 && seen.process.kind !== 'none') {
          assert.match(state, /^(quiesced-failover-safe|migrated-away|incoming|shut-off)$/);
          assert.ok(state !== 'shut-off' || seen.process.kind === 'unknown');
        }
      }),
      { numRuns: 5000 },
    );
  });
});

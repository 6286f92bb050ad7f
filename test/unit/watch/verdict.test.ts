import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { DEFAULT_POLICY, type Policy } from '../../../lib/policy.ts';
import { isObject, type Json } from '../../../lib/qemu/qmp.ts';
import { classify, GUEST_STATES } from '../../../lib/state/classify.ts';
import { type Policy as StatePolicy, verdict } from '../../../lib/state/verdict.ts';
import { type Meaning, meaningOf } from '../../../lib/watch/meaning.ts';
import { verdictOnEvent, verdictOnState } from '../../../lib/watch/verdict.ts';
import { eventsOf, recording } from '../../support/qmp-recording.ts';
import { NOT_ASKED, observe, status, UNKNOWN_PROCESS } from '../state/observations.ts';

const STATE_POLICY: StatePolicy = {
  operatorPause: 'healthy',
  outOfSpace: 'hold',
  guestPanic: 'fence',
  degraded: 'report',
};

/** What is done about each event that was recorded. */
function verdicts(name: string, policy: Policy['watch'] = DEFAULT_POLICY.watch): string[] {
  return eventsOf(recording(name)).map((line) => {
    const { event, data } = JSON.parse(line) as { event: string; data?: Json };
    return verdictOnEvent(meaningOf({ event, data: isObject(data) ? data : {} }), policy).do;
  });
}

function withMemory(choices: Partial<Policy['watch']['memoryFailure']>): Policy['watch'] {
  const { watch } = DEFAULT_POLICY;
  return { ...watch, memoryFailure: { ...watch.memoryFailure, ...choices } };
}

describe('verdictOnEvent', () => {
  it('looks where a look tells more than the event', () => {
    for (const name of ['write-error', 'no-space', 'panic', 'watchdog-pause', 'suspend-resume']) {
      assert.deepEqual(verdicts(name), ['look', 'look'], name);
    }
    assert.deepEqual(verdicts('emulation-failure'), ['look']);
    assert.deepEqual(verdicts('destroyed'), ['look']);
  });

  it('leaves resets and what does not concern health alone', () => {
    assert.deepEqual([...new Set(verdicts('reset'))], ['ignore']);
    assert.deepEqual([...new Set(verdicts('triple-fault'))], ['ignore']);
    assert.deepEqual(verdicts('sleep'), ['ignore']);
  });

  it('waits while the crash kernel is at work', () => {
    assert.deepEqual(verdicts('crash-kernel'), ['hold']);
  });

  it('calls degraded what the guest survived', () => {
    for (const name of ['passed-error', 'ignored-error']) {
      assert.deepEqual([...new Set(verdicts(name))], ['degrade'], name);
    }
    assert.deepEqual(verdicts('memory-action-optional'), ['degrade']);
    assert.deepEqual(verdicts('memory-corrected'), ['degrade']);
  });

  it('lets a guest fail over whose memory was lost when it was needed, or that could not be told', () => {
    assert.deepEqual(verdicts('memory-action-required'), ['fail-over']);
    assert.equal(verdicts('memory-reset')[0], 'fail-over');
  });

  it('goes by the choice for each kind of memory failure', () => {
    for (const choice of ['fail-over', 'degrade', 'ignore'] as const) {
      assert.equal(verdicts('memory-reset', withMemory({ reset: choice }))[0], choice);
      assert.equal(verdicts('memory-action-required', withMemory({ actionRequired: choice }))[0], choice);
      assert.equal(verdicts('memory-action-optional', withMemory({ actionOptional: choice }))[0], choice);
    }
  });

  it('looks after a memory failure of which qemu ends itself', () => {
    const meaning: Meaning = {
      kind: 'memory-failure',
      recipient: 'hypervisor',
      action: 'fatal',
      actionRequired: true,
      recursive: false,
    };
    assert.deepEqual(verdictOnEvent(meaning, DEFAULT_POLICY.watch), { do: 'look' });
  });

  it('fails a guest over for no event but a memory failure that the policy says so of', () => {
    const choice = fc.constantFrom('fail-over' as const, 'degrade' as const, 'ignore' as const);
    const text = fc.oneof(
      fc.constantFrom('ignore', 'inject', 'reset', 'fatal', 'stop', 'report', 'pause'),
      fc.string(),
    );
    const meanings: fc.Arbitrary<Meaning> = fc.oneof(
      fc.record({
        kind: fc.constant('memory-failure' as const),
        recipient: text,
        action: text,
        actionRequired: fc.boolean(),
        recursive: fc.boolean(),
      }),
      fc.record({
        kind: fc.constant('io-error' as const),
        device: text,
        operation: text,
        action: text,
        noSpace: fc.boolean(),
        reason: text,
      }),
      fc.record({ kind: fc.constantFrom('guest-panicked' as const, 'watchdog' as const), action: text }),
      fc.record({
        kind: fc.constantFrom('shut-down' as const, 'reset' as const),
        byGuest: fc.boolean(),
        reason: text,
      }),
      fc.record({
        kind: fc.constantFrom(
          'stopped' as const,
          'resumed' as const,
          'crash-kernel' as const,
          'nothing' as const,
        ),
      }),
    );
    const policies = fc.record({
      mode: fc.constantFrom('act' as const, 'observe' as const),
      memoryFailure: fc.record({ actionRequired: choice, actionOptional: choice, reset: choice }),
    });
    fc.assert(
      fc.property(meanings, policies, (meaning, policy) => {
        const decided = verdictOnEvent(meaning, policy);
        if (decided.do === 'fail-over') {
          assert.equal(meaning.kind, 'memory-failure');
          assert.ok(Object.values(policy.memoryFailure).includes('fail-over'));
        }
      }),
    );
  });
});

describe('verdictOnState', () => {
  /** What QMP alone shows, which is what the watcher looks at. */
  function seen(runstate: string, ...failed: ('failed' | 'nospace')[]) {
    return classify(
      observe({ libvirt: NOT_ASKED, process: UNKNOWN_PROCESS, monitor: status(runstate, ...failed) }),
    );
  }

  it('lets a faulted guest fail over, and says of what', () => {
    assert.deepEqual(verdictOnState(seen('io-error', 'failed'), STATE_POLICY), {
      do: 'fail-over',
      fault: 'io-error',
    });
    assert.equal(verdictOnState(seen('internal-error'), STATE_POLICY).do, 'fail-over');
    assert.equal(verdictOnState(seen('watchdog'), STATE_POLICY).do, 'fail-over');
  });

  it('holds a guest whose storage is full or that somebody paused, and leaves one that runs or migrates', () => {
    assert.equal(verdictOnState(seen('io-error', 'nospace'), STATE_POLICY).do, 'hold');
    assert.equal(verdictOnState(seen('paused'), STATE_POLICY).do, 'hold');
    for (const runstate of ['running', 'inmigrate', 'finish-migrate', 'postmigrate', 'save-vm', 'shutdown']) {
      assert.equal(verdictOnState(seen(runstate), STATE_POLICY).do, 'ignore', runstate);
    }
  });

  it('takes up a panic only where it is to be preserved', () => {
    assert.equal(verdictOnState(seen('guest-panicked'), STATE_POLICY).do, 'hold');
    const preserving: StatePolicy = { ...STATE_POLICY, guestPanic: 'preserve' };
    assert.equal(verdictOnState(seen('guest-panicked'), preserving).do, 'fail-over');
  });

  it('lets a guest fail over exactly where the monitor would quiesce it', () => {
    for (const operatorPause of ['healthy', 'failed'] as const) {
      for (const outOfSpace of ['hold', 'fail'] as const) {
        for (const guestPanic of ['fence', 'preserve'] as const) {
          const policy: StatePolicy = { ...STATE_POLICY, operatorPause, outOfSpace, guestPanic };
          for (const state of GUEST_STATES) {
            assert.equal(
              verdictOnState({ state, reason: 'seen' }, policy).do === 'fail-over',
              verdict(state, 'monitor', policy).do === 'quiesce',
              state,
            );
          }
        }
      }
    }
  });
});

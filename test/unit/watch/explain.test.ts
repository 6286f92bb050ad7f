import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { DEFAULT_POLICY, parsePolicy } from '../../../lib/policy.ts';
import { isObject, type Json } from '../../../lib/qemu/qmp.ts';
import { GUEST_STATES } from '../../../lib/state/classify.ts';
import { DEFAULT_CHOICES, explainEvent, explainState } from '../../../lib/watch/explain.ts';
import { meaningOf } from '../../../lib/watch/meaning.ts';
import { verdictOnEvent } from '../../../lib/watch/verdict.ts';
import { eventsOf, recording } from '../../support/qmp-recording.ts';

function meaningsOf(name: string) {
  return eventsOf(recording(name)).map((line) => {
    const { event, data } = JSON.parse(line) as { event: string; data?: Json };
    return meaningOf({ event, data: isObject(data) ? data : {} });
  });
}

const names = (settings: readonly { readonly name: string }[]) => settings.map(({ name }) => name);

describe('explainEvent', () => {
  it('gives the verdict that the watcher comes to, for every recorded event', () => {
    for (const name of [
      'write-error',
      'memory-reset',
      'memory-action-optional',
      'panic',
      'crash-kernel',
      'reset',
    ]) {
      for (const meaning of meaningsOf(name)) {
        const { watcher } = explainEvent(meaning, DEFAULT_POLICY, DEFAULT_CHOICES);
        assert.equal(watcher, verdictOnEvent(meaning, DEFAULT_POLICY.watch).do, name);
      }
    }
  });

  it('names the key of the policy that decides, and its value', async () => {
    const policy = await parsePolicy('watch: { memory-failure: { reset: ignore } }', 'policy.yaml');
    const [meaning] = meaningsOf('memory-reset');
    assert.ok(meaning);
    const explanation = explainEvent(meaning, policy, DEFAULT_CHOICES);
    assert.equal(explanation.watcher, 'ignore');
    assert.deepEqual(explanation.decidedBy, [
      { of: 'policy', name: 'watch.memory-failure.reset', value: 'ignore' },
    ]);
    assert.deepEqual(explanation.conditions, []);
  });

  it('says what a quiesce depends on beside', () => {
    const [meaning] = meaningsOf('memory-action-required');
    assert.ok(meaning);
    assert.deepEqual(names(explainEvent(meaning, DEFAULT_POLICY, DEFAULT_CHOICES).conditions), [
      'quiesce.enabled',
      'quiesce.storm',
      'quiesce.require-eligible-node',
      'watch.mode',
    ]);
  });

  it('explains the states that a look may find, where the event alone does not decide', () => {
    const [meaning] = meaningsOf('no-space');
    assert.ok(meaning);
    const { watcher, states } = explainEvent(meaning, DEFAULT_POLICY, DEFAULT_CHOICES);
    assert.equal(watcher, 'look');
    assert.deepEqual(
      states.map(({ about }) => about),
      ['out-of-space', 'faulted'],
    );
  });
});

describe('explainState', () => {
  it('names the setting of the policy, or the parameter of the resource, that decides', () => {
    const deciding = GUEST_STATES.map((state) => {
      const { decidedBy } = explainState(state, DEFAULT_POLICY, DEFAULT_CHOICES);
      return [state, names(decidedBy)] as const;
    }).filter(([, settings]) => settings.length > 0);
    assert.deepEqual(deciding, [
      ['degraded', ['monitor.degraded']],
      ['paused-by-operator', ['operator_pause']],
      ['out-of-space', ['out-of-space']],
      ['crashed', ['guest_panic']],
    ]);
  });

  it('goes by the parameters of the resource', () => {
    assert.equal(explainState('crashed', DEFAULT_POLICY, DEFAULT_CHOICES).watcher, 'hold');
    const preserving = explainState('crashed', DEFAULT_POLICY, {
      ...DEFAULT_CHOICES,
      guestPanic: 'preserve',
    });
    assert.equal(preserving.watcher, 'fail-over');
    assert.match(preserving.monitor ?? '', /quiesces the guest, .* "not running" \(7\)/);
  });
});

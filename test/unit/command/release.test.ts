import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { quiesceRefusal } from '../../../agent/command/quiesce.ts';
import { releaseRefusal } from '../../../lib/guest/release.ts';
import { GUEST_STATES, type GuestState } from '../../../lib/state/classify.ts';
import type { Observation } from '../../../lib/state/observation.ts';

const stopped: Observation = {
  libvirt: { kind: 'not-asked' },
  monitor: { kind: 'status', runstate: 'paused', running: false, failedDevices: [] },
  process: { kind: 'alive', pid: 318, stopped: false },
  quiesceBegun: false,
};

function refusal(
  state: GuestState,
  observation: Observation = stopped,
  resource?: string,
): string | undefined {
  return releaseRefusal({ name: 'web', resource }, { state, reason: 'seen' }, { observation });
}

describe('release', () => {
  test('is for preserved guests, and for what is left of them', () => {
    const allowed = GUEST_STATES.filter((state) => refusal(state) === undefined);
    assert.deepEqual(allowed, ['quiesced-failover-safe', 'shut-off']);
  });

  test('is for guests whose quiescing was begun, whatever they are said to be', () => {
    for (const state of ['faulted', 'unknown', 'shut-off-process-left'] as const) {
      assert.equal(refusal(state, { ...stopped, quiesceBegun: true }), undefined);
    }
  });

  test('is for none whose vCPUs run, also where its quiescing was begun', () => {
    const monitor = { kind: 'status', runstate: 'running', running: true, failedDevices: [] } as const;
    assert.match(
      refusal('running', { ...stopped, monitor }) ?? '',
      /is running, and release ends preserved guests only/,
    );
    assert.match(refusal('faulted', { ...stopped, monitor, quiesceBegun: true }) ?? '', /is running/);
  });

  test('names the command that ends the guest instead', () => {
    assert.match(refusal('faulted', stopped, 'vm-web') ?? '', /crm resource stop vm-web/);
    assert.match(refusal('faulted') ?? '', /virsh shutdown web/);
  });
});

test('a guest is not quiesced where there is nothing to be quiesced, or nothing to be seen', () => {
  const allowed = GUEST_STATES.filter((state) => quiesceRefusal(state, 'web') === undefined);
  assert.deepEqual(allowed, [
    'running',
    'degraded',
    'paused-by-operator',
    'suspended',
    'out-of-space',
    'faulted',
    'quiesced-failover-safe',
    'crashed',
  ]);
});

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { quiesceRefusal } from '../../../agent/command/quiesce.ts';
import { lackOfPostmortem } from '../../../agent/command/release.ts';
import { releaseRefusal } from '../../../lib/guest/release.ts';
import { readStat } from '../../../lib/linux/process.ts';
import type { PostmortemJob } from '../../../lib/record/postmortem-job.ts';
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

describe('release waits for a post-mortem', () => {
  const here = { pid: process.pid, startTime: readStat(process.pid)?.startTime ?? 0 };
  const job: PostmortemJob = { process: here, begun: '', directory: '/d', thenRelease: false };
  const end = { at: '' };
  const lack = (of: PostmortemJob | undefined, isThere = true, preservedGuest?: string) =>
    lackOfPostmortem('web', of, () => isThere, preservedGuest);

  test('that is being collected', () => {
    assert.match(lack(job) ?? '', /is being collected in \/d; wait for it, or give --without-postmortem/);
  });

  test('that was promised, and was not begun, was interrupted, failed, or is gone', () => {
    const { process: _, ...waiting } = job;
    assert.match(lack({ ...waiting, promised: true }) ?? '', /promised.*not begun.*kvmha postmortem web/);
    assert.match(lack(undefined, true, 'dump') ?? '', /promised.*not begun/);
    const lost = { ...job, promised: true, process: { pid: here.pid, startTime: here.startTime + 1 } };
    assert.match(lack(lost) ?? '', /promised.*it was interrupted/);
    assert.match(lack({ ...job, promised: true, end: { ...end, failure: 'full' } }) ?? '', /promised.*full/);
    assert.match(lack({ ...job, promised: true, end }, false) ?? '', /promised.*is not in \/d any more/);
  });

  test('and for no other', () => {
    assert.equal(lack(undefined), undefined);
    assert.equal(lack(undefined, true, 'keep'), undefined);
    assert.equal(lack({ ...job, end: { ...end, failure: 'full' } }), undefined);
    assert.equal(lack({ ...job, promised: true, end }), undefined);
    assert.equal(lack({ ...job, end }, false), undefined);
  });
});

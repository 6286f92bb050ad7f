import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { attentionTo, type Facts, type GuestReport, withoutResource } from '../../../agent/command/report.ts';
import {
  isWell,
  renderProblems,
  renderStatus,
  type StatusReport,
} from '../../../agent/command/status-text.ts';
import { table } from '../../../agent/command/table.ts';
import { GUEST_STATES } from '../../../lib/state/classify.ts';
import { RUNNING_GUEST } from './reports.ts';

const preserved: GuestReport = {
  ...RUNNING_GUEST,
  name: 'db',
  state: 'quiesced-failover-safe',
  fault: 'io-error',
  qemu: { pid: 99, memory: 46_813_184 },
  proof: { complete: true, missing: [] },
  attention: 'release it',
};

function report(...guests: GuestReport[]): StatusReport {
  return {
    node: 'node1',
    time: '2026-11-25T02:02:00.000Z',
    libvirtSilent: null,
    clusterSilent: null,
    problems: [],
    guests,
    cluster: null,
  };
}

describe('the list of guests', () => {
  test('has a column for what is known, and none for what no guest has', () => {
    assert.equal(
      renderStatus(report(RUNNING_GUEST)),
      'GUEST  STATE    SINCE                 QEMU  MEMORY   RESOURCE\n' +
        'web    running  2026-11-25T02:01:07Z  318   3.0 GiB  vm-web\n',
    );
  });

  test('says beneath what needs attention', () => {
    assert.equal(
      renderStatus(report(preserved, RUNNING_GUEST)),
      'GUEST  STATE                   SINCE                 FAULT     QEMU  MEMORY   PROOF     RESOURCE\n' +
        'db     quiesced-failover-safe  2026-11-25T02:01:07Z  io-error  99    45 MiB   complete  vm-web\n' +
        'web    running                 2026-11-25T02:01:07Z            318   3.0 GiB            vm-web\n' +
        '\ndb: release it.\n',
    );
  });

  test('says that there is none', () => {
    assert.equal(renderStatus(report()), 'no guest is known on node1\n');
  });

  test('counts what a proof lacks', () => {
    const missing = [{ item: 'images-released', seen: 'a lock' }] as const;
    assert.match(renderStatus(report({ ...preserved, proof: { complete: false, missing } })), /lacks 1/);
  });

  test('tells of a post-mortem', () => {
    const postmortem = { directory: '/d', why: null };
    const note = (state: 'running' | 'done' | 'failed' | 'lost') =>
      renderStatus(
        report({
          ...RUNNING_GUEST,
          postmortem: { ...postmortem, state, why: state === 'failed' ? 'full' : null },
        }),
      );
    assert.match(note('running'), /web: a post-mortem is being collected in \/d\./);
    assert.match(note('done'), /web: a post-mortem is in \/d\./);
    assert.match(note('failed'), /web: its post-mortem in \/d is not complete: full\./);
    assert.match(note('lost'), /web: its post-mortem in \/d was interrupted\./);
  });

  test('does not let a name control the terminal', () => {
    const text = renderStatus(report({ ...RUNNING_GUEST, name: '\u001b[31mred\nblue' }));
    assert.match(text, /^\[31mred blue /m);
    assert.ok(!text.includes('\u001b'));
  });
});

describe('whether all is well', () => {
  test('it is with guests that need no attention, and with none', () => {
    assert.ok(isWell(report()));
    assert.ok(isWell(report(RUNNING_GUEST)));
  });

  test('it is not when a guest needs attention, a record cannot be read or libvirt is silent', () => {
    assert.ok(!isWell(report(RUNNING_GUEST, preserved)));
    assert.ok(!isWell({ ...report(RUNNING_GUEST), problems: ['a record is damaged'] }));
    assert.ok(!isWell({ ...report(RUNNING_GUEST), libvirtSilent: 'connection refused' }));
  });

  test('what kept the list from being complete is told', () => {
    assert.equal(renderProblems(report()), '');
    assert.equal(
      renderProblems({ ...report(), libvirtSilent: 'refused', problems: ['x is damaged'] }),
      'kvmha: libvirt does not answer, so this is what processes and records tell: refused\nkvmha: x is damaged\n',
    );
  });
});

describe('the attention that a guest needs', () => {
  const facts: Facts = {
    guest: { name: 'web', resource: undefined },
    classification: { state: 'running', reason: 'what was seen' },
    record: undefined,
    proof: undefined,
    quiesceBegun: false,
    pid: 318,
  };
  const attention = (state: Facts['classification']['state'], more: Partial<Facts> = {}) =>
    attentionTo({ ...facts, classification: { ...facts.classification, state }, ...more });

  test('healthy states need none, the others do', () => {
    const none = GUEST_STATES.filter((state) => attention(state) === undefined);
    assert.deepEqual(none, [
      'running',
      'transient',
      'paused-by-operator',
      'incoming',
      'migrated-away',
      'suspended',
      'shut-off',
    ]);
  });

  test('names the next command for a preserved guest', () => {
    assert.match(
      attention('quiesced-failover-safe') ?? '',
      /process 318.*"kvmha postmortem web".*"kvmha release web"/,
    );
  });

  test('says of a guest that stands still what the cluster does, where kvmha runs it', () => {
    const mine = attention('faulted', { guest: { name: 'web', resource: 'vm-web' } });
    assert.match(mine ?? '', /The next monitor of vm-web quiesces it; by hand "kvmha quiesce web" does/);
    const others = attention('faulted', { guest: { name: 'web', resource: undefined } });
    assert.match(others ?? '', /No resource of kvmha runs it here, .*; by hand "kvmha quiesce web" does/);
  });

  test('promises nothing of a resource that is none of kvmha any more, and names what the watcher goes by', () => {
    const guest = { name: 'web', resource: 'vm-web' };
    const faulted = {
      ...facts,
      guest,
      classification: { state: 'faulted', reason: 'it has halted' },
    } as const;
    const report = { ...RUNNING_GUEST, state: 'faulted', attention: attentionTo(faulted) ?? null } as const;
    assert.match(report.attention ?? '', /next monitor of vm-web/);
    const given = withoutResource({ report, facts: faulted }, '/run/kvmha/guests/U/resource.json');
    assert.equal(given.resource, null);
    assert.match(given.attention ?? '', /No resource of kvmha runs it here/);
    assert.match(given.attention ?? '', /"rm \/run\/kvmha\/guests\/U\/resource\.json"/);
    assert.doesNotMatch(given.attention ?? '', /next monitor/);
    const runs = { report: RUNNING_GUEST, facts: { ...facts, guest } };
    assert.equal(withoutResource(runs, undefined).attention, null);
  });

  test('says what a proof lacks', () => {
    const said = attention('faulted', {
      quiesceBegun: true,
      proof: {
        'qemu-alive': { holds: true, seen: 'yes' },
        'images-released': { holds: false, seen: 'a lock' },
      },
    });
    assert.match(said ?? '', /not proved: .*images-released \(a lock\).*"kvmha quiesce web" goes on/);
    assert.doesNotMatch(said ?? '', /qemu-alive/);
  });

  test('tells of a preserved guest that has ended by itself', () => {
    const record = { qemu: { pid: 7, startTime: 1 } };
    assert.match(attention('shut-off', { record }) ?? '', /process 7, has ended\. "kvmha release web"/);
  });
});

describe('a table', () => {
  test('has no column without content', () => {
    assert.equal(
      table([
        ['A', 'B', 'C'],
        ['1', '', '3'],
        ['10', '', ''],
      ]),
      'A   C\n1   3\n10\n',
    );
  });
});

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { exposition } from '../../../agent/command/exposition.ts';
import { familiesOf, type Measured } from '../../../agent/command/metrics-families.ts';
import type { GuestReport } from '../../../agent/command/report.ts';
import { GUEST_STATES } from '../../../lib/state/classify.ts';
import { parseJournal } from '../../../lib/timeline/journal-lines.ts';
import { readExposition } from '../../support/exposition.ts';
import { recordedLines } from '../timeline/recorded.ts';
import { RUNNING_GUEST } from './reports.ts';

const RUNNING: GuestReport = {
  ...RUNNING_GUEST,
  since: '2026-11-25T02:00:00.500Z',
  qemu: { pid: 318, memory: 4096 },
};

const KEPT: GuestReport = {
  ...RUNNING,
  name: 'db',
  uuid: '22222222-1111-4222-8333-444444444444',
  state: 'quiesced-failover-safe',
  fault: 'io-error',
  proof: { complete: true, missing: [] },
  disk: { images: 1024, postmortem: null },
  attention: 'release it',
};

const NODE: Measured = {
  version: '1.2.3',
  libvirtAnswers: true,
  problems: 0,
  guests: [RUNNING, KEPT],
  watcher: { state: 'running', since: '2026-11-25T01:00:00.000Z', followed: 2, silent: 1 },
  host: { health: 'yellow', totals: { informational: 0, corrected: 3, uncorrected: 0, fatal: 0 } },
  journal: { lines: recordedLines(), malformed: 1, readable: true },
};

const read = (measured: Measured) => readExposition(exposition(familiesOf(measured)));

/** The value of a metric that has one sample with these labels. */
function value(measured: Measured, name: string, labels: Record<string, string> = {}): number | undefined {
  const samples = read(measured).get(name)?.samples ?? [];
  const found = samples.filter((sample) =>
    Object.entries(labels).every(([key, text]) => sample.labels[key] === text),
  );
  assert.ok(found.length <= 1, `${name} has ${found.length} such samples`);
  return found[0]?.value;
}

describe("Prometheus' text format", () => {
  test('keeps its rules with any name and reason, and gives them back as they are', () => {
    const text = fc.oneof(
      fc.string({ unit: 'grapheme' }),
      fc.string({ unit: fc.constantFrom('\\', '"', '\n', '\r', '{', '}', ',', '=', ' ', 'n', '#') }),
    );
    fc.assert(
      fc.property(text, text, text, (name, fault, help) => {
        const guest = { ...KEPT, name, fault };
        const families = read({ ...NODE, guests: [guest] });
        const sample = families.get('kvmha_guest_fault')?.samples[0];
        assert.deepEqual(sample?.labels, { guest: name, uuid: KEPT.uuid, fault });
        const family = { name: 'a', help, type: 'gauge', samples: [{ labels: {}, value: 1 }] } as const;
        assert.equal(readExposition(exposition([family])).get('a')?.help, help);
      }),
    );
  });

  test('has no family without samples, and spells what is no finite number', () => {
    const family = (values: number[]) => ({
      ...{ name: 'a', help: 'b', type: 'gauge' as const },
      samples: values.map((each, index) => ({ labels: { index: String(index) }, value: each })),
    });
    assert.equal(exposition([family([])]), '');
    assert.equal(
      exposition([family([1e21, 0.5, Number.POSITIVE_INFINITY, Number.NaN])]),
      '# HELP a b\n# TYPE a gauge\na{index="0"} 1e+21\na{index="1"} 0.5\na{index="2"} +Inf\na{index="3"} NaN\n',
    );
  });

  test('the reader of these tests finds broken rules', () => {
    for (const text of [
      'a 1',
      'a 1\n',
      '# HELP a b\na 1\n',
      '# HELP a b\n# TYPE a gauge\na{x="\\t"} 1\n',
      '# HELP a b\n# TYPE a gauge\na 1 1395066363000\n',
      '# HELP a b\n# TYPE a gauge\na 1\na 1\n',
      '# HELP a b\n# TYPE a gauge\na 1\n# HELP b b\n# TYPE b gauge\na 2\n',
    ]) {
      assert.throws(() => readExposition(text), assert.AssertionError, text);
    }
  });

  test('every family is described, and named as Prometheus advises', () => {
    for (const [name, { help, type }] of read(NODE)) {
      assert.match(name, /^kvmha_[a-z_]+$/);
      assert.match(help, /^[A-Z].*\.$/);
      assert.equal(type, name.endsWith('_total') ? 'counter' : 'gauge');
      assert.doesNotMatch(name, /_(count|sum|bucket)$/, 'those are endings of histograms');
    }
  });
});

describe('the metrics of a node', () => {
  test('are all in the manual, and no others', () => {
    const manual = readFileSync(new URL('../../../docs/monitoring.md', import.meta.url), 'utf8');
    const table = manual.split('\n').filter((line) => line.startsWith('| `kvmha_'));
    const named = table.flatMap((line) => (line.split('|')[1] ?? '').match(/kvmha_\w+/g) ?? []);
    assert.deepEqual(named.sort(), [...read(NODE).keys()].sort());
  });

  test('have each guest in one state', () => {
    for (const guest of ['web', 'db']) {
      const samples = read(NODE)
        .get('kvmha_guest_state')
        ?.samples.filter(({ labels }) => labels['guest'] === guest);
      assert.deepEqual(
        samples?.map(({ labels }) => labels['state']),
        GUEST_STATES,
      );
      assert.equal(
        samples?.reduce((sum, { value }) => sum + value, 0),
        1,
      );
    }
    assert.equal(value(NODE, 'kvmha_guest_state', { guest: 'db', state: 'quiesced-failover-safe' }), 1);
  });

  test('tell what a preserved guest holds, and which fault it has', () => {
    assert.equal(value(NODE, 'kvmha_preserved_guests'), 1);
    assert.equal(value(NODE, 'kvmha_guest_fault', { guest: 'db', fault: 'io-error' }), 1);
    assert.equal(value(NODE, 'kvmha_guest_fault', { guest: 'web' }), undefined);
    assert.equal(value(NODE, 'kvmha_guest_memory_bytes', { guest: 'db' }), 4096);
    assert.equal(value(NODE, 'kvmha_guest_disk_bytes', { guest: 'db' }), 1024);
    assert.equal(value(NODE, 'kvmha_guest_proof_missing_items', { guest: 'db' }), 0);
    assert.equal(value(NODE, 'kvmha_guest_proof_missing_items', { guest: 'web' }), undefined);
    assert.equal(value(NODE, 'kvmha_guest_attention', { guest: 'db' }), 1);
    assert.equal(
      value(NODE, 'kvmha_guest_since_timestamp_seconds', { guest: 'web' }),
      Date.parse('2026-11-25T02:00:00.500Z') / 1000,
    );
    assert.equal(value(NODE, 'kvmha_guest_info', { guest: 'web', resource: 'vm-web' }), 1);
  });

  test('tell of the watcher, also when there is none', () => {
    assert.equal(value(NODE, 'kvmha_watcher_up'), 1);
    assert.equal(value(NODE, 'kvmha_watcher_silent_guests'), 1);
    const without: Measured = { ...NODE, watcher: { state: 'silent', why: 'no answer' } };
    assert.equal(value(without, 'kvmha_watcher_up'), 0);
    assert.equal(value(without, 'kvmha_watcher_followed_guests'), undefined);
  });

  test("tell of the node's health and the errors of its hardware, where they are known", () => {
    assert.equal(value(NODE, 'kvmha_node_health', { colour: 'yellow' }), 1);
    assert.equal(value(NODE, 'kvmha_node_health', { colour: 'green' }), 0);
    assert.equal(value(NODE, 'kvmha_host_errors_total', { severity: 'corrected' }), 3);
    assert.ok(!read({ ...NODE, host: undefined }).has('kvmha_node_health'));
  });

  test('count what the journal tells of quiesces, and how long they took', () => {
    const more = parseJournal(
      [
        '{"time":"2026-11-25T05:00:00Z","what":"done","action":"quiesce","failure":"vfio","fault":"io-error"}',
        '{"time":"2026-11-25T05:00:01Z","what":"done","action":"quiesce","failure":"x","step":"flush","fault":"io-error"}',
        '{"time":"2026-11-25T05:00:02Z","what":"decided","action":"quiesce","held":"a storm","fault":"io-error"}',
        '{"time":"2026-11-25T05:00:03Z","what":"done","action":"quiesce","outcome":"quiesced-failover-safe","milliseconds":301}',
      ].join('\n'),
      'node1',
    ).lines;
    const busy: Measured = { ...NODE, journal: { ...NODE.journal, lines: [...NODE.journal.lines, ...more] } };
    const quiesces = (outcome: string) =>
      value(busy, 'kvmha_journal_quiesces', { outcome, fault: 'io-error' });
    assert.deepEqual(['proved', 'refused', 'failed', 'held'].map(quiesces), [1, 1, 1, 1]);
    assert.equal(value(busy, 'kvmha_journal_quiesce_duration_max_seconds'), 0.301);
    assert.equal(value(busy, 'kvmha_journal_quiesce_duration_mean_seconds'), 0.201);
    assert.equal(
      value(busy, 'kvmha_journal_last_line_timestamp_seconds'),
      Date.parse('2026-11-25T05:00:03Z') / 1000,
    );
    assert.equal(value(busy, 'kvmha_journal_malformed_lines'), 1);
  });

  test('are there on a node of which nothing is known yet', () => {
    const empty: Measured = {
      version: '1',
      libvirtAnswers: false,
      problems: 2,
      guests: [],
      watcher: { state: 'stopped', why: '' },
      host: undefined,
      journal: { lines: [], malformed: 0, readable: false },
    };
    assert.equal(value(empty, 'kvmha_libvirt_up'), 0);
    assert.equal(value(empty, 'kvmha_unreadable_records'), 2);
    assert.equal(value(empty, 'kvmha_journal_readable'), 0);
    assert.equal(value(empty, 'kvmha_preserved_guests'), 0);
    assert.equal(value(empty, 'kvmha_journal_quiesces', { outcome: 'proved' }), 0);
    assert.equal(value(empty, 'kvmha_journal_last_line_timestamp_seconds'), undefined);
  });
});

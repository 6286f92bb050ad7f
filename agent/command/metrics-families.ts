import type { HostHealth } from '../../lib/host/health.ts';
import { GUEST_STATES } from '../../lib/state/classify.ts';
import type { JournalLine } from '../../lib/timeline/journal-lines.ts';
import type { LocalWatcher } from './cluster-status.ts';
import type { Family, Sample } from './exposition.ts';
import type { GuestReport } from './report.ts';

/** What this node is like at one moment. */
export interface Measured {
  readonly version: string;
  readonly libvirtAnswers: boolean;
  /** Records that could not be read. */
  readonly problems: number;
  readonly guests: readonly GuestReport[];
  readonly watcher: LocalWatcher;
  /** Undefined where it could not be read. */
  readonly host: Pick<HostHealth, 'health' | 'totals'> | undefined;
  readonly journal: {
    readonly lines: readonly JournalLine[];
    readonly malformed: number;
    /** Of those that cannot be read there are none. */
    readonly readable: boolean;
  };
}

/** How an attempt to quiesce a guest ended. `refused` and `failed`: it was left, or taken back. */
const OUTCOMES = ['proved', 'refused', 'failed', 'held'] as const;
type Outcome = (typeof OUTCOMES)[number];

/** What Prometheus is told of a node. */
export function familiesOf(measured: Measured): Family[] {
  return [
    gauge('kvmha_build_info', 'The version of kvmha, as a label of a constant 1.', [
      { labels: { version: measured.version }, value: 1 },
    ]),
    single('kvmha_libvirt_up', 'Whether libvirt answers.', Number(measured.libvirtAnswers)),
    single(
      'kvmha_unreadable_records',
      'Records of kvmha on this node that could not be read.',
      measured.problems,
    ),
    ...familiesOfGuests(measured.guests),
    ...familiesOfWatcher(measured.watcher),
    ...familiesOfHost(measured.host),
    ...familiesOfJournal(measured.journal),
  ];
}

function familiesOfHost(host: Measured['host']): Family[] {
  return [
    gauge(
      'kvmha_node_health',
      'What kvmha makes of the errors of the hardware: 1 for the colour that the node has, 0 for the others.',
      host === undefined
        ? []
        : ['green', 'yellow', 'red'].map((colour) => ({
            labels: { colour },
            value: Number(colour === host.health),
          })),
    ),
    {
      name: 'kvmha_host_errors_total',
      help: 'Errors of the hardware since the node was booted.',
      type: 'counter',
      samples: Object.entries(host?.totals ?? {}).map(([severity, value]) => ({
        labels: { severity },
        value,
      })),
    },
  ];
}

function familiesOfGuests(guests: readonly GuestReport[]): Family[] {
  const each = (name: string, help: string, samples: (guest: GuestReport) => readonly Sample[]) =>
    gauge(
      name,
      help,
      guests.flatMap((guest) =>
        samples(guest).map(({ labels, value }) => ({ labels: { ...labelsOf(guest), ...labels }, value })),
      ),
    );
  const number = (value: number | null | undefined): Sample[] =>
    value == null ? [] : [{ labels: {}, value }];
  return [
    each(
      'kvmha_guest_info',
      'The cluster resource that a guest is, as a label of a constant 1.',
      ({ resource }) => [{ labels: { resource: resource ?? '' }, value: 1 }],
    ),
    each(
      'kvmha_guest_state',
      'The state of a guest: 1 for the one that it is in, 0 for all others.',
      ({ state }) => GUEST_STATES.map((name) => ({ labels: { state: name }, value: Number(name === state) })),
    ),
    each(
      'kvmha_guest_since_timestamp_seconds',
      'When the quiescing of a guest began; of any other, when its qemu was started.',
      ({ since }) => number(since === null ? null : Date.parse(since) / 1000),
    ),
    each('kvmha_guest_fault', 'The fault that a guest has, as a label of a constant 1.', ({ fault }) =>
      fault === null ? [] : [{ labels: { fault }, value: 1 }],
    ),
    each('kvmha_guest_attention', 'Whether an operator should know or do something about a guest.', (guest) =>
      number(Number(guest.attention !== null)),
    ),
    each('kvmha_guest_memory_bytes', "Memory of the node that a guest's qemu occupies.", ({ qemu }) =>
      number(qemu?.memory),
    ),
    each(
      'kvmha_guest_proof_missing_items',
      'What the proof lacks that a guest whose quiescing was begun is failover-safe.',
      ({ proof }) => number(proof?.missing.length),
    ),
    each(
      'kvmha_guest_disk_bytes',
      'What the storage keeps for a preserved guest: its images, which may run elsewhere, and its post-mortem.',
      ({ disk }) => [
        ...number(disk?.images).map(({ value }) => ({ labels: { kind: 'images' }, value })),
        ...number(disk?.postmortem).map(({ value }) => ({ labels: { kind: 'post-mortem' }, value })),
      ],
    ),
    single(
      'kvmha_preserved_guests',
      'Guests that are quiesced-failover-safe, and kept for a post-mortem on this node.',
      guests.filter(({ state }) => state === 'quiesced-failover-safe').length,
    ),
  ];
}

function labelsOf({ name, uuid }: GuestReport): Record<string, string> {
  return { guest: name, uuid: uuid ?? '' };
}

function familiesOfWatcher(watcher: LocalWatcher): Family[] {
  const running = watcher.state === 'running' ? watcher : undefined;
  return [
    single('kvmha_watcher_up', 'Whether the watcher of this node answers.', Number(running !== undefined)),
    single(
      'kvmha_watcher_start_timestamp_seconds',
      'When the watcher began to watch.',
      running === undefined ? undefined : Date.parse(running.since) / 1000,
    ),
    single('kvmha_watcher_followed_guests', 'Guests that the watcher follows.', running?.followed),
    single(
      'kvmha_watcher_silent_guests',
      'Guests that the watcher follows, and hears nothing of at this moment.',
      running?.silent,
    ),
  ];
}

function familiesOfJournal({ lines, malformed, readable }: Measured['journal']): Family[] {
  const counts = new Map<string, Sample>();
  const durations: number[] = [];
  for (const { what, entry } of lines) {
    const outcome = outcomeOf(what, entry);
    if (outcome !== undefined) {
      const labels = { outcome, fault: typeof entry['fault'] === 'string' ? entry['fault'] : '' };
      const key = JSON.stringify(labels);
      counts.set(key, { labels, value: (counts.get(key)?.value ?? 0) + 1 });
    }
    const { action, failure, milliseconds } = entry;
    if (
      what === 'done' &&
      action === 'quiesce' &&
      failure === undefined &&
      typeof milliseconds === 'number'
    ) {
      durations.push(milliseconds / 1000);
    }
  }
  for (const outcome of OUTCOMES) {
    if (![...counts.values()].some(({ labels }) => labels['outcome'] === outcome)) {
      counts.set(outcome, { labels: { outcome, fault: '' }, value: 0 });
    }
  }
  const last = lines
    .map(({ time }) => time)
    .sort()
    .at(-1);
  const kept = 'in the journal of this node; the oldest lines are dropped from it';
  return [
    single('kvmha_journal_readable', 'Whether the journal of this node could be read.', Number(readable)),
    single('kvmha_journal_lines', 'Lines of the journal.', lines.length),
    single('kvmha_journal_malformed_lines', 'Lines of the journal that are none.', malformed),
    single(
      'kvmha_journal_last_line_timestamp_seconds',
      'When the last thing happened that is in the journal.',
      last === undefined ? undefined : Date.parse(last) / 1000,
    ),
    gauge('kvmha_journal_quiesces', `Attempts to quiesce a guest, ${kept}.`, [...counts.values()]),
    single(
      'kvmha_journal_quiesce_duration_mean_seconds',
      `How long it took to quiesce a guest, ${kept}.`,
      durations.length === 0 ? undefined : durations.reduce((sum, each) => sum + each, 0) / durations.length,
    ),
    single(
      'kvmha_journal_quiesce_duration_max_seconds',
      `The longest that it took to quiesce a guest, ${kept}.`,
      durations.length === 0 ? undefined : durations.reduce((one, other) => Math.max(one, other)),
    ),
  ];
}

function outcomeOf(what: string, entry: JournalLine['entry']): Outcome | undefined {
  if (what === 'proved') {
    return 'proved';
  }
  if (what === 'decided') {
    return entry['held'] === undefined ? undefined : 'held';
  }
  if (what !== 'done' || entry['action'] !== 'quiesce' || entry['failure'] === undefined) {
    return undefined;
  }
  return entry['step'] === undefined ? 'refused' : 'failed';
}

function gauge(name: string, help: string, samples: readonly Sample[]): Family {
  return { name, help, type: 'gauge', samples };
}

function single(name: string, help: string, value: number | undefined): Family {
  return gauge(name, help, value === undefined ? [] : [{ labels: {}, value }]);
}

import { type ClusterReport, guestsOutside, type NodeReport, type ResourceReport } from './cluster-status.ts';
import { type Colour, type Paint, unpainted } from './colour.ts';
import { plain } from './console.ts';
import type { GuestReport } from './report.ts';
import { moment, size, table } from './table.ts';

/** What `kvmha status --json` prints. */
export interface StatusReport {
  readonly node: string;
  readonly time: string;
  /** Why libvirt could not be asked; null if it answered. */
  readonly libvirtSilent: string | null;
  /** Why the cluster of this node could not be asked; null if it answered, or if there is none. */
  readonly clusterSilent: string | null;
  readonly problems: readonly string[];
  /** Those of this node. */
  readonly guests: readonly GuestReport[];
  /** All nodes and guests of the cluster; null where none runs. */
  readonly cluster: ClusterReport | null;
}

export function isWell({ libvirtSilent, clusterSilent, problems, guests, cluster }: StatusReport): boolean {
  return (
    libvirtSilent === null &&
    clusterSilent === null &&
    problems.length === 0 &&
    guests.every(({ attention }) => attention === null) &&
    (cluster === null ||
      [cluster, ...cluster.nodes, ...cluster.guests].every(({ attention }) => attention.length === 0))
  );
}

/** The guests in a table, in a cluster its nodes in another, and beneath them what needs attention. */
export function renderStatus(report: StatusReport, paint: Paint = unpainted): string {
  const { cluster, guests, node } = report;
  const rows =
    cluster === null
      ? guests.map((guest) => ['', ...cells(guest)])
      : [
          ...cluster.guests.flatMap(rowsOf),
          ...guestsOutside(cluster, guests).map((guest) => [cluster.localNode, ...cells(guest)]),
        ];
  const list =
    rows.length === 0
      ? `no guest is known ${cluster === null ? `on ${node}` : 'in the cluster'}\n`
      : table([HEADING, ...rows.map(nameFirst)], inColour(paint));
  const nodes =
    cluster === null || cluster.nodes.length === 0 ? '' : `\n${renderNodes(cluster.nodes, paint)}`;
  return `${list}${nodes}${notesOf(report)
    .map((note) => `\n${plain(note)}\n`)
    .join('')}`;
}

const HEADING = [
  ...['GUEST', 'NODE', 'STATE', 'SINCE', 'FAULT', 'QEMU', 'MEMORY', 'IMAGES', 'POST-MORTEM', 'PROOF'],
  'RESOURCE',
];

/** What only the node itself knows. */
const NOT_TOLD = '?';

function nameFirst([node = '', name = '', ...others]: readonly string[]): string[] {
  return [name, node, ...others];
}

function rowsOf({ resource, guest, role, places }: ResourceReport): string[][] {
  const name = guest ?? resource;
  if (places.length === 0) {
    return [['', name, (role ?? 'unknown').toLowerCase(), ...Array(7).fill(''), resource]];
  }
  return places.map(({ node, copy, state, since, fault, seen }) => {
    if (seen !== null) {
      return [node, ...cells({ ...seen, resource })];
    }
    const holds = Array<string>(3).fill(copy === 'preserved' ? NOT_TOLD : '');
    return [node, name, state, since === null ? '' : moment(since), fault ?? '', '', ...holds, '', resource];
  });
}

function cells(guest: GuestReport): string[] {
  const bytes = (amount: number | null | undefined) => (amount == null ? '' : size(amount));
  return [
    guest.name,
    guest.state,
    guest.since === null ? '' : moment(guest.since),
    guest.fault ?? '',
    guest.qemu === null ? '' : String(guest.qemu.pid),
    bytes(guest.qemu?.memory),
    bytes(guest.disk?.images),
    bytes(guest.disk?.postmortem),
    guest.proof === null ? '' : guest.proof.complete ? 'complete' : `lacks ${guest.proof.missing.length}`,
    guest.resource ?? '',
  ];
}

function renderNodes(nodes: readonly NodeReport[], paint: Paint): string {
  const rows = nodes.map(({ name, local, state, health, watcher }) => [
    `${name}${local ? ' (here)' : ''}`,
    state,
    health.state,
    watcher.state === 'not-told' ? 'not told' : watcher.state,
    watcher.guests === null ? '' : String(watcher.guests.followed),
    watcher.since === null ? '' : moment(watcher.since),
  ]);
  return table([['NODE', 'STATE', 'HEALTH', 'WATCHER', 'FOLLOWS', 'SINCE'], ...rows], inColour(paint));
}

function inColour(paint: Paint): (cell: string, heading: string) => string {
  return (cell, heading) => {
    const colour = ['STATE', 'HEALTH', 'WATCHER', 'PROOF'].includes(heading) ? colourOf(cell) : undefined;
    return colour === undefined ? cell : paint(colour, cell);
  };
}

function colourOf(word: string): Colour | undefined {
  switch (word) {
    case 'running':
    case 'started':
    case 'online':
    case 'green':
    case 'complete':
      return 'green';
    case 'quiesced-failover-safe':
    case 'preserved':
      return 'cyan';
    case 'faulted':
    case 'failed':
    case 'crashed':
    case 'unknown':
    case 'shut-off-process-left':
    case 'offline':
    case 'unclean':
    case 'red':
    case 'silent':
      return 'red';
    case 'degraded':
    case 'out-of-space':
    case 'post-copy':
    case 'paused-by-operator':
    case 'stopped':
    case 'yellow':
    case 'standby':
    case 'maintenance':
      return 'yellow';
    default:
      return undefined;
  }
}

function notesOf({ cluster, guests }: StatusReport): string[] {
  const note = (name: string) => (words: string) => `${name}: ${words}.`;
  const local = (guest: GuestReport) => (guest.attention === null ? [] : [note(guest.name)(guest.attention)]);
  if (cluster === null) {
    return guests.flatMap((guest) => [...local(guest), ...postmortemNote(guest)]);
  }
  return [
    ...cluster.attention.map(note('cluster')),
    ...cluster.nodes.flatMap(({ name, attention }) => attention.map(note(name))),
    ...cluster.guests.flatMap(({ guest, resource, attention, places }) => [
      ...attention.map(note(guest ?? resource)),
      ...places.flatMap(({ seen }) => (seen === null ? [] : postmortemNote(seen))),
    ]),
    ...guestsOutside(cluster, guests).flatMap((guest) => [...local(guest), ...postmortemNote(guest)]),
  ];
}

function postmortemNote({ name, postmortem }: GuestReport): string[] {
  switch (postmortem?.state) {
    case undefined:
      return [];
    case 'promised':
      return [
        `${name}: a post-mortem was promised, and is not begun: "kvmha postmortem ${name}" collects it.`,
      ];
    case 'running':
      return [`${name}: a post-mortem is being collected in ${postmortem.directory}.`];
    case 'done':
      return [`${name}: a post-mortem is in ${postmortem.directory}.`];
    case 'failed':
      return [`${name}: its post-mortem in ${postmortem.directory} is not complete: ${postmortem.why}.`];
    case 'lost':
      return [`${name}: its post-mortem in ${postmortem.directory} was interrupted.`];
  }
}

/** What kept the list from being complete, for standard error. */
export function renderProblems({ libvirtSilent, clusterSilent, problems, node }: StatusReport): string {
  return [
    ...(libvirtSilent === null
      ? []
      : [`libvirt does not answer, so this is what processes and records tell: ${libvirtSilent}`]),
    ...(clusterSilent === null
      ? []
      : [
          `the cluster does not answer, so these are the guests of ${node} alone; look at Pacemaker's log: ` +
            clusterSilent,
        ]),
    ...problems,
  ]
    .map((line) => `kvmha: ${plain(line)}\n`)
    .join('');
}

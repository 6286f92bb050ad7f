import { hostname } from 'node:os';
import { findGuest, type KnownGuests, knownGuests } from '../../lib/guest/known-guests.ts';
import { print, printError } from '../output.ts';
import { chooseGuest, deadlineOf, demandRoot } from './chosen.ts';
import { plain } from './console.ts';
import { EXIT, type ExitCode } from './exit.ts';
import type { CommonOptions } from './main.ts';
import { type GuestReport, reportOn } from './report.ts';
import { moment, size, table } from './table.ts';

/** How many guests are looked at at a time: each look starts a few programs. */
const AT_A_TIME = 8;

/** What `kvmha status --json` prints. */
export interface StatusReport {
  readonly node: string;
  readonly time: string;
  /** Why libvirt could not be asked; null if it answered. */
  readonly libvirtSilent: string | null;
  readonly problems: readonly string[];
  readonly guests: readonly GuestReport[];
}

export async function status(
  word: string | undefined,
  options: CommonOptions & { readonly json?: true },
): Promise<ExitCode> {
  demandRoot();
  const deadline = deadlineOf(options);
  const known: KnownGuests =
    word === undefined
      ? await knownGuests(options.connect, deadline)
      : (await chooseGuest(word, options, deadline)).known;
  const chosen =
    word === undefined ? known.guests : [findGuest(known, word)].filter((guest) => guest !== undefined);
  const guests: GuestReport[] = [];
  for (let index = 0; index < chosen.length; index += AT_A_TIME) {
    const next = chosen.slice(index, index + AT_A_TIME);
    guests.push(...(await Promise.all(next.map((guest) => reportOn(guest, deadline)))));
  }
  const report: StatusReport = {
    node: hostname(),
    time: new Date().toISOString(),
    libvirtSilent: known.libvirtSilent ?? null,
    problems: known.problems,
    guests,
  };
  if (options.json) {
    print(`${JSON.stringify(report, null, 2)}\n`);
  } else {
    print(renderStatus(report));
    printError(renderProblems(report));
  }
  return isWell(report) ? EXIT.DONE : EXIT.FAILED;
}

export function isWell({ libvirtSilent, problems, guests }: StatusReport): boolean {
  return (
    libvirtSilent === null && problems.length === 0 && guests.every(({ attention }) => attention === null)
  );
}

/** The guests in a table, and beneath it what needs attention. */
export function renderStatus({ guests, node }: StatusReport): string {
  if (guests.length === 0) {
    return `no guest is known on ${node}\n`;
  }
  const heading = ['GUEST', 'STATE', 'SINCE', 'FAULT', 'QEMU', 'MEMORY', 'PROOF', 'RESOURCE'];
  const rows = guests.map((guest) => [
    guest.name,
    guest.state,
    guest.since === null ? '' : moment(guest.since),
    guest.fault ?? '',
    guest.qemu === null ? '' : String(guest.qemu.pid),
    guest.qemu === null ? '' : size(guest.qemu.memory),
    guest.proof === null ? '' : guest.proof.complete ? 'complete' : `lacks ${guest.proof.missing.length}`,
    guest.resource ?? '',
  ]);
  const notes = guests.flatMap((guest) => [
    ...(guest.attention === null ? [] : [`${guest.name}: ${guest.attention}.`]),
    ...postmortemNote(guest),
  ]);
  return `${table([heading, ...rows])}${notes.map((note) => `\n${plain(note)}\n`).join('')}`;
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
export function renderProblems({ libvirtSilent, problems }: StatusReport): string {
  return [
    ...(libvirtSilent === null
      ? []
      : [`libvirt does not answer, so this is what processes and records tell: ${libvirtSilent}`]),
    ...problems,
  ]
    .map((line) => `kvmha: ${plain(line)}\n`)
    .join('');
}

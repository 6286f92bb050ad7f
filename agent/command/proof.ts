import type { Deadline } from '../../lib/deadline.ts';
import { isKvmhaError, messageOf } from '../../lib/error.ts';
import type { Look } from '../../lib/guest/look.ts';
import { assessGuest } from '../../lib/quiesce/assess-guest.ts';
import { isComplete, PROOF_ITEMS, type Proof, type ProofItem } from '../../lib/quiesce/proof.ts';
import { type Classification, classify, type GuestState } from '../../lib/state/classify.ts';
import { print } from '../output.ts';
import { chooseGuest, deadlineOf, withLook } from './chosen.ts';
import { plain } from './console.ts';
import { EXIT, type ExitCode } from './exit.ts';
import type { CommonOptions } from './main.ts';
import { moment } from './table.ts';

/** What `kvmha proof --json` prints. */
export type ProofReport = {
  readonly name: string;
  readonly uuid: string | null;
  readonly state: GuestState;
  readonly reason: string;
} & (
  | {
      readonly kind: 'proof';
      readonly complete: boolean;
      readonly fault: string | null;
      readonly since: string | null;
      readonly items: readonly { readonly item: ProofItem; readonly holds: boolean; readonly seen: string }[];
    }
  /** Its quiescing was not begun: whether it could be, and if not, why not. */
  | { readonly kind: 'assessment'; readonly possible: boolean; readonly refused: readonly string[] }
);

export async function proof(
  word: string,
  options: CommonOptions & { readonly json?: true },
): Promise<ExitCode> {
  const deadline = deadlineOf(options);
  const { guest } = await chooseGuest(word, options, deadline);
  const report = await withLook(guest, deadline, (seen) => proofReport(guest.name, seen, deadline));
  print(options.json ? `${JSON.stringify(report, null, 2)}\n` : renderProof(report));
  const good = report.kind === 'proof' ? report.complete : report.possible;
  return good ? EXIT.DONE : EXIT.FAILED;
}

/** What of the proof holds, or whether it would be possible. Changes nothing. */
export async function proofReport(name: string, seen: Look, deadline: Deadline): Promise<ProofReport> {
  const classification = classify(seen.observation);
  const { state, reason } = classification;
  const head = { name, uuid: seen.uuid ?? null, state, reason };
  const { proof: found, quiesceBegun } = seen.observation;
  if (quiesceBegun || found !== undefined) {
    return {
      ...head,
      kind: 'proof',
      // The classification has seen what contradicts a complete proof, too.
      complete: isComplete(found) && state === 'quiesced-failover-safe',
      fault: seen.record?.fault ?? classification.fault ?? null,
      since: seen.record?.begun ?? null,
      items: itemsOf(found),
    };
  }
  const refused = await refusals(classification, seen, deadline);
  return { ...head, kind: 'assessment', possible: refused.length === 0, refused };
}

/** Every item of the proof, in the order in which people read it. */
export function itemsOf(found: Proof | undefined) {
  return PROOF_ITEMS.map((item) => ({
    item,
    holds: found?.[item]?.holds === true,
    seen:
      found?.[item]?.seen ??
      'it was not seen, because nothing says what was done to this guest, or QEMU is silent',
  }));
}

async function refusals(
  { state, reason }: Classification,
  seen: Look,
  deadline: Deadline,
): Promise<readonly string[]> {
  const { qemu, monitor } = seen;
  if (qemu === undefined) {
    return [`there is no qemu process to be quiesced (${reason})`];
  }
  if (monitor === undefined || seen.observation.monitor.kind !== 'status') {
    return [`its QEMU does not answer over QMP (${reason})`];
  }
  if (state === 'incoming' || state === 'migrated-away' || state === 'post-copy' || state === 'transient') {
    return [`it is ${state} (${reason})`];
  }
  try {
    const assessment = await assessGuest(qemu, monitor, deadline);
    return assessment.kind === 'refused' ? assessment.reasons : [];
  } catch (error) {
    if (isKvmhaError(error)) {
      return [messageOf(error)];
    }
    throw error;
  }
}

const ITEM_WIDTH = Math.max(...PROOF_ITEMS.map((item) => item.length));

/** The report for a terminal. */
export function renderProof(report: ProofReport): string {
  const lines =
    report.kind === 'proof'
      ? [
          `${report.name} is ${report.state}` +
            `${report.fault === null ? '' : `, hit by ${report.fault}`}` +
            `${report.since === null ? '' : `, since ${moment(report.since)}`}`,
          ...report.items.map(
            ({ item, holds, seen }) =>
              `  ${holds ? 'holds        ' : 'DOES NOT HOLD'}  ${item.padEnd(ITEM_WIDTH)}  ${seen}`,
          ),
          report.complete
            ? 'The proof is complete: the guest may run on another node.'
            : 'The proof is NOT complete: the guest must not run on another node before this one has ended.',
        ]
      : [
          `${report.name} is ${report.state}: ${report.reason}`,
          ...report.refused.map((reason) => `  refused: ${reason}`),
          report.possible
            ? 'It could be quiesced now: everything it consists of is known to be safe to take away from QEMU.'
            : 'It could not be proved failover-safe.',
        ];
  return lines.map((line) => `${/^ */.exec(line)?.[0] ?? ''}${plain(line)}\n`).join('');
}

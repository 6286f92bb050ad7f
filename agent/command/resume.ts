import { readCluster } from '../../lib/cluster/cluster-view.ts';
import { mayBeElsewhere } from '../../lib/cluster/elsewhere.ts';
import { configuredId } from '../../lib/cluster/resource-id.ts';
import type { Deadline } from '../../lib/deadline.ts';
import type { Guest } from '../../lib/guest/guest.ts';
import type { Look } from '../../lib/guest/look.ts';
import { resumeGuest, resumeRefusal } from '../../lib/guest/resume-guest.ts';
import { Journal } from '../../lib/journal.ts';
import { classify } from '../../lib/state/classify.ts';
import { print, printError } from '../output.ts';
import { chooseGuest, deadlineOf, withLockedLook } from './chosen.ts';
import { ConsoleLog, plain } from './console.ts';
import { EXIT, type ExitCode } from './exit.ts';
import type { CommonOptions } from './main.ts';
import { cleanUp, tellReleased } from './placement.ts';

export interface ResumeOptions extends CommonOptions {
  readonly resource?: string;
  readonly notElsewhere?: true;
  readonly json?: true;
}

/** What `kvmha resume --json` prints. */
export interface ResumeReport {
  readonly name: string;
  readonly uuid: string | null;
  /**
   * `resumed`; `refused`: nothing was changed; `preserved`: it failed, and the guest is preserved as before;
   * `interrupted`: it failed, and the guest stands still and is not proved to be safe.
   */
  readonly outcome: 'resumed' | 'refused' | 'preserved' | 'interrupted';
  /** What QEMU says of the guest after it was resumed (QAPI `RunState`). */
  readonly runstate: string | null;
  /** Why it was not resumed. */
  readonly reasons: readonly string[];
  /** What was told to the cluster, and what is left to be done, in sentences without their full stop. */
  readonly next: readonly string[];
}

/** Milliseconds in which the cluster must tell where the guest runs. */
const CLUSTER_PATIENCE = 15_000;

export async function resume(word: string, options: ResumeOptions): Promise<ExitCode> {
  const deadline = deadlineOf(options);
  const { guest } = await chooseGuest(word, options, deadline);
  const { report, done } = await withLockedLook(guest, deadline, (seen) =>
    resumeSeen(guest, seen, options, deadline),
  );
  if (options.json) {
    print(`${JSON.stringify(report, null, 2)}\n`);
  } else {
    (report.outcome === 'resumed' ? print : printError)(renderResume(report));
  }
  return done ? EXIT.DONE : EXIT.FAILED;
}

interface Result {
  readonly report: ResumeReport;
  /** All of it was done, in the cluster, too. */
  readonly done: boolean;
}

async function resumeSeen(
  chosen: Guest,
  seen: Look,
  options: ResumeOptions,
  deadline: Deadline,
): Promise<Result> {
  const { name } = chosen;
  const resource = options.resource ?? seen.record?.resource ?? chosen.resource;
  const classification = classify(seen.observation);
  const head = { name, uuid: seen.uuid ?? null, runstate: null, reasons: [], next: [] };
  const refusal = resumeRefusal(name, classification, seen);
  if (refusal !== undefined) {
    return { report: { ...head, outcome: 'refused', reasons: [refusal] }, done: false };
  }
  const since = new Date(seen.record?.begun ?? 0);
  const elsewhere = () =>
    whyElsewhere(name, resource, options.notElsewhere === true, since, deadline.within(CLUSTER_PATIENCE));
  const log = new ConsoleLog();
  const journal = new Journal('command', log);
  const outcome = await resumeGuest(chosen, seen, elsewhere, deadline, log);
  const { state, fault } = classification;
  const failure =
    outcome.kind === 'refused'
      ? outcome.reasons.join('; ')
      : outcome.kind === 'failed'
        ? outcome.reason
        : undefined;
  journal.record({
    what: 'done',
    ...{
      guest: name,
      uuid: seen.uuid,
      resource,
      state,
      fault: seen.record?.fault ?? fault,
      action: 'resume',
    },
    ...(failure === undefined ? { outcome: 'resumed' } : { failure }),
  });
  await journal.settled();
  switch (outcome.kind) {
    case 'refused':
      return { report: { ...head, outcome: 'refused', reasons: outcome.reasons }, done: false };
    case 'failed': {
      const { step, reason, preserved, left } = outcome;
      const reasons = [`${step} failed: ${reason}`, ...(left === undefined ? [] : [left])];
      return {
        report: { ...head, outcome: preserved ? 'preserved' : 'interrupted', reasons },
        done: false,
      };
    }
    case 'resumed': {
      const told = await tell(resource, deadline);
      const { runstate } = outcome;
      return {
        report: { ...head, outcome: 'resumed', runstate, next: told.map(({ words }) => words) },
        done: runstate === 'running' && told.every(({ done }) => done),
      };
    }
  }
}

/**
 * Why the guest may run elsewhere, or have run there. Where no cluster can tell, the one who calls the command must
 * say that it does not.
 */
async function whyElsewhere(
  name: string,
  resource: string | undefined,
  notElsewhere: boolean,
  since: Date,
  deadline: Deadline,
): Promise<string | undefined> {
  // Without a resource the cluster is asked all the same, whether there is one: a resource's name is not needed for it.
  const view = await readCluster(resource ?? name, deadline);
  switch (view.kind) {
    case 'silent':
      return `whether the cluster runs it elsewhere is not known, it does not answer (${view.why})`;
    case 'none':
      return notElsewhere
        ? undefined
        : `no cluster runs here to tell that no other host runs it (${view.why}): give --not-elsewhere if none does, ` +
            'and none has since it was quiesced';
    case 'cluster':
      if (view.resource === undefined) {
        return notElsewhere
          ? undefined
          : `the cluster has no resource ${configuredId(resource ?? name)}: name the guest's with --resource, or give ` +
              '--not-elsewhere if it has none and no other host runs it, or has since it was quiesced';
      }
      return mayBeElsewhere(view, since, deadline);
  }
}

async function tell(resource: string | undefined, deadline: Deadline) {
  if (resource === undefined) {
    return [];
  }
  const released = await tellReleased(resource, deadline);
  const cleaned = released.done ? await cleanUp(resource, deadline) : undefined;
  if (cleaned === undefined) {
    return [released];
  }
  const id = configuredId(resource);
  const words = `Once "crm_mon" shows ${id} on this node, give it back to the cluster: "crm resource manage ${id}" or "pcs resource manage ${id}"`;
  return [released, cleaned, { done: true, words }];
}

/** The report for a terminal. */
export function renderResume({ name, outcome, runstate, reasons, next }: ResumeReport): string {
  const why = reasons.map((reason) => `  ${reason}`);
  const lines = {
    resumed: [
      runstate === 'running'
        ? `${name} runs again, where it stopped.`
        : `${name} was resumed, and has stopped again: QEMU says ${runstate}.`,
      ...next.map((words) => `${words}.`),
    ],
    refused: [`kvmha: ${name} is not resumed, and was left as it was:`, ...why],
    preserved: [`kvmha: ${name} could not be resumed, and is preserved as before:`, ...why],
    interrupted: [
      `kvmha: ${name} could not be resumed. It stands still, and is not proved to be failover-safe:`,
      ...why,
      `"kvmha quiesce ${name}" makes it preserved again, "kvmha resume ${name}" tries once more, "kvmha release ${name}" ends it.`,
    ],
  }[outcome];
  return lines.map((line) => `${/^ */.exec(line)?.[0] ?? ''}${plain(line)}\n`).join('');
}

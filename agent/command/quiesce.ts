import { isKvmhaError, messageOf } from '../../lib/error.ts';
import { quiesceGuest } from '../../lib/guest/quiesce-guest.ts';
import { Journal } from '../../lib/journal.ts';
import { DEFAULT_POLICY_PATH } from '../../lib/parameters.ts';
import { loadPolicy } from '../../lib/policy.ts';
import { classify } from '../../lib/state/classify.ts';
import { print, printError } from '../output.ts';
import { startPostmortem } from '../postmortem-start.ts';
import { chooseGuest, deadlineOf, withLockedLook } from './chosen.ts';
import { ConsoleLog, plain } from './console.ts';
import { EXIT, type ExitCode } from './exit.ts';
import type { CommonOptions } from './main.ts';
import { tellPreserved } from './placement.ts';
import { itemsOf, renderProof } from './proof.ts';

export async function quiesce(
  word: string,
  options: CommonOptions & { readonly resource?: string; readonly reason: string },
): Promise<ExitCode> {
  const deadline = deadlineOf(options);
  const chosen = (await chooseGuest(word, options, deadline)).guest;
  const guest = { ...chosen, resource: options.resource ?? chosen.resource };
  const { name } = guest;
  const log = new ConsoleLog();
  const journal = new Journal('command', log);
  const code = await withLockedLook(guest, deadline, async (seen) => {
    const classification = classify(seen.observation);
    const { state, reason } = classification;
    // The record's word goes before ours: it is what the guest was quiesced for.
    const fault = seen.record?.fault ?? classification.fault ?? options.reason;
    const refusal = quiesceRefusal(state, name);
    if (refusal !== undefined) {
      printError(`kvmha: ${plain(`${name} is ${state} (${reason}), so it is not quiesced. ${refusal}`)}\n`);
      return EXIT.FAILED;
    }
    if (state === 'quiesced-failover-safe') {
      print(`${plain(name)} is quiesced-failover-safe already.\n`);
    } else {
      const outcome = await quiesceGuest(guest, seen, fault, deadline, log);
      const entry = { guest: name, uuid: seen.uuid, resource: guest.resource, state, fault };
      switch (outcome.kind) {
        case 'refused':
          journal.record({ what: 'done', ...entry, action: 'quiesce', failure: outcome.reasons.join('; ') });
          printError(
            `kvmha: ${plain(name)} cannot be proved failover-safe, and was left as it was:\n` +
              outcome.reasons.map((each) => `  ${plain(each)}\n`).join(''),
          );
          return EXIT.FAILED;
        case 'failed': {
          const { step, reason: failure } = outcome;
          journal.record({ what: 'done', ...entry, action: 'quiesce', failure, step });
          const left = outcome.undone
            ? 'What was done is undone'
            : `It could not be undone: "kvmha proof ${name}" shows what is missing, "kvmha quiesce ${name}" goes on with ` +
              `it, and a stop by the cluster, or "kvmha release ${name}", ends the guest`;
          const what = `${name} could not be made failover-safe, ${outcome.step} failed: ${outcome.reason}. ${left}`;
          printError(`kvmha: ${plain(what)}.\n`);
          return EXIT.FAILED;
        }
        case 'proved':
          journal.record({ what: 'proved', ...entry, proof: outcome.proof });
          print(
            renderProof({
              name,
              uuid: seen.uuid ?? null,
              state: 'quiesced-failover-safe',
              reason: 'the whole proof holds',
              kind: 'proof',
              complete: true,
              fault,
              since: null,
              items: itemsOf(outcome.proof),
            }),
          );
      }
    }
    const told = await tellPreserved(guest.resource, name, fault, deadline);
    (told.done ? print : printError)(`${plain(told.words)}.\n`);
    print(
      `${plain(
        `Its qemu, process ${seen.qemu?.pid}, is kept for a post-mortem: "kvmha postmortem ${name}" collects it, ` +
          `"kvmha release ${name}" ends it`,
      )}.\n`,
    );
    if (guest.resource === undefined && seen.uuid !== undefined) {
      await startPostmortemByPolicy(name, seen.uuid, options.connect);
    }
    return told.done ? EXIT.DONE : EXIT.FAILED;
  });
  await journal.settled();
  return code;
}

/** Where no cluster stops the guest, nobody else starts the post-mortem that the policy asks for. */
async function startPostmortemByPolicy(name: string, uuid: string, connect: string): Promise<void> {
  try {
    const { dump } = await loadPolicy(DEFAULT_POLICY_PATH);
    if (dump.onQuiesce) {
      const outcome = startPostmortem(uuid, { connect, policy: DEFAULT_POLICY_PATH, thenRelease: false });
      if (outcome.kind === 'started') {
        print(`Its post-mortem is being collected by process ${outcome.pid}, log ${outcome.log}.\n`);
      }
    }
  } catch (error) {
    if (!isKvmhaError(error)) {
      throw error;
    }
    printError(`kvmha: no post-mortem of ${plain(name)} was started: ${plain(messageOf(error))}\n`);
  }
}

/** What to do instead about a guest that is in no state to be quiesced. */
export function quiesceRefusal(
  state: ReturnType<typeof classify>['state'],
  name: string,
): string | undefined {
  switch (state) {
    case 'running':
    case 'degraded':
    case 'paused-by-operator':
    case 'suspended':
    case 'out-of-space':
    case 'faulted':
    case 'crashed':
    case 'quiesced-failover-safe':
      return undefined;
    case 'transient':
    case 'incoming':
    case 'post-copy':
      return 'Wait until it has settled, and try again';
    case 'migrated-away':
      return 'It runs on another node';
    case 'shut-off':
      return `There is no qemu of it. "kvmha status ${name}" shows what is left`;
    case 'shut-off-process-left':
      return 'A stop by the cluster ends what is left of it';
    case 'unknown':
      return 'What nobody can look at cannot be proved; a stop by the cluster ends it';
  }
}

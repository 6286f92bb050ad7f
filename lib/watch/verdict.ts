import type { Policy } from '../policy.ts';
import type { Classification } from '../state/classify.ts';
import { type Policy as VerdictPolicy, verdict } from '../state/verdict.ts';
import { inWords, type Meaning } from './meaning.ts';

/** What the watcher does about a guest. */
export type WatchVerdict =
  | { readonly do: 'ignore' }
  /** Ask QEMU what state the guest is in, and judge that. */
  | { readonly do: 'look' }
  /** Leave it as it is: somebody or something else is at work on it. */
  | { readonly do: 'hold'; readonly why: string }
  /** It runs on, and is shown as degraded. */
  | { readonly do: 'degrade'; readonly error: string }
  /** It must not go on here: quiesce it, and tell the cluster once that is proved. */
  | { readonly do: 'fail-over'; readonly fault: string };

const IGNORE: WatchVerdict = { do: 'ignore' };
const LOOK: WatchVerdict = { do: 'look' };

/**
 * What an event is answered with. Only a memory failure is judged by the event alone, because no query tells of it
 * afterwards; everything else can be asked for, and what QEMU answers counts, not what was heard.
 */
export function verdictOnEvent(meaning: Meaning, policy: Policy['watch']): WatchVerdict {
  switch (meaning.kind) {
    case 'memory-failure':
      return onMemoryFailure(meaning, policy.memoryFailure);
    case 'io-error':
      return onIoError(meaning);
    case 'crash-kernel':
      return { do: 'hold', why: inWords(meaning) };
    // After `resumed` too: a preserved guest that ran again would be the worst of all.
    case 'stopped':
    case 'resumed':
    case 'guest-panicked':
    case 'watchdog':
    case 'shut-down':
      return LOOK;
    case 'reset':
    case 'nothing':
      return IGNORE;
  }
}

function onMemoryFailure(
  failure: Extract<Meaning, { kind: 'memory-failure' }>,
  policy: Policy['watch']['memoryFailure'],
): WatchVerdict {
  const words = inWords(failure);
  switch (kindOf(failure)) {
    case 'fatal':
      // qemu is ending itself, and there is nothing left to quiesce.
      return LOOK;
    case 'reset':
      return byChoice(policy.reset, words);
    case 'required':
      return byChoice(policy.actionRequired, words);
    case 'optional':
      return byChoice(policy.actionOptional, words);
  }
}

/** QEMU does not say what it did about a corrected error: it looks like an optional one (measured, 7.2 and 10.0). */
function kindOf({
  action,
  actionRequired,
}: Extract<Meaning, { kind: 'memory-failure' }>): 'fatal' | 'reset' | 'required' | 'optional' {
  switch (action) {
    case 'fatal':
      return 'fatal';
    case 'reset':
      return 'reset';
    case 'ignore':
      return 'optional';
    default:
      return actionRequired ? 'required' : 'optional';
  }
}

function byChoice(choice: 'fail-over' | 'degrade' | 'ignore', words: string): WatchVerdict {
  switch (choice) {
    case 'fail-over':
      return { do: 'fail-over', fault: words };
    case 'degrade':
      return { do: 'degrade', error: words };
    case 'ignore':
      return IGNORE;
  }
}

/** What was passed to the guest, or hidden from it, is a survived error; where QEMU stops it, the state says more. */
function onIoError(error: Extract<Meaning, { kind: 'io-error' }>): WatchVerdict {
  return error.action === 'report' || error.action === 'ignore'
    ? { do: 'degrade', error: inWords(error) }
    : LOOK;
}

/**
 * What a state that was looked at is answered with: by the table that the monitor goes by, of which the watcher does
 * only what leads to a proof. Whatever would end the guest, or report it without a proof, is left to the monitor.
 */
export function verdictOnState(classification: Classification, policy: VerdictPolicy): WatchVerdict {
  const { state, reason, fault = reason } = classification;
  const behaviour = verdict(state, 'monitor', policy);
  if (behaviour.do === 'quiesce') {
    return { do: 'fail-over', fault };
  }
  switch (state) {
    case 'degraded':
      return { do: 'degrade', error: fault };
    case 'out-of-space':
    case 'paused-by-operator':
    case 'crashed':
      return { do: 'hold', why: reason };
    default:
      return IGNORE;
  }
}

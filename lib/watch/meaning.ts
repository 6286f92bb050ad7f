import { isObject, type Json, type QmpEvent } from '../qemu/qmp.ts';

/**
 * What an event of QEMU (https://qemu-project.gitlab.io/qemu/interop/qemu-qmp-ref.html) means to the guest. What
 * QEMU does about it is kept as the word it used, since newer versions may know others.
 */
export type Meaning =
  /** MEMORY_FAILURE: the host lost memory of the guest's or of qemu's own. */
  | {
      readonly kind: 'memory-failure';
      readonly recipient: 'guest' | 'hypervisor' | (string & {});
      readonly action: 'ignore' | 'inject' | 'reset' | 'fatal' | (string & {});
      /** What was lost was needed just then; otherwise it was found before anybody missed it. */
      readonly actionRequired: boolean;
      /** It came while the guest was still dealing with another. */
      readonly recursive: boolean;
    }
  /** BLOCK_IO_ERROR. */
  | {
      readonly kind: 'io-error';
      readonly device: string;
      readonly operation: string;
      readonly action: 'stop' | 'report' | 'ignore' | (string & {});
      readonly noSpace: boolean;
      readonly reason: string;
    }
  /** STOP: the vCPUs stand still. It does not say why, `query-status` does. */
  | { readonly kind: 'stopped' }
  | { readonly kind: 'resumed' }
  | { readonly kind: 'guest-panicked'; readonly action: string }
  /** GUEST_CRASHLOADED: the guest's kernel has crashed, and its crash kernel is at work. */
  | { readonly kind: 'crash-kernel' }
  | { readonly kind: 'watchdog'; readonly action: string }
  /** SHUTDOWN: the guest is about to end, or waits to be ended. */
  | { readonly kind: 'shut-down'; readonly byGuest: boolean; readonly reason: string }
  | { readonly kind: 'reset'; readonly byGuest: boolean; readonly reason: string }
  /** Nothing that concerns the guest's health. */
  | { readonly kind: 'nothing' };

/** What `event` means. What it lacks is taken for the worse. */
export function meaningOf({ event, data }: Pick<QmpEvent, 'event' | 'data'>): Meaning {
  switch (event) {
    case 'MEMORY_FAILURE': {
      const flags = isObject(data['flags']) ? data['flags'] : {};
      return {
        kind: 'memory-failure',
        recipient: word(data['recipient']),
        action: word(data['action']),
        actionRequired: flags['action-required'] !== false,
        recursive: flags['recursive'] === true,
      };
    }
    case 'BLOCK_IO_ERROR':
      return {
        kind: 'io-error',
        // `device` is empty for nodes that have no name of the old kind, and the QOM path is new in QEMU 9.2.
        device: word(data['device'] || data['qom-path'] || data['node-name']),
        operation: word(data['operation']),
        action: word(data['action']),
        noSpace: data['nospace'] === true,
        reason: word(data['reason']),
      };
    case 'STOP':
      return { kind: 'stopped' };
    case 'RESUME':
      return { kind: 'resumed' };
    case 'GUEST_PANICKED':
      return { kind: 'guest-panicked', action: word(data['action']) };
    case 'GUEST_CRASHLOADED':
      return { kind: 'crash-kernel' };
    case 'WATCHDOG':
      return { kind: 'watchdog', action: word(data['action']) };
    case 'SHUTDOWN':
      return { kind: 'shut-down', byGuest: data['guest'] === true, reason: word(data['reason']) };
    case 'RESET':
      return { kind: 'reset', byGuest: data['guest'] === true, reason: word(data['reason']) };
    default:
      return { kind: 'nothing' };
  }
}

function word(value: Json | undefined): string {
  return typeof value === 'string' && value !== '' ? value : 'unknown';
}

/** A meaning in words for people. */
export function inWords(meaning: Meaning): string {
  switch (meaning.kind) {
    case 'memory-failure': {
      const whose = meaning.recipient === 'hypervisor' ? "qemu's own memory" : "the guest's memory";
      const need = meaning.actionRequired ? 'needed at once' : 'not needed yet';
      const again = meaning.recursive ? ', while it dealt with another' : '';
      return `memory failure in ${whose}, ${need}${again} (QEMU: ${meaning.action})`;
    }
    case 'io-error': {
      const kind = meaning.noSpace ? 'no space' : 'I/O error';
      return `${kind} (${meaning.operation}: ${meaning.reason}) on ${meaning.device} (QEMU: ${meaning.action})`;
    }
    case 'stopped':
      return 'its vCPUs were stopped';
    case 'resumed':
      return 'its vCPUs run again';
    case 'guest-panicked':
      return `its kernel panicked (QEMU: ${meaning.action})`;
    case 'crash-kernel':
      return 'its kernel crashed, and its crash kernel is at work';
    case 'watchdog':
      return `its watchdog fired (QEMU: ${meaning.action})`;
    case 'shut-down':
      return `${meaning.byGuest ? 'it is shutting down' : 'it is being shut down'} (${meaning.reason})`;
    case 'reset':
      return `${meaning.byGuest ? 'it has reset itself' : 'it was reset'} (${meaning.reason})`;
    case 'nothing':
      return 'nothing that concerns its health';
  }
}

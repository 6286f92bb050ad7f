import type { QmpEvent } from '../qemu/qmp.ts';

/** An event of one domain, in the words of QMP, from which libvirt has made it. */
export interface DomainEvent {
  /** The domain's name. */
  readonly domain: string;
  readonly event: QmpEvent;
}

/** More than virsh prints on a line: what is longer is none of its events, and is not kept. */
const MAX_LINE = 64 * 1024;

/** The lines of a memory failure that are used. */
const DETAILS: ReadonlySet<string> = new Set(['recipient', 'action', 'action required', 'recursive']);

/**
 * Reads what `virsh event --all --loop` prints, in whatever pieces it comes. Events that say nothing of a guest's
 * health are left out.
 *
 * The format is that of tools/virsh-domain-event.c: a line `event 'KIND' for domain 'NAME': MORE`, and for some kinds
 * further lines.
 */
export class VirshEvents {
  #rest = '';
  /** A memory failure whose lines are still coming. */
  #failure: { readonly domain: string; readonly words: Map<string, string> } | undefined;

  push(text: string): DomainEvent[] {
    const lines = `${this.#rest}${text}`.split('\n');
    this.#rest = (lines.pop() ?? '').slice(0, MAX_LINE);
    return lines.flatMap((line) => this.#take(line) ?? []);
  }

  #take(line: string): DomainEvent | undefined {
    const match = /^event '([a-z-]+)' for domain '(.*)':(.*)$/.exec(line);
    if (match === null) {
      return this.#takeDetail(line);
    }
    const [, kind = '', domain = '', more = ''] = match;
    this.#failure = kind === 'memory-failure' ? { domain, words: new Map() } : undefined;
    const event = eventOf(kind, more.trim());
    return event === undefined ? undefined : { domain, event };
  }

  #takeDetail(line: string): DomainEvent | undefined {
    const [name = '', value = ''] = line.split(':').map((part) => part.trim());
    if (this.#failure === undefined) {
      return undefined;
    }
    const { domain, words } = this.#failure;
    if (DETAILS.has(name)) {
      words.set(name, value);
    }
    // It is the last.
    if (name !== 'recursive') {
      return undefined;
    }
    this.#failure = undefined;
    const flags = {
      'action-required': words.get('action required') !== '0',
      recursive: words.get('recursive') !== '0',
    };
    const data = {
      recipient: words.get('recipient') ?? 'unknown',
      action: words.get('action') ?? 'unknown',
      flags,
    };
    return { domain, event: { event: 'MEMORY_FAILURE', data, time: undefined } };
  }
}

/** libvirt's words for what QEMU did about an I/O error (virDomainEventIOErrorAction). */
const IO_ERROR_ACTIONS: ReadonlyMap<string, string> = new Map([
  ['pause', 'stop'],
  ['report', 'report'],
  ['none', 'ignore'],
]);

/** libvirt's words for what happened to a domain (virDomainEventType). */
const LIFECYCLE: ReadonlyMap<string, string> = new Map([
  ['Suspended', 'STOP'],
  ['Resumed', 'RESUME'],
  ['Stopped', 'SHUTDOWN'],
  ['Shutdown', 'SHUTDOWN'],
  ['Crashed', 'GUEST_PANICKED'],
]);

function eventOf(kind: string, more: string): QmpEvent | undefined {
  const time = undefined;
  switch (kind) {
    case 'lifecycle': {
      const event = LIFECYCLE.get(more.split(' ')[0] ?? '');
      return event === undefined ? undefined : { event, data: {}, time };
    }
    // The event "io-error" comes with it and says less.
    case 'io-error-reason': {
      // "/path of the image (virtio-disk0) pause due to enospc", and nothing behind "to" for other reasons.
      const match = /\(([^()]*)\) (\S+) due to *(\S*)$/.exec(more);
      const [, device = 'unknown', action = '', reason = ''] = match ?? [];
      const data = {
        device,
        operation: 'unknown',
        action: IO_ERROR_ACTIONS.get(action) ?? action,
        nospace: reason === 'enospc',
      };
      return { event: 'BLOCK_IO_ERROR', data, time };
    }
    case 'watchdog':
      return { event: 'WATCHDOG', data: { action: more }, time };
    default:
      return undefined;
  }
}

/**
 * What happened to the guests of a lab, as far as it was seen. All nodes are one machine with one clock: every time is
 * in milliseconds since 1970 of this clock. Where something is found by looking again and again, `at` is when it was
 * seen and `after` when the look before ended, at which it was not so yet.
 */
export interface History {
  readonly lives: readonly Life[];
  /** In the order of `at`. */
  readonly events: readonly Event[];
}

/** A qemu process of a guest, from the process table. */
export interface Life {
  readonly guest: string;
  readonly node: string;
  /** By the numbers of the machine, not of the node. */
  readonly pid: number;
  /** It waits for the guest to come by live migration. */
  readonly incoming: boolean;
  /** An operator has started it, or migrated it there, past kvmha and the cluster. */
  readonly byHand?: boolean;
  /** When the kernel has started it: this moment, or up to 10 ms before. */
  readonly since: number;
  /** The last look at which it was alive. */
  last: number;
  /** The first look at which it was gone. */
  gone?: number;
}

interface Moment {
  readonly at: number;
}

interface Found extends Moment {
  readonly after: number;
}

interface OfGuest {
  readonly guest: string;
}

interface OnNode extends OfGuest {
  readonly node: string;
}

/** A tick that was found on the disk, and which boot of the guest has written it. */
export interface Wrote extends Found, OfGuest {
  readonly kind: 'wrote';
  readonly boot: number;
  readonly instance: number;
  readonly tick: number;
}

/** A guest said on the serial port of its node that a tick is written. */
export interface Told extends Found, OnNode {
  readonly kind: 'told';
  readonly tick: number;
}

/** A guest said on the serial port of its node that it has booted, and which tick it has found on its disk. */
export interface Booted extends Found, OnNode {
  readonly kind: 'booted';
  readonly boot: number;
  readonly tick: number;
}

/** The processes that hold an image open for writing, by the kernel's table of locks; told when others do. */
export interface Holders extends Found, OfGuest {
  readonly kind: 'holders';
  readonly pids: readonly number[];
}

/** Of a journal: the guest's copy on this node is quiesced-failover-safe. */
export interface Proved extends Moment, OnNode {
  readonly kind: 'proved';
  readonly by: string;
}

/** Of a journal: the guest's copy on this node is at its end, and that was verified. */
export interface Ended extends Moment, OnNode {
  readonly kind: 'ended';
  readonly how: string;
}

/** Of a journal: the guest's copy on this node was brought back to life on purpose. */
export interface Resumed extends Moment, OnNode {
  readonly kind: 'resumed';
}

/** An operator has begun to resume the preserved copy on this node; what became of it may not be recorded. */
export interface Resuming extends Moment, OnNode {
  readonly kind: 'resuming';
}

/** The journal of a node could not be written from `at` to `until`, or a line that was due at `at` was lost. */
export interface JournalLost extends Moment {
  readonly kind: 'journal-lost';
  readonly node: string;
  readonly until: number;
}

/** The last process of a node is gone. */
export interface NodeOff extends Moment {
  readonly kind: 'node-off';
  readonly node: string;
}

/** The fence agent has ended a node. */
export interface NodeFenced extends Moment {
  readonly kind: 'node-fenced';
  readonly node: string;
}

/** What was done to a guest, or to a node and with it to all guests there, that may end in what `excuses` says. */
export interface Cause extends Moment {
  readonly kind: 'cause';
  readonly what: string;
  readonly guest?: string | undefined;
  readonly node?: string | undefined;
  readonly excuses: readonly ('restart' | 'fencing')[];
}

/** The cluster has nothing to do, and has the guest on these nodes. */
export interface AtRest extends Moment, OfGuest {
  readonly kind: 'at-rest';
  readonly activeOn: readonly string[];
}

export type Event =
  | Wrote
  | Told
  | Booted
  | Holders
  | Proved
  | Ended
  | Resumed
  | Resuming
  | JournalLost
  | NodeOff
  | NodeFenced
  | Cause
  | AtRest;

/** The time of the clock in hours, minutes, seconds and milliseconds. */
export function clock(at: number): string {
  return new Date(at).toISOString().slice(11, 23);
}

/**
 * What happened to one guest around a moment, and to the nodes that it had to do with then, for people, one line each.
 * Of ticks between which nothing else happened, only the first and the last are told.
 */
export function story(history: History, guest: string, at: number, before = 20_000, after = 5000): string[] {
  const [from, to] = [at - before, at + after];
  const lives = history.lives.filter((life) => life.guest === guest);
  const ofGuest = history.events.filter((event) => guestOf(event) === guest);
  const nodes = new Set([
    ...lives.filter(({ since, gone = to }) => since <= to && gone >= from).map(({ node }) => node),
    ...ofGuest.filter((event) => event.at >= from && event.at <= to).map(nodeOf),
  ]);
  const ofNodes = history.events.filter((event) => {
    const node = nodeOf(event);
    return guestOf(event) === undefined && (node === undefined || nodes.has(node));
  });
  return told(lives, [...ofGuest, ...ofNodes], from, to);
}

/** What happened on one node around a moment, but for what its guests wrote and said, as `story` tells it. */
export function storyOfNode(history: History, node: string, at: number): string[] {
  const lives = history.lives.filter((life) => life.node === node);
  const events = history.events.filter((event) => {
    const isHere = nodeOf(event) === node || (event.kind === 'cause' && event.node === undefined);
    return isHere && event.kind !== 'told' && event.kind !== 'booted';
  });
  return told(lives, events, at - 20_000, at + 5000);
}

function guestOf(event: Event): string | undefined {
  return 'guest' in event ? event.guest : undefined;
}

function nodeOf(event: Event): string | undefined {
  return 'node' in event ? event.node : undefined;
}

function told(lives: readonly Life[], events: readonly Event[], from: number, to: number): string[] {
  const lines: { at: number; words: string; key?: string }[] = lives.flatMap((life) => {
    const more = `${life.incoming ? ', incoming' : ''}${life.byHand ? ', by hand' : ''}`;
    const name = `qemu ${life.pid} of ${life.guest} on ${life.node}${more}`;
    return [
      { at: life.since, words: `${name} starts` },
      ...(life.gone === undefined ? [] : [{ at: life.gone, words: `${name} is gone` }]),
    ];
  });
  for (const event of events) {
    const isTick = event.kind === 'wrote' || event.kind === 'told';
    lines.push({ at: event.at, words: words(event), ...(isTick ? { key: keyOf(event) } : {}) });
  }
  const near = lines
    .filter((line) => line.at >= from && line.at <= to)
    .sort((one, other) => one.at - other.at);
  // Whether ticks of the same kind are to be seen from this line on, before anything else happens.
  const isNext = ({ key }: { key?: string }, others: Iterable<{ key?: string }>): boolean => {
    for (const other of others) {
      if (other.key === undefined || other.key === key) {
        return other.key === key;
      }
    }
    return false;
  };
  return near.flatMap((line, index) => {
    const isBetween =
      line.key !== undefined &&
      isNext(line, near.slice(index + 1)) &&
      isNext(line, near.slice(0, index).reverse());
    return isBetween ? [] : [`${clock(line.at)} ${line.words}`];
  });
}

function keyOf(event: Wrote | Told): string {
  return event.kind === 'wrote' ? `wrote ${event.boot}` : `${event.kind} ${event.node}`;
}

function words(event: Event): string {
  switch (event.kind) {
    case 'wrote':
      return `boot ${event.boot} (${event.instance.toString(16)}) has written tick ${event.tick}`;
    case 'told':
      return `on ${event.node} it says that tick ${event.tick} is written`;
    case 'booted':
      return `on ${event.node} it says that it has booted for the ${event.boot}th time, after tick ${event.tick}`;
    case 'holders':
      return `open for writing by ${event.pids.length === 0 ? 'nobody' : event.pids.join(', ')}`;
    case 'proved':
      return `${event.node} journal: quiesced-failover-safe, by the ${event.by}`;
    case 'ended':
      return `${event.node} journal: at its end (${event.how})`;
    case 'resumed':
      return `${event.node} journal: resumed`;
    case 'resuming':
      return `${event.node}: an operator resumes it`;
    case 'journal-lost':
      return `${event.node}: its journal cannot be written until ${clock(event.until)}`;
    case 'node-off':
      return `${event.node} is off`;
    case 'node-fenced':
      return `${event.node} is fenced`;
    case 'cause':
      return `done to ${event.guest ?? event.node ?? 'the cluster'}: ${event.what}`;
    case 'at-rest':
      return `the cluster is at rest, with it on ${event.activeOn.join(', ') || 'no node'}`;
  }
}

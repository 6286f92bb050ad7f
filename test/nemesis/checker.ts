import type { Event, History, Life } from './history.ts';

export const RULES = {
  'one-writer': 'at no moment two writers of one image',
  'safe-start':
    'every start elsewhere follows a recorded proof, a finished fencing stage or the end of a node',
  'no-lost-write': 'no write that the guest was told is done is lost',
  'preserved-is-still': 'a preserved guest never writes, speaks or holds its image again',
  'healthy-stays': 'a healthy guest is never restarted',
  'no-needless-fencing': 'a node is fenced only for a cause',
  'known-to-cluster': 'at rest every guest that runs is known to the cluster, on one node',
} as const;
export type Rule = keyof typeof RULES;

export interface Violation {
  readonly rule: Rule;
  /** None for a node. */
  readonly guest?: string;
  /** None for a guest. */
  readonly node?: string;
  readonly at: number;
  readonly why: string;
}

/** Milliseconds by which the start of a process, in ticks of the kernel's clock, may seem to be too early. */
const CLOCK_GRAIN = 30;

/** Milliseconds for which `kvmha resume` waits for others that act on the guest (agent/command/resume.ts). */
const RESUME_WAITS = 60_000;

/**
 * Judges a history: a pure function. What it finds has happened; what was not seen well enough to be certain is no
 * violation.
 *
 * @returns the violations, in the order of time
 */
export function check(history: History): Violation[] {
  const events = [...history.events].sort((one, other) => one.at - other.at);
  const ordered = { lives: history.lives, events };
  const guests = new Set([
    ...history.lives.map(({ guest }) => guest),
    ...events.flatMap((event) => ('guest' in event && event.guest !== undefined ? [event.guest] : [])),
  ]);
  const found = [...guests].flatMap((guest) => {
    const of = new GuestHistory(ordered, guest);
    return [
      ...oneWriter(of),
      ...safeStart(of),
      ...noLostWrite(of),
      ...preservedIsStill(of),
      ...healthyStays(of),
      ...knownToCluster(of),
    ];
  });
  return [...found, ...noNeedlessFencing(ordered)].sort((one, other) => one.at - other.at);
}

type Kind = Event['kind'];
type EventOf<K extends Kind> = Extract<Event, { kind: K }>;

/** The part of a history that concerns one guest. */
class GuestHistory {
  readonly guest: string;
  readonly lives: readonly Life[];
  readonly #events: readonly Event[];

  constructor({ lives, events }: History, guest: string) {
    this.guest = guest;
    this.lives = lives.filter((life) => life.guest === guest);
    this.#events = events.filter((event) => !('guest' in event) || [guest, undefined].includes(event.guest));
  }

  all<K extends Kind>(kind: K): EventOf<K>[] {
    return this.#events.filter((event): event is EventOf<K> => event.kind === kind);
  }

  on<K extends Kind>(kind: K, node: string): EventOf<K>[] {
    return this.all(kind).filter((event) => 'node' in event && event.node === node);
  }

  /** When this very process was proved to be failover-safe for the last time before `at`, if that held at `at`. */
  provedAt(life: Life, at: number): number | undefined {
    const proof = this.on('proved', life.node).findLast(
      (each) => each.at >= life.since && each.at <= at && each.at <= (life.gone ?? Number.POSITIVE_INFINITY),
    );
    const undone = this.on('resumed', life.node).some(
      (each) => proof !== undefined && each.at >= proof.at && each.at <= at,
    );
    return undone ? undefined : proof?.at;
  }

  violation(rule: Rule, at: number, why: string): Violation {
    return { rule, guest: this.guest, at, why: `${this.guest}: ${why}` };
  }
}

function oneWriter(of: GuestHistory): Violation[] {
  const found: Violation[] = [];
  // A boot that has written is over once a later one has.
  let last: EventOf<'wrote'> | undefined;
  for (const write of of.all('wrote')) {
    if (last !== undefined && write.boot < last.boot) {
      found.push(
        of.violation(
          'one-writer',
          write.at,
          `boot ${write.boot} wrote tick ${write.tick} after boot ${last.boot} had begun to write`,
        ),
      );
    } else if (last?.boot === write.boot && last.instance !== write.instance) {
      found.push(of.violation('one-writer', write.at, `two guests write as boot ${write.boot}`));
    }
    last = last === undefined || write.boot >= last.boot ? write : last;
  }
  for (const { at, pids } of of.all('holders')) {
    if (pids.length > 1) {
      found.push(of.violation('one-writer', at, `processes ${pids.join(' and ')} hold it open for writing`));
    }
  }
  const doneBy = new Map<number, EventOf<'told'>>();
  for (const told of of.all('told')) {
    const other = doneBy.get(told.tick);
    if (other !== undefined) {
      const where = other.node === told.node ? `twice on ${told.node}` : `on ${other.node} and ${told.node}`;
      found.push(of.violation('one-writer', told.at, `tick ${told.tick} was done ${where}`));
    }
    doneBy.set(told.tick, told);
  }
  const countedBy = new Map<number, EventOf<'booted'>>();
  for (const booted of of.all('booted')) {
    const other = countedBy.get(booted.boot);
    if (other !== undefined) {
      found.push(
        of.violation(
          'one-writer',
          booted.at,
          `${other.node} and ${booted.node} both had boot ${booted.boot}`,
        ),
      );
    }
    countedBy.set(booted.boot, booted);
  }
  return found;
}

function safeStart(of: GuestHistory): Violation[] {
  const found: Violation[] = [];
  // What an operator does past kvmha, only QEMU's own locks can hold back.
  const lives = of.lives.filter(({ byHand }) => byHand !== true);
  for (const start of lives.filter(({ incoming }) => !incoming)) {
    for (const earlier of lives.filter((life) => life !== start && life.since < start.since)) {
      const why = whyUnsafe(of, earlier, start);
      if (why !== undefined) {
        found.push(
          of.violation(
            'safe-start',
            start.since,
            `it was started on ${start.node} (qemu ${start.pid}) ${why}`,
          ),
        );
      }
    }
  }
  return [...found, ...safeResume(of)];
}

/** A preserved guest must not go on from its old memory once it has run elsewhere. */
function safeResume(of: GuestHistory): Violation[] {
  const found: Violation[] = [];
  for (const life of of.lives) {
    const isOfLife = ({ at }: { at: number }) => at >= life.since && at <= life.last;
    const all = of.on('resumed', life.node).filter(isOfLife);
    for (const [index, resumed] of all.entries()) {
      const since = all[index - 1]?.at ?? life.since;
      const proof = of.on('proved', life.node).find(({ at }) => at >= since && at <= resumed.at);
      const isBetween = (at: number) => proof !== undefined && at > proof.at && at < resumed.at;
      const other = of.lives.find((each) => each.byHand !== true && isBetween(each.since));
      const boot = of.all('wrote').findLast((each) => proof !== undefined && each.at <= proof.at)?.boot;
      const wrote = of
        .all('wrote')
        .some((each) => isBetween(each.after) && isBetween(each.at) && each.boot > (boot ?? each.boot));
      if (other !== undefined && wrote) {
        const where = `qemu ${other.pid} on ${other.node}`;
        const why = `qemu ${life.pid} on ${life.node} was resumed after the guest had run as ${where}`;
        found.push(of.violation('safe-start', resumed.at, why));
      }
    }
  }
  return found;
}

/** When the disk was last written to by what ran before `life` was followed by another qemu, or by itself. */
function lastWriteBy(of: GuestHistory, life: Life): number {
  const next = Math.min(...of.lives.filter(({ since }) => since > life.since).map(({ since }) => since));
  const end = Math.min(life.last, next);
  return of.all('wrote').findLast((each) => each.at >= life.since && each.at <= end)?.at ?? life.since;
}

/** Why `earlier` stands against a start at this moment. */
function whyUnsafe(of: GuestHistory, earlier: Life, start: Life): string | undefined {
  const { node, pid, last } = earlier;
  const at = start.since + CLOCK_GRAIN;
  if (of.provedAt(earlier, at) !== undefined) {
    return undefined;
  }
  if (last > at) {
    return `while qemu ${pid} on ${node} was alive, and not proved to be failover-safe`;
  }
  if (node === start.node) {
    return undefined;
  }
  const hasEnd = of.on('ended', node).some((each) => each.at >= earlier.since && each.at <= at);
  const wasOff = of.on('node-off', node).some((each) => each.at >= earlier.since && each.at <= at);
  // The line that is missing is of when the guest had written for the last time, or later.
  const due = lastWriteBy(of, earlier);
  const lost = of.on('journal-lost', node).some((each) => each.until >= due && each.at <= at);
  return hasEnd || wasOff || lost
    ? undefined
    : `without a proof, a finished fencing stage or the end of ${node}, where qemu ${pid} ran before`;
}

function noLostWrite(of: GuestHistory): Violation[] {
  const found: Violation[] = [];
  const told = of.all('told');
  // What a boot has found on its disk, it says itself: nothing depends on when this was seen.
  const boots = of.all('booted').sort((one, other) => one.boot - other.boot);
  for (const [index, booted] of boots.entries()) {
    const next = boots[index + 1];
    // What was told later than the next boot by the clock of looks may still be of before; the number decides.
    for (const node of new Set(told.map((each) => each.node))) {
      const lines = told.filter((each) => each.node === node && each.at < booted.after);
      const lost = lines.find((each) => each.tick > booted.tick);
      if (lost !== undefined) {
        found.push(
          of.violation(
            'no-lost-write',
            booted.at,
            `tick ${lost.tick}, told as done on ${node}, was not on the disk that boot ${booted.boot} on ${booted.node} found, only ${booted.tick}`,
          ),
        );
      }
    }
    if (next !== undefined && next.tick < booted.tick) {
      found.push(
        of.violation(
          'no-lost-write',
          next.at,
          `boot ${next.boot} found tick ${next.tick}, boot ${booted.boot} had ${booted.tick}`,
        ),
      );
    }
  }
  let highest: EventOf<'wrote'> | undefined;
  for (const write of of.all('wrote')) {
    if (highest !== undefined && write.tick < highest.tick) {
      found.push(
        of.violation(
          'no-lost-write',
          write.at,
          `the disk went back from tick ${highest.tick} to ${write.tick}`,
        ),
      );
    }
    highest = write;
  }
  const lastLook = of.all('wrote').at(-1);
  for (const node of new Set(told.map((each) => each.node))) {
    let before = 0;
    for (const each of told.filter((line) => line.node === node)) {
      if (each.tick <= before) {
        found.push(
          of.violation('no-lost-write', each.at, `on ${node} tick ${each.tick} was told after ${before}`),
        );
      }
      before = Math.max(before, each.tick);
      if (lastLook !== undefined && each.at < lastLook.after && each.tick > lastLook.tick) {
        found.push(
          of.violation(
            'no-lost-write',
            each.at,
            `tick ${each.tick}, told on ${node}, is not on the disk at last`,
          ),
        );
      }
    }
  }
  return found;
}

interface Preservation {
  readonly life: Life;
  readonly proof: EventOf<'proved'>;
  /** When it came back to life on purpose, or ended. */
  readonly until: number;
}

/** The times in which a qemu is preserved: one after the other if it was resumed in between. */
function preservations(of: GuestHistory, life: Life): Preservation[] {
  const found: Preservation[] = [];
  for (const proof of of.on('proved', life.node)) {
    const isOfLife = proof.at >= life.since && proof.at <= life.last;
    if (!isOfLife || proof.at < (found.at(-1)?.until ?? 0)) {
      continue;
    }
    // A resume that was called before may have waited for the quiesce to end.
    const backToLife = [
      ...of.on('resumed', life.node).map(({ at }) => at),
      ...of
        .on('resuming', life.node)
        .map(({ at }) => (at > proof.at - RESUME_WAITS ? Math.max(at, proof.at) : at)),
    ].filter((at) => at >= proof.at);
    found.push({ life, proof, until: Math.min(life.gone ?? Number.POSITIVE_INFINITY, ...backToLife) });
  }
  return found;
}

function preservedIsStill(of: GuestHistory): Violation[] {
  const found: Violation[] = [];
  for (const { life, proof, until } of of.lives.flatMap((life) => preservations(of, life))) {
    const isThen = ({ at, after }: { at: number; after: number }) => after > proof.at && at < until;
    const name = `qemu ${life.pid} on ${life.node}, preserved since ${new Date(proof.at).toISOString()},`;
    const holders = of.all('holders');
    for (const [index, each] of holders.entries()) {
      // It is told only when others hold the image, and holds until the look before the next one, or the last of all.
      const next = holders[index + 1];
      const stillThen = next?.after ?? (life.gone === undefined ? life.last : each.at);
      const goesOn = each.after <= proof.at && stillThen > proof.at && stillThen < until;
      if ((isThen(each) || goesOn) && each.pids.includes(life.pid)) {
        found.push(of.violation('preserved-is-still', each.at, `${name} holds the image open for writing`));
      }
    }
    // The serial port of a node is that of one qemu, until the guest is started there anew.
    const others = of.lives.filter((other) => other !== life && other.node === life.node);
    const isItsOwn = (at: number) => !others.some((other) => other.since <= at && other.since > proof.at);
    // The boot that wrote last before the proof is this one's, unless another one has begun by then.
    const boot = of.all('wrote').findLast((each) => each.at <= proof.at)?.boot;
    // virtlogd may bring late what was said before. That is on the disk then: none of it is said by a preserved guest.
    const onDisk = Math.max(
      0,
      ...of.all('wrote').flatMap((each) => (each.boot === boot ? [each.tick] : [])),
      ...of.all('booted').flatMap((each) => (each.boot === (boot ?? 0) + 1 ? [each.tick] : [])),
    );
    const isNew = (each: EventOf<'told' | 'booted'>) =>
      each.kind === 'told' ? each.tick > onDisk : each.boot > (boot ?? 0);
    for (const each of [...of.on('told', life.node), ...of.on('booted', life.node)]) {
      if (isThen(each) && isItsOwn(each.at) && boot !== undefined && isNew(each)) {
        found.push(of.violation('preserved-is-still', each.at, `${name} speaks on its serial port`));
      }
    }
    const migratedOn = of.lives.some((other) => other.incoming && other.since > proof.at);
    const alsoElsewhere = of.lives.some(
      (other) => other !== life && other.since <= proof.at && (other.gone ?? proof.at + 1) > proof.at,
    );
    if (!migratedOn && !alsoElsewhere) {
      for (const each of of.all('wrote')) {
        if (isThen(each) && each.boot === boot) {
          found.push(of.violation('preserved-is-still', each.at, `${name} wrote tick ${each.tick}`));
        }
      }
    }
  }
  return found;
}

function healthyStays(of: GuestHistory): Violation[] {
  const found: Violation[] = [];
  const firsts = of
    .all('wrote')
    .filter((write, index, all) => index === 0 || write.boot !== all[index - 1]?.boot);
  for (const [index, boot] of firsts.entries()) {
    const before = firsts[index - 1];
    if (before === undefined || boot.boot < before.boot) {
      continue;
    }
    const nodes = new Set(
      of.lives.filter((life) => life.since <= boot.at && life.last >= before.after).map(({ node }) => node),
    );
    const isIn = ({ at }: { at: number }) => at >= before.after && at <= boot.at;
    const caused = of
      .all('cause')
      .some(
        (cause) =>
          isIn(cause) &&
          cause.excuses.includes('restart') &&
          (cause.guest === of.guest ||
            (cause.guest === undefined && (cause.node === undefined || nodes.has(cause.node)))),
      );
    const fenced = of.all('node-fenced').some((each) => isIn(each) && nodes.has(each.node));
    if (!caused && !fenced) {
      found.push(
        of.violation(
          'healthy-stays',
          boot.at,
          `it was restarted (boot ${boot.boot}) without a cause since boot ${before.boot}`,
        ),
      );
    }
  }
  return found;
}

function noNeedlessFencing({ events }: History): Violation[] {
  const causes = events.filter(
    (event): event is EventOf<'cause'> => event.kind === 'cause' && event.excuses.includes('fencing'),
  );
  const found: Violation[] = [];
  const before = new Map<string, number>();
  for (const event of events) {
    if (event.kind !== 'node-fenced') {
      continue;
    }
    const since = before.get(event.node) ?? Number.NEGATIVE_INFINITY;
    const isExcused = causes.some(
      (cause) =>
        cause.at <= event.at && cause.at > since && (cause.node === undefined || cause.node === event.node),
    );
    if (!isExcused) {
      found.push({
        rule: 'no-needless-fencing',
        node: event.node,
        at: event.at,
        why: `${event.node} was fenced without a cause`,
      });
    }
    before.set(event.node, event.at);
  }
  return found;
}

function knownToCluster(of: GuestHistory): Violation[] {
  return of.all('at-rest').flatMap(({ at, activeOn }) => {
    const alive = of.lives.filter(
      (life) =>
        life.since <= at &&
        (life.gone ?? Number.POSITIVE_INFINITY) > at &&
        of.provedAt(life, at) === undefined,
    );
    const odd = alive.filter(({ node }) => !activeOn.includes(node));
    return [
      ...odd.map(({ node, pid }) =>
        of.violation(
          'known-to-cluster',
          at,
          `qemu ${pid} runs on ${node}, and the cluster has it on ${activeOn.join(', ') || 'no node'}`,
        ),
      ),
      ...(activeOn.length > 1
        ? [of.violation('known-to-cluster', at, `the cluster has it on ${activeOn.join(' and ')}`)]
        : []),
    ];
  });
}

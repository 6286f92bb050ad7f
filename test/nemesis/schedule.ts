/** Something that is done to the lab in a round. */
export interface Stroke {
  readonly action: ActionName;
  /** Milliseconds from the beginning of the round. */
  readonly at: number;
  /** Milliseconds until it is undone, where it can be. */
  readonly lasts: number;
  /** The number of the guest that it hits, or on whose node it happens. */
  readonly guest: number;
  /** The number of a node, for what hits a node; or of the one that a guest is to move to. */
  readonly node: number;
  /** One of the action's variants. */
  readonly variant: string;
}

export interface Round {
  readonly strokes: readonly Stroke[];
}

interface ActionOptions {
  /** How often it is chosen, beside the others. */
  readonly weight: number;
  /** Milliseconds that it lasts, at most, beyond the shortest time. */
  readonly lasts?: number;
  /** Milliseconds that it lasts, at least; half a second if it is not given. */
  readonly atLeast?: number;
  readonly variants?: readonly string[];
  /** Cuts a node off, or ends it: only one of these in a round, or nobody is left. */
  readonly losesNode?: boolean;
  /** Takes long, or is not certain to end in the same time: not for the short run that is part of every test. */
  readonly isSlow?: boolean;
}

/** What a nemesis does. What each of them may end in is said where it is carried out (actions.ts). */
export const ACTIONS = {
  // The storage of one guest on its node: letters of test/fault. Guests are found to be hit by the monitor or watcher.
  'storage-fails': { weight: 12, lasts: 12_000, variants: ['W', 'W', 'W', 'WF', 'F', 'R', 'WR'] },
  'storage-hangs': { weight: 4, lasts: 20_000, variants: ['WH', 'WFH', 'RWFH'] },
  // Longer than every timeout of the recommended configuration.
  'storage-hangs-for-long': {
    weight: 1,
    lasts: 30_000,
    atLeast: 95_000,
    isSlow: true,
    variants: ['WH', 'WFH', 'RWFH'],
  },
  'storage-is-full': { weight: 2, lasts: 8000, variants: ['WN'] },
  'qemu-is-killed': { weight: 5 },
  'qemu-is-stopped': { weight: 3, lasts: 12_000 },
  'libvirtd-is-killed': { weight: 5, lasts: 6000 },
  'libvirtd-is-stopped': { weight: 5, lasts: 12_000 },
  'virtlogd-is-killed': { weight: 1, lasts: 3000 },
  'virtlogd-is-stopped': { weight: 1, lasts: 6000 },
  'pacemaker-is-killed': {
    weight: 3,
    isSlow: true,
    variants: ['controld', 'execd', 'attrd', 'based', 'schedulerd', 'fenced', 'pacemakerd'],
  },
  'pacemaker-is-stopped': {
    weight: 4,
    lasts: 6000,
    isSlow: true,
    variants: ['controld', 'execd', 'attrd', 'attrd', 'based', 'fenced', 'pacemakerd'],
  },
  'watcher-is-killed': { weight: 4 },
  'watcher-is-stopped': { weight: 3, lasts: 8000 },
  'agent-is-killed': {
    weight: 5,
    lasts: 8000,
    isSlow: true,
    variants: ['', 'stop', 'monitor', 'start', 'migrate_to', 'migrate_from'],
  },
  'agent-is-stopped': {
    weight: 3,
    lasts: 5000,
    isSlow: true,
    variants: ['', 'stop', 'monitor', 'start', 'migrate_to', 'migrate_from'],
  },
  'power-fails': { weight: 3, losesNode: true, isSlow: true },
  'network-is-cut': { weight: 3, lasts: 15_000, losesNode: true, isSlow: true },
  'network-loses': { weight: 2, lasts: 10_000, losesNode: true, isSlow: true, variants: ['INPUT', 'OUTPUT'] },
  'network-is-slow': { weight: 2, lasts: 8000, losesNode: true, isSlow: true },
  'corosync-is-stopped': { weight: 2, lasts: 15_000, losesNode: true, isSlow: true },
  'state-is-full': { weight: 4, lasts: 10_000, variants: ['/run/kvmha', '/run/kvmha', '/run'] },
  'journal-is-full': { weight: 3, lasts: 10_000 },
  'dumps-are-full': { weight: 2, lasts: 10_000 },
  'operator-quiesces': { weight: 4 },
  'operator-resumes-domain': { weight: 4, variants: ['virsh resume', 'cont', 'virsh reset'] },
  'operator-destroys': { weight: 2 },
  'operator-starts': { weight: 3, variants: ['home', 'other'] },
  'operator-moves': { weight: 5 },
  'operator-migrates': { weight: 2 },
  'operator-resumes': { weight: 3 },
  'operator-releases': { weight: 2, variants: ['', '--force'] },
  'operator-cleans-up': { weight: 4, variants: ['--cleanup', '--refresh'] },
  'operator-suspends': { weight: 2, lasts: 4000 },
  // What kvmha keeps under /run, of a node that does not reboot.
  'state-is-lost': { weight: 2, isSlow: true },
  // While an action is at work, which is when the cluster forgets most of it.
  'operator-cleans-up-amid': {
    weight: 3,
    lasts: 8000,
    isSlow: true,
    variants: ['stop', 'start', 'monitor', 'migrate_to'],
  },
  'operators-at-once': {
    weight: 3,
    isSlow: true,
    variants: ['quiesce quiesce', 'quiesce release', 'quiesce resume', 'release release', 'release resume'],
  },
  'operator-stops-resource': { weight: 2, lasts: 6000, isSlow: true },
  'operator-stands-by': { weight: 2, lasts: 8000, losesNode: true, isSlow: true },
  'operator-ends-domain': {
    weight: 2,
    isSlow: true,
    variants: ['virsh shutdown', 'virsh reboot', 'virsh save'],
  },
} satisfies { readonly [name: string]: ActionOptions };
export type ActionName = keyof typeof ACTIONS;

export interface ScheduleOptions {
  readonly rounds: number;
  readonly guests: number;
  readonly nodes: number;
  /** Only what is certain to end within seconds. */
  readonly short?: boolean;
  /** Only these. */
  readonly only?: readonly string[];
}

/** Milliseconds within which the strokes of a round begin. */
const ROUND = 5000;

/** Numbers from 0 to below 1, the same for the same seed: mulberry32 by Tommy Ettinger, in the public domain. */
export function randomNumbers(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

/** What is done in which round: the same for the same seed and options. */
export function schedule(seed: number, options: ScheduleOptions): Round[] {
  const random = randomNumbers(seed);
  const below = (count: number) => Math.floor(random() * count);
  const names = (Object.keys(ACTIONS) as ActionName[]).filter((name) => {
    const { isSlow = false }: ActionOptions = ACTIONS[name];
    return (options.only?.includes(name) ?? true) && !(options.short && isSlow);
  });
  // Each name as often as its weight says.
  const urn = names.flatMap((name) => new Array<ActionName>(ACTIONS[name].weight).fill(name));
  const choose = (): ActionName => urn[below(urn.length)] as ActionName;
  const stroke = (focus: number): Stroke => {
    const action = choose();
    const { lasts = 0, atLeast = 500, variants = [''] }: ActionOptions = ACTIONS[action];
    return {
      action,
      at: below(ROUND),
      lasts: lasts === 0 ? 0 : atLeast + below(lasts),
      guest: random() < 0.6 ? focus : below(options.guests),
      node: below(options.nodes) + 1,
      variant: variants[below(variants.length)] ?? '',
    };
  };
  return Array.from({ length: options.rounds }, () => {
    const strokes: Stroke[] = [];
    // Mostly something fails and something else comes in between, so that one guest gets most of it.
    const focus = below(options.guests);
    for (let count = 2 + below(4); count > 0; count--) {
      const next = stroke(focus);
      const loses = ({ action }: Stroke) => (ACTIONS[action] as ActionOptions).losesNode === true;
      if (!loses(next) || !strokes.some(loses)) {
        strokes.push(next);
      }
    }
    return { strokes: strokes.sort((one, other) => one.at - other.at) };
  });
}

/** A stroke in words for people. */
export function describe({ action, at, lasts, guest, node, variant }: Stroke): string {
  const duration = lasts > 0 ? ` for ${(lasts / 1000).toFixed(1)} s` : '';
  return `${(at / 1000).toFixed(1)} s: ${action}${variant === '' ? '' : ` (${variant})`}, guest ${guest}, node ${node}${duration}`;
}

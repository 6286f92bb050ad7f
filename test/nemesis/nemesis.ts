import { Deadline, sleep } from '../../lib/deadline.ts';
import { messageOf } from '../../lib/error.ts';
import { Cluster, type ClusterGuest, WATCHERS } from '../cluster/support.ts';
import { Blow, endStandby, heal, LOCKED_GUEST, mountState } from './actions.ts';
import { check, RULES, type Rule, type Violation } from './checker.ts';
import { clock, type History, story, storyOfNode } from './history.ts';
import { Recorder } from './recorder.ts';
import { describe, type Round, type Stroke, schedule } from './schedule.ts';

export interface NemesisOptions {
  readonly seed: number;
  readonly rounds: number;
  /** Whether the watcher runs on every node. */
  readonly watcher: boolean;
  /** Only strokes that are certain to end within seconds. */
  readonly short?: boolean;
  /** Only by these rules; by all if it is not given. */
  readonly rules?: readonly Rule[];
  /** Only these actions. */
  readonly only?: readonly string[];
  /** These rounds, instead of those of the seed. */
  readonly schedule?: readonly Round[];
  /** Is told what happens, line by line. */
  readonly tell?: (line: string) => void;
  /** No further round begins after it. */
  readonly until?: number;
}

/** What was found, after which the cluster was left alone. */
export interface Finding {
  /** The rule that is broken; or some guest did not run again in time. */
  readonly kind: Rule | 'not-recovered';
  readonly text: string;
  /** The rounds that were played, the last of which has shown it. */
  readonly rounds: readonly Round[];
}

/** The guests: the last one's image has QEMU's own locks, and the third is dumped once it is preserved. */
const GUESTS = ['a', 'b', 'c', LOCKED_GUEST] as const;
const NODES = 3;

/** Milliseconds within which the cluster must have recovered from a round, however loaded the machine. */
const RECOVERY = 180_000;

/** Milliseconds after which an operator helps a guest that has not recovered by itself. */
const HELP = 4000;

/** Nobody is held back because many guests fail at a time: a round stands for days. */
const POLICY = 'quiesce: { storm: { guests: 1000, seconds: 1 } }\n';

/** @returns what was found, nothing when all is well, and what was seen */
export async function torment(options: NemesisOptions): Promise<{ finding?: Finding; history: History }> {
  const { tell = () => {}, seed } = options;
  const rounds = options.schedule ?? schedule(seed, { ...options, guests: GUESTS.length, nodes: NODES });
  await using nemesis = await Nemesis.begin(options, tell);
  for (const [index, round] of rounds.entries()) {
    if (options.until !== undefined && Date.now() > options.until) {
      break;
    }
    tell(`round ${index + 1} of ${rounds.length}, seed ${seed}`);
    const found = await nemesis.play(round);
    if (found !== undefined) {
      return { finding: { ...found, rounds: rounds.slice(0, index + 1) }, history: nemesis.history() };
    }
  }
  return { history: nemesis.history() };
}

/** A cluster that is tormented, and watched meanwhile. */
class Nemesis implements AsyncDisposable {
  readonly #cluster: Cluster;
  readonly #guests: readonly ClusterGuest[];
  readonly #recorder: Recorder;
  readonly #tell: (line: string) => void;
  readonly #rules: readonly Rule[] | undefined;

  private constructor(
    cluster: Cluster,
    guests: readonly ClusterGuest[],
    recorder: Recorder,
    tell: (line: string) => void,
    rules: readonly Rule[] | undefined,
  ) {
    this.#rules = rules;
    this.#cluster = cluster;
    this.#guests = guests;
    this.#recorder = recorder;
    this.#tell = tell;
  }

  static async begin({ watcher, rules }: NemesisOptions, tell: (line: string) => void): Promise<Nemesis> {
    const cluster = await Cluster.up();
    try {
      for (const node of cluster.lab.nodes) {
        node.write('/etc/kvmha/policy.yaml', POLICY);
        await mountState(node);
      }
      await cluster.configure(`rsc_defaults resource-stickiness=1000\n${watcher ? WATCHERS : ''}`);
      const guests = await cluster.startGuests(
        GUESTS.map((name, index) => [
          name,
          {
            monitor: `${1 + (index % 3)}s`,
            prefers: [`node${1 + (index % NODES)}`],
            ...(name === 'c' ? { parameters: 'preserved_guest=dump' } : {}),
            ...(name === LOCKED_GUEST ? { domain: { disks: [{ path: `/shared/${name}.img` }] } } : {}),
          },
        ]),
      );
      const recorder = new Recorder(cluster.lab, GUESTS);
      recorder.start();
      return new Nemesis(cluster, guests, recorder, tell, rules);
    } catch (error) {
      await cluster.down();
      throw error;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#recorder.stop();
    await this.#cluster.down();
  }

  history(): History {
    return this.#recorder.history();
  }

  /** @returns what was found, or did not recover */
  async play({ strokes }: Round): Promise<Omit<Finding, 'rounds'> | undefined> {
    const begun = Date.now();
    await Promise.all(strokes.map((stroke) => this.#strike(stroke, strokes.length > 1, begun)));
    const slow = await this.#recover(begun);
    const violations = check(this.history()).filter(({ rule }) => this.#rules?.includes(rule) ?? true);
    const [first] = violations;
    if (first !== undefined) {
      return { kind: first.rule, text: violationText(first, violations.length, this.history()) };
    }
    return slow === undefined ? undefined : { kind: 'not-recovered', text: slow };
  }

  async #strike(stroke: Stroke, isDisturbed: boolean, begun: number): Promise<void> {
    await sleep(Math.max(0, begun + stroke.at - Date.now()));
    this.#say(describe(stroke));
    const tell = (words: string) => this.#say(`  ${words}`);
    const field = {
      ...{ cluster: this.#cluster, guests: this.#guests, recorder: this.#recorder },
      ...{ isDisturbed, tell },
    };
    try {
      const undo = await new Blow(field, stroke).strike();
      await sleep(Math.max(0, begun + stroke.at + stroke.lasts - Date.now()));
      await undo?.();
    } catch (error) {
      // A node may go off while something is done there.
      this.#say(`${stroke.action}: ${messageOf(error)}`);
    }
  }

  /** Mends everything, helps as an operator does, and waits until each guest runs again. */
  async #recover(roundBegun: number): Promise<string | undefined> {
    const deadline = Deadline.in(RECOVERY);
    const begun = Date.now();
    let left = 'the cluster';
    let unwellGuests: string[] = [];
    let helped = Date.now();
    const isWell = await deadline.poll(300, async () => {
      try {
        await this.#mend(deadline);
        const unwell = [];
        unwellGuests = [];
        for (const guest of this.#guests) {
          const why = await this.#whyUnwell(guest);
          if (why !== undefined) {
            unwell.push(`${guest.name} ${why}`);
            unwellGuests.push(guest.name);
          }
        }
        left = unwell.join('; ');
        if (unwell.length > 0 && Date.now() - helped > HELP) {
          await this.#help();
          helped = Date.now();
        }
        return unwell.length === 0 || undefined;
      } catch (error) {
        left = messageOf(error);
        return undefined;
      }
    });
    this.#say(
      isWell ? `recovered in ${((Date.now() - begun) / 1000).toFixed(1)} s` : `not recovered: ${left}`,
    );
    this.#say(`the disks were looked at every ${this.#recorder.longestPause()} ms at the longest`);
    if (!isWell) {
      const shown = await this.#cluster.shown().catch(messageOf);
      const history = this.history();
      const stories = unwellGuests.map((name) => {
        const lines = story(history, name, roundBegun, 2000, Date.now() - roundBegun);
        return `What happened to ${name}:\n${indented(lines)}`;
      });
      const first = `within ${RECOVERY / 1000} s the guests have not recovered: ${left}`;
      return [first, shown, ...stories].join('\n');
    }
    for (const guest of this.#guests) {
      const activeOn = await guest.places();
      this.#recorder.add({ kind: 'at-rest', guest: guest.name, at: Date.now(), activeOn });
      await guest.ticks();
    }
    return undefined;
  }

  async #mend(deadline: Deadline): Promise<void> {
    const { nodes } = this.#cluster.lab;
    const wasOn = nodes.every((node) => node.isOn);
    await Promise.all(
      nodes.map(async (node) => {
        if (!node.isOn) {
          await node.powerOn(deadline);
        }
        await heal(node);
        for (const guest of this.#guests) {
          guest.fault(node).clear();
        }
      }),
    );
    await this.#cluster.lab.waitForCluster(deadline);
    if (!wasOn || !nodes.every((node) => node.isOn)) {
      throw new Error('a node was off');
    }
  }

  /** What is not as it is to be: one qemu that is not preserved, on the node where the cluster has the guest. */
  async #whyUnwell(guest: ClusterGuest): Promise<string | undefined> {
    const { resource } = await this.#cluster.view(guest.name);
    const [place, ...others] = resource?.activeOn ?? [];
    if (resource?.role !== 'Started' || resource.failed || place === undefined || others.length > 0) {
      return `is ${resource?.role} on ${resource?.activeOn.join(', ')}${resource?.failed ? ', failed' : ''}`;
    }
    const living = this.#recorder.living(guest.name);
    const strangers = living.filter(({ node }) => node !== place);
    if (strangers.length > 0) {
      return `is also on ${strangers.map(({ node }) => node).join(', ')}`;
    }
    const { state } = await guest.look(this.#cluster.node(place));
    if (state !== 'running') {
      return `is ${state} on ${place}`;
    }
    const before = guest.witnessTicks();
    await sleep(500);
    return guest.witnessTicks() > before ? undefined : `does not tick on ${place}`;
  }

  /** What an operator does once all is mended: ends preserved copies and strays, and cleans up. */
  async #help(): Promise<void> {
    for (const node of this.#cluster.lab.nodes) {
      await this.#cluster.sh(`${endStandby(node)} || true`);
    }
    for (const guest of this.#guests) {
      const { name } = guest;
      const { resource } = await this.#cluster.view(name);
      const active = resource?.activeOn ?? [];
      for (const life of this.#recorder.living(name)) {
        const node = this.#cluster.node(life.node);
        if (!active.includes(life.node)) {
          const way = life.byHand
            ? ['virsh', 'destroy', name]
            : ['kvmha', 'release', '--without-postmortem', name];
          const { exitCode, stderr } = await node.exec(['timeout', '60', ...way]);
          this.#say(`  ${life.node}: ${way.join(' ')} -> ${exitCode} ${stderr.trim().split('\n').at(-1)}`);
        }
      }
      await this.#cluster.sh(
        `crm_resource --resource ${name} --clear --quiet; crm_resource --resource ${name} --meta -d is-managed --quiet
crm_resource --resource ${name} --meta -d target-role --quiet
crm_resource --cleanup --resource ${name}`,
      );
      // Somebody may have paused it.
      for (const place of active) {
        if ((await guest.state(this.#cluster.node(place))).startsWith('paused')) {
          await this.#cluster.node(place).exec(['timeout', '20', 'virsh', 'resume', name]);
        }
      }
    }
  }

  #say(line: string): void {
    this.#tell(`${clock(Date.now())} ${line}`);
  }
}

function violationText(violation: Violation, count: number, history: History): string {
  const { rule, guest, node, at, why } = violation;
  const ofNode = node === undefined ? [] : storyOfNode(history, node, at);
  const lines = guest === undefined ? ofNode : story(history, guest, at);
  return [
    `${count} violations, the first: ${RULES[rule]} (${rule}).`,
    `${clock(at)} ${why}`,
    indented(lines),
  ].join('\n');
}

function indented(lines: readonly string[]): string {
  return lines.map((line) => `    ${line}`).join('\n');
}

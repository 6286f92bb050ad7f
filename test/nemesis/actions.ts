import { existsSync, readFileSync } from 'node:fs';
import { Deadline, sleep } from '../../lib/deadline.ts';
import type { Cluster, ClusterGuest } from '../cluster/support.ts';
import type { LabNode } from '../lab/client.ts';
import { processes } from '../support/host.ts';
import type { Cause, Life } from './history.ts';
import type { Recorder } from './recorder.ts';
import type { ActionName, Stroke } from './schedule.ts';

/** What a stroke hits, and what it is told of. */
export interface Field {
  readonly cluster: Cluster;
  readonly guests: readonly ClusterGuest[];
  readonly recorder: Recorder;
  /** Whether the other strokes of the round may disturb what this one asks the cluster for. */
  readonly isDisturbed: boolean;
  tell(words: string): void;
}

/** Undoes a stroke. */
type Undo = () => unknown;

/** The guest whose image QEMU's own locks protect: an operator may start it past kvmha. */
export const LOCKED_GUEST = 'd';

const TIMEOUT = 90_000;

export class Blow {
  readonly guest: ClusterGuest;
  /** The node of the stroke. */
  readonly node: LabNode;
  readonly #stroke: Stroke;
  readonly #field: Field;

  constructor(field: Field, stroke: Stroke) {
    this.#field = field;
    this.#stroke = stroke;
    this.guest = field.guests[stroke.guest] as ClusterGuest;
    this.node = field.cluster.node(stroke.node);
  }

  /** Where the youngest qemu of the guest is, or the node of the stroke. */
  get home(): LabNode {
    const life = this.#living.at(-1);
    return life === undefined ? this.node : this.#field.cluster.node(life.node);
  }

  /** Where the oldest qemu of the guest is: the preserved one, if there is any. */
  get old(): LabNode {
    const life = this.#living[0];
    return life === undefined ? this.node : this.#field.cluster.node(life.node);
  }

  get #living(): Life[] {
    return this.#field.recorder.living(this.guest.name);
  }

  cause(excuses: Cause['excuses'], of: { guest?: string; node?: string }): void {
    const { action, variant } = this.#stroke;
    const what = variant === '' ? action : `${action} (${variant})`;
    this.#field.recorder.add({ kind: 'cause', at: Date.now(), what, excuses, ...of });
  }

  get #ofGuest() {
    return { guest: this.guest.name };
  }

  async strike(): Promise<Undo | undefined> {
    return this.#actions[this.#stroke.action]();
  }

  get #actions(): { readonly [name in ActionName]: () => Promise<Undo | undefined> | Undo | undefined } {
    const { variant } = this.#stroke;
    return {
      'storage-fails': () => this.#storage(variant),
      'storage-hangs': () => this.#storage(variant),
      'storage-is-full': () => this.#storage(variant),
      'storage-hangs-for-long': () => this.#storage(variant),
      'qemu-is-killed': () => this.#signalQemu('SIGKILL'),
      'qemu-is-stopped': () => this.#signalQemu('SIGSTOP'),
      'libvirtd-is-killed': () => this.#killService('libvirtd'),
      'libvirtd-is-stopped': () => this.#stopProcesses(this.home, 'libvirtd'),
      'virtlogd-is-killed': () => this.#killService('virtlogd'),
      'virtlogd-is-stopped': () => this.#stopProcesses(this.home, 'virtlogd'),
      'pacemaker-is-killed': () => this.#hitPacemaker('SIGKILL'),
      'pacemaker-is-stopped': () => this.#hitPacemaker('SIGSTOP'),
      'watcher-is-killed': () => void this.#signal(this.home, 'SIGKILL', isWatcher),
      'watcher-is-stopped': () => {
        this.#signal(this.home, 'SIGSTOP', isWatcher);
        return () => this.#signal(this.home, 'SIGCONT', isWatcher);
      },
      'agent-is-killed': () => this.#hitAgent('SIGKILL'),
      'agent-is-stopped': () => this.#hitAgent('SIGSTOP'),
      'power-fails': async () => {
        this.cause(['restart', 'fencing'], { node: this.node.name });
        await this.node.powerOff();
        return undefined;
      },
      'network-is-cut': async () => {
        this.cause(['restart', 'fencing'], { node: this.node.name });
        await this.node.cut();
        return () => this.node.heal();
      },
      'network-loses': async () => {
        // Who hears the others and is not heard may see them as the lost ones.
        this.cause(['restart', 'fencing'], {});
        const { node } = this;
        await this.#sh(
          node,
          `iptables -A ${variant} ! -i lo -j DROP 2>/dev/null || iptables -A ${variant} ! -o lo -j DROP`,
        );
        return () => this.#sh(node, 'iptables -F');
      },
      'network-is-slow': async () => {
        this.cause(['restart', 'fencing'], {});
        const { node } = this;
        await this.#sh(node, 'tc qdisc add dev eth0 root tbf rate 64kbit burst 2kb latency 2s');
        return () => this.#sh(node, 'tc qdisc del dev eth0 root');
      },
      'corosync-is-stopped': () => {
        this.cause(['restart', 'fencing'], { node: this.node.name });
        return this.#stopProcesses(this.node, 'corosync');
      },
      'state-is-full': async () => {
        const { home } = this;
        await this.#sh(
          home,
          `mountpoint -q ${variant} && mount -o "remount,size=$(df -k --output=used ${variant} | tail -n 1 | tr -d ' ')k" ${variant}`,
        );
        return () => this.#sh(home, FULL_STATE_ENDS);
      },
      'journal-is-full': () => this.#fill('/var/log/kvmha'),
      'dumps-are-full': () => this.#fill('/var/lib/kvmha/dumps'),
      'operator-quiesces': async () => {
        this.cause(['restart'], this.#ofGuest);
        await this.#sh(this.home, `kvmha quiesce ${this.guest.name}`);
        return undefined;
      },
      'operator-resumes-domain': async () => {
        const { name } = this.guest;
        if (variant === 'virsh reset') {
          this.cause(['restart'], this.#ofGuest);
        }
        const command =
          variant === 'cont'
            ? `virsh qemu-monitor-command ${name} '{"execute":"cont"}'`
            : `${variant} ${name}`;
        await this.#sh(this.old, command);
        return undefined;
      },
      'operator-destroys': async () => {
        this.cause(['restart'], this.#ofGuest);
        await this.#sh(this.home, `virsh destroy ${this.guest.name}`);
        return undefined;
      },
      'operator-starts': () => this.#startByHand(),
      'operator-moves': () => this.#move(),
      'operator-migrates': () => this.#migrateByHand(),
      'operator-resumes': () => this.#resume(),
      'operator-releases': async () => {
        await this.#sh(this.old, `kvmha release ${variant} ${this.guest.name}`);
        return undefined;
      },
      'operator-cleans-up': async () => {
        await this.#sh(this.home, `crm_resource ${variant} --resource ${this.guest.name}`);
        return undefined;
      },
      'operator-suspends': async () => {
        const { home } = this;
        await this.#sh(home, `virsh suspend ${this.guest.name}`);
        return () => this.#sh(home, `virsh resume ${this.guest.name}`);
      },
      'state-is-lost': async () => {
        // Nobody knows any more what was proved: of what is preserved there, only the end of the node makes sure.
        this.cause(['restart', 'fencing'], { node: this.home.name });
        await this.#sh(this.home, 'find /run/kvmha -mindepth 1 -delete');
        return undefined;
      },
      'operator-cleans-up-amid': () => this.#cleanUpAmid(),
      'operators-at-once': () => this.#operatorsAtOnce(),
      'operator-stops-resource': async () => {
        const { name } = this.guest;
        this.cause(['restart'], this.#ofGuest);
        const role = `crm_resource --resource ${name} --meta`;
        await this.#sh(this.home, `${role} -p target-role -v Stopped`);
        return () => this.#sh(this.#field.cluster.anyNode, `${role} -d target-role`);
      },
      'operator-stands-by': async () => {
        const { node } = this;
        this.cause(['restart'], { node: node.name });
        await this.#sh(node, `crm_standby --node ${node.name} -v on`);
        return () => this.#sh(this.#field.cluster.anyNode, endStandby(node));
      },
      'operator-ends-domain': async () => {
        const { name } = this.guest;
        this.cause(['restart'], this.#ofGuest);
        await this.#sh(
          this.home,
          `${variant} ${name}${variant === 'virsh save' ? ` /root/${name}.saved` : ''}`,
        );
        return undefined;
      },
    };
  }

  /** A command that may fail, as an operator's may; what it says is told. */
  async #sh(node: LabNode, command: string): Promise<void> {
    if (!node.isOn) {
      return;
    }
    const { exitCode, stdout, stderr } = await node.exec(['timeout', '60', 'sh', '-c', command], {
      timeout: TIMEOUT,
    });
    const said = `${stdout}${stderr}`.trim().split('\n').at(-1)?.slice(0, 160) ?? '';
    this.#field.tell(`${node.name}: ${command.split('\n')[0]} -> ${exitCode} ${said}`);
  }

  #storage(letters: string): Undo {
    const { home, guest } = this;
    this.cause(['restart'], this.#ofGuest);
    const fault = guest.fault(home);
    fault.set(letters, guest.disk);
    return () => home.isOn && fault.clear();
  }

  #signalQemu(signal: 'SIGKILL' | 'SIGSTOP'): Undo | undefined {
    const pid = this.#living.at(-1)?.pid;
    if (pid === undefined) {
      return undefined;
    }
    this.cause(['restart'], this.#ofGuest);
    send(pid, signal);
    return signal === 'SIGSTOP' ? () => send(pid, 'SIGCONT') : undefined;
  }

  /** Signals the processes of a node for which `fits` holds, and says how many there were. */
  #signal(node: LabNode, signal: NodeJS.Signals, fits: (argv: readonly string[]) => boolean): number {
    const found = node.isOn ? processes(node).filter(({ argv }) => fits(argv)) : [];
    for (const { pid } of found) {
      send(pid, signal);
    }
    return found.length;
  }

  #stopProcesses(node: LabNode, name: string): Undo {
    this.#signal(node, 'SIGSTOP', isProgram(name));
    return () => this.#signal(node, 'SIGCONT', isProgram(name));
  }

  #killService(name: string): Undo {
    const { home } = this;
    this.#signal(home, 'SIGKILL', isProgram(name));
    return () => this.#sh(home, `systemctl start ${name}`);
  }

  #hitPacemaker(signal: 'SIGKILL' | 'SIGSTOP'): Undo | undefined {
    const { variant } = this.#stroke;
    const name = variant === 'pacemakerd' ? variant : `pacemaker-${variant}`;
    const node = this.home;
    // The cluster takes a controller that dies, or is silent, for a node that is lost.
    this.cause(['restart', 'fencing'], { node: node.name });
    this.#signal(node, signal, isProgram(name));
    return signal === 'SIGSTOP' ? () => this.#signal(node, 'SIGCONT', isProgram(name)) : undefined;
  }

  /** Waits until the agent is called for the guest, for the action of the variant or for any, on whatever node. */
  async #agentAtWork(): Promise<{ node: LabNode; pid: number; action: string } | undefined> {
    const { variant, lasts } = this.#stroke;
    return await Deadline.in(lasts).poll(10, () => {
      for (const node of this.#field.cluster.lab.nodes.filter((each) => each.isOn)) {
        const agent = processes(node).find(
          ({ pid, argv }) =>
            isProgram('KvmGuest')(argv) &&
            (variant === '' || argv[1] === variant) &&
            environmentOf(pid).includes(`OCF_RESOURCE_INSTANCE=${this.guest.name}`),
        );
        if (agent !== undefined) {
          return { node, pid: agent.pid, action: agent.argv[1] ?? '' };
        }
      }
      return undefined;
    });
  }

  async #hitAgent(signal: 'SIGKILL' | 'SIGSTOP'): Promise<Undo | undefined> {
    const found = await this.#agentAtWork();
    if (found === undefined) {
      return undefined;
    }
    const { node, pid, action } = found;
    // An action that fails is what the cluster recovers from by a restart; of a stop, by fencing the node.
    this.cause(['restart'], this.#ofGuest);
    this.cause(['fencing'], { node: node.name });
    send(pid, signal);
    this.#field.tell(`${node.name}: ${signal} to KvmGuest ${action}`);
    return signal === 'SIGSTOP' ? () => send(pid, 'SIGCONT') : undefined;
  }

  async #cleanUpAmid(): Promise<undefined> {
    const found = await this.#agentAtWork();
    if (found !== undefined) {
      const { node, action } = found;
      this.#field.tell(`${node.name}: KvmGuest ${action} is at work`);
      await this.#sh(node, `crm_resource --cleanup --resource ${this.guest.name}`);
    }
  }

  /** Two operators who do not know of each other, nor ask the cluster. */
  async #operatorsAtOnce(): Promise<undefined> {
    const { old, guest } = this;
    const commands = this.#stroke.variant.split(' ');
    this.cause(['restart'], this.#ofGuest);
    if (commands.includes('resume')) {
      this.#field.recorder.add({ kind: 'resuming', guest: guest.name, node: old.name, at: Date.now() });
    }
    await Promise.all(commands.map((command) => this.#sh(old, `kvmha ${command} ${guest.name}`)));
  }

  /** Lays a full file system over a folder. */
  async #fill(folder: string): Promise<Undo> {
    const { home } = this;
    const at = Date.now();
    const isJournal = folder === '/var/log/kvmha';
    await this.#sh(
      home,
      `mkdir -p ${folder} && mount -t tmpfs -o size=4k,mode=700 full ${folder} && echo >${folder}/full`,
    );
    return async () => {
      await this.#sh(home, `umount -l ${folder}`);
      if (isJournal) {
        const until = Date.now() + 3000;
        this.#field.recorder.add({ kind: 'journal-lost', node: home.name, at: at - 3000, until });
      }
    };
  }

  async #startByHand(): Promise<undefined> {
    const { name, config } = this.guest;
    if (name !== LOCKED_GUEST) {
      return;
    }
    this.cause(['restart'], this.#ofGuest);
    const node = this.#stroke.variant === 'home' ? this.home : this.node;
    await this.#sh(node, `virsh create ${config}`);
  }

  /** Another node than the guest's. */
  get #elsewhere(): LabNode {
    const { home, node } = this;
    const others = this.#field.cluster.lab.nodes.filter(({ name }) => name !== home.name);
    return others.find(({ name }) => name === node.name) ?? (others[0] as LabNode);
  }

  async #move(): Promise<Undo> {
    const { name } = this.guest;
    if (this.#field.isDisturbed) {
      this.cause(['restart'], this.#ofGuest);
    }
    await this.#sh(
      this.#field.cluster.anyNode,
      `crm_resource --move --resource ${name} --node ${this.#elsewhere.name} --quiet`,
    );
    return undefined as unknown as Undo;
  }

  async #migrateByHand(): Promise<undefined> {
    const { name } = this.guest;
    if (name !== LOCKED_GUEST) {
      return;
    }
    this.cause(['restart'], this.#ofGuest);
    this.#field.recorder.movedByHand.add(name);
    try {
      const target = `qemu+tcp://${this.#elsewhere.name}/system`;
      await this.#sh(this.home, `virsh migrate --live --unsafe ${name} ${target}`);
    } finally {
      this.#field.recorder.living(name);
      this.#field.recorder.movedByHand.delete(name);
    }
  }

  /** Two at a time, after a false alarm or what is taken for one. */
  async #resume(): Promise<Undo> {
    const { old, guest } = this;
    const { name } = guest;
    this.cause(['restart'], this.#ofGuest);
    await this.#sh(old, `crm_resource --resource ${name} --meta -p is-managed -v false`);
    this.#field.recorder.add({ kind: 'resuming', guest: name, node: old.name, at: Date.now() });
    await Promise.all([1, 2].map(() => this.#sh(old, `kvmha resume ${name}`)));
    return () =>
      this.#sh(this.#field.cluster.anyNode, `crm_resource --resource ${name} --meta -d is-managed`);
  }
}

/** Gives a node a file system of its own for kvmha's state, until it reboots, so that this alone can be full. */
export async function mountState(node: LabNode): Promise<void> {
  await node.check([
    'sh',
    '-c',
    'mkdir -p /run/kvmha && mount -t tmpfs -o size=50%,mode=700 state /run/kvmha',
  ]);
}

/** The command of whatever node that lets guests run on this one. */
export const endStandby = ({ name }: LabNode): string => `crm_standby --node ${name} -D`;

const FULL_STATE_ENDS =
  'mount -o remount,size=50% /run; mountpoint -q /run/kvmha && mount -o remount,size=50% /run/kvmha';

/** Ends all that was done to a node, and starts what is dead there. */
export async function heal(node: LabNode): Promise<void> {
  await node.heal();
  if (!node.isOn) {
    return;
  }
  for (const { pid } of processes(node)) {
    if (isStopped(pid)) {
      send(pid, 'SIGCONT');
    }
  }
  const script = `
${FULL_STATE_ENDS}
for folder in /var/log/kvmha /var/lib/kvmha/dumps; do mountpoint -q $folder && umount -l $folder; done
iptables -F
tc qdisc del dev eth0 root
systemctl start virtlogd libvirtd corosync pacemaker`;
  await node
    .exec(['timeout', '60', 'sh', '-c', `(${script}) >/dev/null 2>&1`], { timeout: TIMEOUT })
    .catch(() => {});
  // What the start of a service has found stopped a moment ago.
  await sleep(0);
}

function isStopped(pid: number): boolean {
  try {
    return readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ').at(-1)?.startsWith('T') === true;
  } catch {
    return false;
  }
}

function environmentOf(pid: number): string[] {
  try {
    return readFileSync(`/proc/${pid}/environ`, 'utf8').split('\0');
  } catch {
    return [];
  }
}

const isProgram =
  (name: string) =>
  (argv: readonly string[]): boolean =>
    argv[0]?.split('/').at(-1) === name;

const isWatcher = (argv: readonly string[]): boolean => isProgram('kvmha')(argv) && argv[1] === 'watch';

function send(pid: number, signal: NodeJS.Signals): void {
  try {
    if (existsSync(`/proc/${pid}`)) {
      process.kill(pid, signal);
    }
  } catch {
    // It is gone.
  }
}

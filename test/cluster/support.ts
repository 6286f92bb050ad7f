import assert from 'node:assert/strict';
import { closeSync, openSync, readFileSync, readSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { type ClusterView, parseClusterView, type RunningCluster } from '../../lib/cluster/cluster-view.ts';
import { Deadline } from '../../lib/deadline.ts';
import { errnoOf } from '../../lib/error.ts';
import type { Proof } from '../../lib/quiesce/proof.ts';
import type { Classification } from '../../lib/state/classify.ts';
import { Fault, faultEnv } from '../fault/fault.ts';
import { type Domain, domainXml } from '../guest/domain.ts';
import { createDisk, type DiskOptions, readWitness, type Witness } from '../guest/witness.ts';
import { Lab, type LabNode, type LabOptions } from '../lab/client.ts';
import { installedTree } from '../support/agent.ts';
import { block, changed } from '../support/documentation.ts';

/** How long anything that is waited for may take: much longer than it does, on a loaded machine, too. */
const PATIENCE = 90_000;

/** The watcher on every node, as the documentation recommends it. */
export const WATCHERS = `\
primitive kvm-watch ocf:kvmha:KvmWatch \
op start timeout=20s interval=0 op stop timeout=40s interval=0 op monitor timeout=20s interval=5s
clone kvm-watch-clone kvm-watch meta allow-unhealthy-nodes=true
`;

export interface GuestOptions {
  /** What differs from a guest with one raw disk on the directory that all nodes share. */
  readonly domain?: Partial<Domain>;
  readonly settings?: DiskOptions['settings'];
  /** Parameters beside those that a lab's guests need. */
  readonly parameters?: string;
  /** Meta attributes instead of migration-threshold=1, beside those that every guest has. */
  readonly meta?: string;
  /** The interval of the monitor, by default often enough for a test. */
  readonly monitor?: string;
  /** Beside the recommended operations. */
  readonly moreOperations?: string;
  /** The nodes, in order, that it prefers. */
  readonly prefers?: readonly string[];
  /** Without the location rule on the preserved guest's attribute. */
  readonly withoutRule?: boolean;
  /** What runs it instead of ocf:kvmha:KvmGuest; VirtualDomain preserves no guest, so that there is no rule either. */
  readonly agent?: 'ocf:heartbeat:VirtualDomain';
}

/** A lab with a cluster, the installed agent and a fence device. */
export class Cluster implements AsyncDisposable {
  readonly lab: Lab;
  /** Who is asked of the cluster, unless it is off; the first node, unless a test sets another. */
  observer: LabNode;
  readonly #tree: AsyncDisposable | undefined;
  readonly #guests: ClusterGuest[] = [];

  private constructor(lab: Lab, tree: AsyncDisposable | undefined) {
    this.lab = lab;
    this.observer = lab.node(1);
    this.#tree = tree;
  }

  /** @param options as of a lab; without `install`, the agent is built and installed */
  static async up(options: LabOptions = {}): Promise<Cluster> {
    const tree = options.install === undefined ? await installedTree() : undefined;
    try {
      const install = tree?.path ?? options.install ?? '';
      const cluster = new Cluster(await Lab.up({ nodes: 3, ...options, install }), tree);
      await cluster.lab.configureFencing();
      // Pacemaker does less at a time on a busy machine, and the nodes' machine is one, with other labs on it.
      await cluster.configure('property load-threshold=10000%\n');
      return cluster;
    } catch (error) {
      await tree?.[Symbol.asyncDispose]();
      throw error;
    }
  }

  async down(): Promise<void> {
    for (const guest of this.#guests) {
      guest.stopWatching();
    }
    await this.lab.down();
    await this.#tree?.[Symbol.asyncDispose]();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.down();
  }

  node(which: number | string): LabNode {
    return this.lab.node(which);
  }

  /** The observer, or another node that is on. */
  get anyNode(): LabNode {
    const node = [this.observer, ...this.lab.nodes].find((each) => each.isOn);
    assert.ok(node, 'every node is off');
    return node;
  }

  /** Runs a shell command on `node`, that has to succeed. */
  sh(command: string, node: LabNode = this.anyNode): Promise<string> {
    return node.check(['sh', '-c', command], { timeout: PATIENCE });
  }

  /** Adds to the cluster's configuration, in crmsh's words. */
  async configure(text: string): Promise<void> {
    await this.anyNode.check(['crm', 'configure', 'load', 'update', '-'], { input: text });
  }

  /** Makes the disk and the domain XML of a guest, but no resource. */
  async makeGuest(name: string, options: GuestOptions = {}): Promise<ClusterGuest> {
    const guest = new ClusterGuest(this, name, options);
    await guest.make();
    this.#guests.push(guest);
    return guest;
  }

  /** Makes guests with their resources, and waits until each runs. */
  async startGuests<const Guests extends readonly (readonly [name: string, options: GuestOptions])[]>(
    guests: Guests,
  ): Promise<{ [index in keyof Guests]: ClusterGuest }> {
    const made = await Promise.all(guests.map(([name, options]) => this.makeGuest(name, options)));
    await this.configure(made.map((guest) => guest.configuration()).join(''));
    await Promise.all(
      made.map(async (guest) => {
        const node = await guest.runsOn();
        // A fault before the first monitor's end would leave a history without it.
        await this.until(
          `${guest.name} is monitored`,
          async () => (await this.history(guest.name, node.name)).includes('monitor 0') || undefined,
        );
      }),
    );
    return made as { [index in keyof Guests]: ClusterGuest };
  }

  /** Waits until the cluster has nothing to do. */
  async settled(): Promise<void> {
    await this.anyNode.check(['crm_resource', '--wait'], { timeout: PATIENCE });
  }

  /** What the cluster says of a resource, as `node` sees it. */
  async view(resource: string, node: LabNode = this.anyNode): Promise<RunningCluster> {
    let last: ClusterView | undefined;
    const view = await Deadline.in(PATIENCE).poll(100, async () => {
      const include = '--include=none,dc,options,nodes,resources,attributes';
      const { stdout } = await node.exec([
        ...['crm_mon', '--one-shot', '--output-as=xml', '--inactive', include, `--resource=${resource}`],
      ]);
      last = await parseClusterView(stdout, resource, node.name);
      return last.kind === 'cluster' ? last : undefined;
    });
    assert.ok(view, JSON.stringify(last));
    return view;
  }

  /** What a node's transient attribute is; crm_mon hides those whose name begins with #. */
  async attribute(name: string, node: LabNode): Promise<string | undefined> {
    const { stdout } = await this.anyNode.exec(['attrd_updater', '-n', name, '-Q', '-N', node.name]);
    return / value="([^"]*)"/.exec(stdout)?.[1];
  }

  /** What crm_mon shows a person, attributes and failures included. */
  shown(node: LabNode = this.anyNode): Promise<string> {
    return node.check(['crm_mon', '--one-shot', '--show-node-attributes', '--inactive', '--failcounts']);
  }

  /** The nodes that were fenced so far, in order. */
  fenced(): string[] {
    return this.lab.fenceLog().flatMap((line) => / (?:reboot|off) (\S+) exits 0$/.exec(line)?.[1] ?? []);
  }

  /** What the cluster remembers of a resource on a node, as in "stop 0": each operation's last result, in order. */
  async history(resource: string, node: string): Promise<string[]> {
    const xml = await this.anyNode.check([
      ...['crm_mon', '--one-shot', '--output-as=xml', '--include=none,operations', `--resource=${resource}`],
    ]);
    const part = xml.split('<node name=').find((each) => each.startsWith(`"${node}"`)) ?? '';
    const value = (tag: string, name: string) => new RegExp(` ${name}="([^"]*)"`).exec(tag)?.[1] ?? '';
    return [...part.matchAll(/<operation_history [^>]*>/g)].map(
      ([tag]) => `${value(tag, 'task')} ${value(tag, 'rc')}`,
    );
  }

  /** How many failures of a resource on a node the cluster counts. */
  async failCount(resource: string, node: string): Promise<number> {
    const said = await this.sh(`crm_failcount --query --resource=${resource} --node=${node}`);
    return Number(/ value=(\d+)/.exec(said)?.[1]);
  }

  /** Calls a function of lib/ on a node (see call.ts). */
  async call(node: LabNode, name: string, ...args: unknown[]) {
    const script = join(import.meta.dirname, 'call.ts');
    const json = args.map((each) => JSON.stringify(each));
    const command = [process.execPath, script, name, '20000', ...json];
    return JSON.parse(await node.check(command)).result;
  }

  /** Waits until `condition` gives something. */
  async until<T>(
    what: string,
    condition: () => T | undefined | Promise<T | undefined>,
    more: () => string | Promise<string> = () => this.shown(),
  ): Promise<T> {
    const value = await Deadline.in(PATIENCE).poll(100, condition);
    if (value === undefined) {
      assert.fail(`${what}: not in time. ${await more()}\n${await this.#story()}`);
    }
    return value;
  }

  /** What the agent and Pacemaker have logged of late, in the order of time. */
  async #story(): Promise<string> {
    const logs = this.lab.nodes
      .filter((node) => node.isOn)
      .flatMap((node) =>
        readFileSync(node.path('/var/log/syslog'), 'utf8')
          .split('\n')
          .filter((line) => /KvmGuest|pacemaker-(controld|fenced|schedulerd)/.test(line))
          .map((line) => line.replace(' ', ` ${node.name} `)),
      );
    return logs.sort().slice(-100).join('\n');
  }
}

/** A witness guest of a cluster's lab, judged by what it writes. */
export class ClusterGuest {
  readonly name: string;
  readonly disk: string;
  readonly config: string;
  readonly #cluster: Cluster;
  readonly #options: GuestOptions;
  readonly #serial: string;
  readonly #writers: Writer[] = [];
  #watch: { readonly timer: NodeJS.Timeout; readonly file: number } | undefined;

  constructor(cluster: Cluster, name: string, options: GuestOptions) {
    this.name = name;
    this.disk = `/shared/${name}.img`;
    this.config = `/shared/${name}.xml`;
    // On each node's own disk, so that what either side of a cut or a migration was told can be told apart.
    this.#serial = `/var/log/witness/${name}`;
    this.#cluster = cluster;
    this.#options = options;
  }

  get cluster(): Cluster {
    return this.#cluster;
  }

  async make(): Promise<void> {
    const { settings, domain } = this.#options;
    await createDisk(this.#outside(this.disk), settings === undefined ? {} : { settings });
    const xml = domainXml({
      name: this.name,
      // Shareable, so that QEMU's own lock does not keep a second writer away: that is the agent's to do, and where
      // it fails the witness shall see it.
      disks: [{ path: this.disk, shareable: true }],
      serial: this.#serial,
      env: await faultEnv(this.name),
      ...domain,
    });
    this.#cluster.anyNode.write(this.config, xml);
    for (const node of this.#cluster.lab.nodes.filter((each) => each.isOn)) {
      node.write(`${this.#serial}.made`, '');
      // A guest of this name may have been made before.
      rmSync(node.path(this.#serial), { force: true });
    }
    this.watch();
  }

  /** The configuration that the README recommends, with what differs in a lab, in crmsh's words. */
  configuration(): string {
    const {
      parameters = '',
      meta = 'migration-threshold=1',
      monitor = '2s',
      moreOperations = '',
    } = this.#options;
    const { name } = this;
    const { agent = 'ocf:kvmha:KvmGuest', withoutRule = agent !== 'ocf:kvmha:KvmGuest' } = this.#options;
    const [, primitive = '', location = ''] = block('README.md', 'crm configure\n').split('\n');
    const lines = [
      changed(primitive, [
        ['primitive vm1 ocf:kvmha:KvmGuest ', `primitive ${name} ${agent} `],
        [
          'config=/etc/kvmha/vm1.xml',
          `config=${this.config} migration_transport=tcp migrate_options=--unsafe ${parameters}`,
        ],
        ['interval=10s', `interval=${monitor}`],
        [' meta ', ` ${moreOperations} meta `],
        ['migration-threshold=1', meta],
      ]),
      ...(withoutRule ? [] : [changed(location, [[/\bvm1\b/g, name]])]),
      ...(this.#options.prefers ?? []).map(
        (node, index) => `location ${name}-prefers-${index} ${name} ${100 - index}: ${node}`,
      ),
    ];
    return `${lines.join('\n')}\n`;
  }

  /** Lets the storage fail under this guest on one node. */
  fault(node: LabNode): Fault {
    return new Fault(node, this.name);
  }

  /** Waits until the cluster has the guest on one of `places`, and it ticks. Returns the node. */
  async runsOn(...places: readonly (string | LabNode)[]): Promise<LabNode> {
    const names = places.map((place) => (typeof place === 'string' ? place : place.name));
    const node = await this.#cluster.until(
      `${this.name} runs on ${names.join(' or ') || 'a node'}`,
      async () => {
        const { resource } = await this.#cluster.view(this.name);
        const [place] = resource?.activeOn ?? [];
        const fits = resource?.role === 'Started' && !resource.failed && resource.activeOn.length === 1;
        return fits && place !== undefined && (names.length === 0 || names.includes(place))
          ? place
          : undefined;
      },
    );
    await this.ticks();
    return this.#cluster.node(node);
  }

  /** The boots that were seen writing so far, in order. */
  get writers(): readonly Writer[] {
    return this.#writers;
  }

  /** The nodes on which the cluster has the guest. */
  async places(): Promise<readonly string[]> {
    return (await this.#cluster.view(this.name)).resource?.activeOn ?? [];
  }

  /** Waits for further ticks, and returns what is written then. */
  async ticks(count = 3): Promise<Witness> {
    const start = this.witnessTicks();
    await this.#cluster.until(
      `${this.name} ticks`,
      () => (this.witnessTicks() > start + count ? true : undefined),
      async () => `it stands at ${this.witnessTicks()}. ${await this.#cluster.shown()}`,
    );
    return this.witness();
  }

  /** Which boot of the guest ticks now: the same after a live migration, another after a restart. */
  async boot(): Promise<{ boots: number; instance: number }> {
    const { tickBoot, instance } = await this.ticks();
    return { boots: tickBoot, instance };
  }

  /** Ends the preserved copy on a node, as an operator does. */
  async release(node: LabNode): Promise<void> {
    await node.check(['kvmha', 'release', this.name]);
  }

  witness(): Promise<Witness> {
    return readWitness(this.#outside(this.disk));
  }

  witnessTicks(): number {
    return this.#writers.at(-1)?.lastTick ?? 0;
  }

  /** libvirt's word for the domain on a node: "paused (I/O error)", or "" when it knows none. */
  async state(node: LabNode): Promise<string> {
    return (await node.exec(['virsh', 'domstate', '--reason', this.name])).stdout.trim();
  }

  /** The guest's qemu processes on a node, by the node's numbers. */
  async pids(node: LabNode): Promise<number[]> {
    const { stdout } = await node.exec(['pgrep', '-f', `^\\S*qemu-system-x86_64 -name guest=${this.name},`]);
    return stdout.split('\n').filter(Boolean).map(Number);
  }

  /** A whole look at the guest on a node, and what the agent makes of it. */
  look(node: LabNode): Promise<Classification & { readonly proof?: Proof }> {
    return this.#cluster.call(node, 'look', this.name);
  }

  /** Presses a key of the guest's keyboard. */
  async press(node: LabNode, key: string): Promise<void> {
    await node.check(['virsh', 'send-key', this.name, `KEY_${key.toUpperCase()}`]);
  }

  /** Begins to read every tick that is written to the disk, and who wrote it. */
  watch(): void {
    if (this.#watch !== undefined) {
      return;
    }
    const file = openSync(this.#outside(this.disk), 'r');
    const record = Buffer.alloc(16);
    const timer = setInterval(() => {
      readSync(file, record, 0, 16, 16 * 512);
      this.#sawTick(record.readUInt32LE(4), record.readUInt32LE(8), record.readUInt32LE(12));
    }, 10);
    timer.unref();
    this.#watch = { timer, file };
  }

  stopWatching(): void {
    if (this.#watch !== undefined) {
      clearInterval(this.#watch.timer);
      closeSync(this.#watch.file);
      this.#watch = undefined;
    }
  }

  #sawTick(boot: number, tick: number, instance: number): void {
    const last = this.#writers.at(-1);
    if (boot === 0) {
      return;
    }
    if (last?.boot === boot && last.instance === instance && tick >= last.lastTick) {
      last.lastTick = tick;
    } else {
      this.#writers.push({ boot, instance, firstTick: tick, lastTick: tick, since: Date.now() });
    }
  }

  /**
   * Judges all that the guest has written and was told since it was made: at every moment one writer, and no write
   * lost that the guest was told is done.
   *
   * @returns the boots that have written, in order
   */
  async judge(): Promise<readonly Writer[]> {
    // First what the guests were told, then the disk: what was written in between is no loss.
    const told = this.#cluster.lab.nodes.map((node) => ({ node: node.name, ...this.#readSerial(node) }));
    const { ticks, boots } = await this.witness();
    const story = JSON.stringify({ writers: this.#writers, disk: { ticks, boots } });
    let before: Writer | undefined;
    for (const writer of this.#writers) {
      const where = `${this.name}: boot ${writer.boot} wrote tick ${writer.firstTick}`;
      if (before !== undefined) {
        assert.ok(writer.boot > before.boot, `${where} after boot ${before.boot} had begun: ${story}`);
        assert.ok(writer.firstTick >= before.lastTick, `${where} after ${before.lastTick}: ${story}`);
      }
      before = writer;
    }
    const by = new Map<number, string>();
    for (const { node, ticks: acknowledged, boots: booted } of told) {
      let last = 0;
      for (const tick of acknowledged) {
        assert.ok(tick > last, `${this.name} on ${node} was told tick ${tick} after ${last}: ${story}`);
        assert.equal(by.get(tick), undefined, `${this.name}: tick ${tick} was done on two nodes: ${story}`);
        assert.ok(tick <= ticks, `${this.name} on ${node} was told tick ${tick}, which is lost: ${story}`);
        by.set(tick, node);
        last = tick;
      }
      for (const boot of booted) {
        assert.ok(boot <= boots, `${this.name} on ${node} was told boot ${boot}, which is lost: ${story}`);
      }
    }
    const all = told.flatMap((each) => each.boots);
    assert.equal(new Set(all).size, all.length, `${this.name}: two guests counted the same boot: ${story}`);
    return this.#writers;
  }

  /** What the guest was told on a node is done, also while the node is off. */
  #readSerial(node: LabNode): { ticks: number[]; boots: number[] } {
    const file = join(
      `/proc/${this.#cluster.lab.pid}/root`,
      this.#cluster.lab.layout.nodeDirectory(node.name),
      'upper',
    );
    let text = '';
    try {
      text = readFileSync(join(file, this.#serial), 'latin1');
    } catch (error) {
      assert.equal(errnoOf(error), 'ENOENT');
    }
    const numbers = (pattern: RegExp) =>
      [...text.matchAll(pattern)].map(([, number = '']) => Number.parseInt(number, 16));
    return { ticks: numbers(/^T([0-9a-f]{8})\r$/gm), boots: numbers(/^B([0-9a-f]{8}) [0-9a-f]{8}\r$/gm) };
  }

  #outside(path: string): string {
    return this.#cluster.lab.shared(path.slice('/shared/'.length));
  }
}

/** One boot of a guest, as it was seen writing. */
export interface Writer {
  readonly boot: number;
  readonly instance: number;
  readonly firstTick: number;
  lastTick: number;
  /** When the first tick was seen on the disk: milliseconds since 1970, some 10 ms late. */
  readonly since: number;
}

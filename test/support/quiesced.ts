import assert from 'node:assert/strict';
import { join } from 'node:path';
import { Deadline, sleep } from '../../lib/deadline.ts';
import { KvmhaError } from '../../lib/error.ts';
import { prepareDomainXml } from '../../lib/libvirt/domain-xml.ts';
import { type Json, QmpSocket } from '../../lib/qemu/qmp.ts';
import { isComplete, missingItems, type Proof } from '../../lib/quiesce/proof.ts';
import type { ResumeOutcome } from '../../lib/quiesce/resume.ts';
import type { QuiesceOutcome } from '../../lib/quiesce/sequence.ts';
import { uuidForName } from '../../lib/record/directory.ts';
import type { Output } from '../../lib/run.ts';
import { Fault, faultEnv } from '../fault/fault.ts';
import { type Disk, type Domain, domainXml } from '../guest/domain.ts';
import { createDisk, type Place, readWitness, type Witness, waitForTicks } from '../guest/witness.ts';
import type { LabNode } from '../lab/client.ts';
import type { Blow, Order, Report } from './quiesce-run.ts';

export interface GuestDisk extends Disk {
  /** `-o` of qemu-img create for its image. */
  readonly options?: string;
}

export interface GuestOptions extends Omit<Domain, 'name' | 'uuid'> {
  /** The disks; the first boots the witness. Their images are made where they have a path below /shared. */
  readonly disks: readonly GuestDisk[];
  /** The emulator, instead of libvirt's default. */
  readonly emulator?: string | undefined;
  /** Start it as libvirt would by itself, without QMP sockets of the agent's. */
  readonly withoutSockets?: boolean;
  /** Start it past the agent, which would note its connections to servers of disks. */
  readonly unnoted?: boolean;
  readonly persistent?: boolean;
  /** What is to be changed of its XML. */
  readonly edit?: (xml: string) => string;
}

const RUNNER = join(import.meta.dirname, 'quiesce-run.ts');
const SOCKETS = '/run/libvirt/qemu/kvmha';

/** What a node needs for guests that have QMP sockets for the agent. */
export const MAKE_SOCKET_FOLDERS = `mkdir -p ${SOCKETS}/agent ${SOCKETS}/watcher`;

/** Milliseconds in which anything that is waited for must have come. */
const PATIENCE = 20_000;

/** A guest of a lab's node that is to be quiesced, with failing storage at hand. */
export class QuiesceGuest {
  readonly node: LabNode;
  readonly name: string;
  readonly uuid: string;
  readonly options: GuestOptions;
  readonly fault: Fault;

  private constructor(node: LabNode, name: string, options: GuestOptions) {
    this.node = node;
    this.name = name;
    this.uuid = uuidForName(name);
    this.options = options;
    this.fault = new Fault(node, `fault-${name}`);
  }

  /** Makes the images that are not there yet, starts the guest and waits until it ticks. */
  static async running(node: LabNode, name: string, options: GuestOptions): Promise<QuiesceGuest> {
    const guest = await QuiesceGuest.started(node, name, options);
    await guest.ticks();
    return guest;
  }

  /** As `running`, for a guest that cannot tick. */
  static async started(node: LabNode, name: string, options: GuestOptions): Promise<QuiesceGuest> {
    const guest = new QuiesceGuest(node, name, options);
    await QuiesceGuest.makeImages(node, options.disks);
    await guest.start();
    return guest;
  }

  /** Makes the images below /shared that are not there yet; the first boots the witness. */
  static async makeImages(node: LabNode, disks: readonly GuestDisk[]): Promise<void> {
    for (const [index, disk] of disks.entries()) {
      const { path, format = 'raw', options } = disk;
      if (path?.startsWith('/shared/') && (await node.exec(['test', '-e', path])).exitCode !== 0) {
        const content = index === 0 ? 'boot' : disk.device === 'cdrom' || disk.readonly ? 'blank' : 'data';
        await createDisk(path, { node, format, content, ...(options === undefined ? {} : { options }) });
      }
    }
  }

  /** The same guest once it is on another node. */
  on(node: LabNode): QuiesceGuest {
    return new QuiesceGuest(node, this.name, this.options);
  }

  async start(): Promise<void> {
    const xml = `/shared/${this.name}.xml`;
    this.node.write(xml, await this.#xml());
    await this.node.check(['sh', '-c', MAKE_SOCKET_FOLDERS]);
    if (this.options.persistent) {
      await this.virsh('define', xml);
      await this.virsh('start', this.name);
    } else if (this.options.disks.some(({ nbd }) => nbd !== undefined) && !this.options.unnoted) {
      await this.virsh('create', xml, '--paused');
      const { error } = await this.quiesce({ noteConnections: true });
      assert.equal(error, undefined);
      await this.virsh('resume', this.name);
    } else {
      await this.virsh('create', xml);
    }
  }

  async #xml(): Promise<string> {
    const { emulator, withoutSockets } = this.options;
    const whole = domainXml({
      ...this.options,
      name: this.name,
      uuid: this.uuid,
      env: { ...(await faultEnv(`fault-${this.name}`)), ...this.options.env },
      devices: `${emulator === undefined ? '' : `<emulator>${emulator}</emulator>`}${this.options.devices ?? ''}`,
    });
    const plain = this.options.edit?.(whole) ?? whole;
    return withoutSockets
      ? plain
      : prepareDomainXml(plain, {
          agentSocket: this.#socket('agent'),
          watcherSocket: this.#socket('watcher'),
          setErrorPolicy: false,
        });
  }

  #socket(client: 'agent' | 'watcher'): string {
    return `${SOCKETS}/${client}/${this.name}.pid`;
  }

  get disk(): string {
    return this.options.disks[0]?.path ?? '';
  }

  #place(): Place {
    return { node: this.node, format: this.options.disks[0]?.format ?? 'raw' };
  }

  ticks(count = 2): Promise<Witness> {
    return waitForTicks(this.disk, count, this.#place(), Deadline.in(PATIENCE));
  }

  witness(): Promise<Witness> {
    return readWitness(this.disk, this.#place());
  }

  /** Lets requests of the first disk (or of `part`) fail until the guest is paused by it. */
  async failing(letters = 'W', part = this.disk): Promise<void> {
    this.fault.set(letters, part);
    await this.runstate('io-error');
  }

  /** Waits for a runstate as `query-status` says it. */
  async runstate(wanted: string): Promise<void> {
    let last = '';
    const reached = await Deadline.in(PATIENCE).poll(20, async () => {
      const answer = (await this.qmp('query-status')) as { status: string };
      last = answer.status;
      return last === wanted || undefined;
    });
    assert.ok(reached, `${this.name} should be ${wanted} but is ${last}`);
  }

  /** Waits until something is so. */
  async until(condition: () => Promise<boolean>): Promise<void> {
    const reached = await Deadline.in(PATIENCE).poll(20, async () => (await condition()) || undefined);
    assert.ok(reached, `${this.name}: what was waited for did not come: ${condition}`);
  }

  /** The fault as a blow in the middle of being quiesced; by default to all images of the guest. */
  blow(letters: string, part = `/${this.name}.`): Blow {
    return { flag: `/run/lab/fault-${this.name}`, rules: `${letters} ${part}\n` };
  }

  /** Quiesces the guest by the library, in a process of the node. */
  async quiesce(order: Partial<Order> = {}, env: Readonly<Record<string, string>> = {}): Promise<Report> {
    const timeout = order.timeout ?? 20_000;
    const { name, uuid } = this;
    const socket = this.options.withoutSockets ? undefined : this.#socket('agent');
    const whole: Order = { name, uuid, socket, ...order, timeout };
    const { exitCode, stdout, stderr } = await this.node.exec(
      [process.execPath, RUNNER, JSON.stringify(whole)],
      { timeout: timeout + 20_000, env },
    );
    if (exitCode === 128 + 9) {
      return { steps: [], commands: [], took: 0 };
    }
    assert.equal(exitCode, 0, `${stdout}${stderr}`);
    return JSON.parse(stdout) as Report;
  }

  /** Quiesces the guest, which must be proved. */
  async preserve(order: Partial<Order> = {}): Promise<Report> {
    const report = await this.quiesce(order);
    assert.equal(report.outcome?.kind, 'proved', JSON.stringify(report));
    return report;
  }

  /** Resumes the guest by the library, in a process of the node. */
  async resume(order: Partial<Order> = {}): Promise<ResumeOutcome | undefined> {
    const { resumed, error } = await this.quiesce({ resume: [], ...order });
    assert.equal(error, undefined);
    return resumed;
  }

  /** Resumes the guest, which must go on where it stopped, and lose no write. */
  async resumes(): Promise<void> {
    const before = await this.witness();
    assert.deepEqual(await this.resume(), { kind: 'resumed', runstate: 'running' });
    const after = await this.ticks();
    assert.deepEqual([after.instance, after.boots], [before.instance, before.boots], 'it was started anew');
    assert.equal(await this.proof(), undefined, 'it is recorded as quiesced');
  }

  /** Looks for the proof, changing nothing. */
  async proof(): Promise<Proof | undefined> {
    return (await this.quiesce({ observeOnly: true })).proof;
  }

  async assertProved(after: string): Promise<void> {
    const proof = await this.proof();
    const missing = missingItems(proof).map((item) => `${item}: ${proof?.[item]?.seen}`);
    assert.ok(isComplete(proof), `after ${after} the proof lacks ${missing.join('; ')}`);
  }

  /** It ticks, at once or, where it is paused, when it is resumed; and it has not been started anew. */
  async goesOn(): Promise<void> {
    const before = await this.witness();
    const { running } = (await this.qmp('query-status')) as { running: boolean };
    if (!running) {
      await this.qmp('cont');
    }
    const after = await this.ticks();
    assert.equal(after.instance, before.instance);
  }

  /** A QMP command through the monitor that is not the agent's. */
  async qmp(command: string, args: { readonly [key: string]: Json } = {}): Promise<Json> {
    const deadline = Deadline.in(PATIENCE);
    if (this.options.withoutSockets) {
      const request = JSON.stringify({ execute: command, arguments: args });
      const answer = JSON.parse(await this.virsh('qemu-monitor-command', this.name, request));
      if (answer.error !== undefined) {
        throw new KvmhaError('qmp-error', `${command}: ${answer.error.desc}`);
      }
      return answer.return;
    }
    const monitor = await QmpSocket.connect(this.node.path(this.#socket('watcher')), deadline);
    try {
      return await monitor.execute(command, args, deadline);
    } finally {
      monitor.close();
    }
  }

  /** The name of the block node that the images at `path` are read by. */
  async formatNode(path: string): Promise<string> {
    const nodes = (await this.qmp('query-named-block-nodes')) as readonly {
      'node-name': string;
      drv: string;
      file: string;
    }[];
    const node = nodes.find(({ drv, file }) => drv !== 'file' && file === path);
    assert.ok(node, `QEMU has no node for ${path}: ${JSON.stringify(nodes)}`);
    return node['node-name'];
  }

  /** Whether its QEMU has this command. */
  async knows(command: string): Promise<boolean> {
    const commands = (await this.qmp('query-commands')) as readonly { name: string }[];
    return commands.some(({ name }) => name === command);
  }

  virsh(...words: string[]): Promise<string> {
    return this.node.check(['virsh', ...words]);
  }

  tryVirsh(...words: string[]): Promise<Output> {
    return this.node.exec(['virsh', ...words]);
  }

  /** What the process of its qemu is called in the node; undefined when there is none. */
  async pid(): Promise<number | undefined> {
    const { stdout } = await this.node.exec(['pgrep', '-f', `guest=${this.name},`]);
    return stdout.trim() === '' ? undefined : Number(stdout.trim().split('\n')[0]);
  }

  /** Ends the guest and forgets what was recorded of it. */
  async end(): Promise<void> {
    this.fault.clear();
    await this.tryVirsh('destroy', this.name);
    await this.node.exec(['rm', '-rf', `/run/kvmha/guests/${this.uuid}`]);
  }

  /**
   * Another guest boots from the same images, writes to them, and loses no acknowledged write of the first; that one
   * writes nothing any more, whatever is done to it meanwhile. As on another node, this qemu opens the images while the first one is still there.
   */
  async runsElsewhere(meanwhile: () => Promise<unknown> = () => sleep(300)): Promise<void> {
    const left = await this.witness();
    const { serial: _, ...same } = this.options;
    const options = { ...same, persistent: false, withoutSockets: true, unnoted: true, env: {} };
    const other = new QuiesceGuest(this.node, `${this.name}-elsewhere`, options);
    await other.start();
    const begun = await other.ticks();
    assert.equal(begun.boots, left.boots + 1);
    await meanwhile();
    const later = await other.ticks();
    assert.equal(later.instance, begun.instance, 'two guests write');
    assert.equal(later.boots, begun.boots);
    assert.ok(later.ticks > left.ticks, 'an acknowledged write was lost');
    await other.end();
    for (const { path, format, elements } of this.options.disks) {
      if (path !== undefined && format === 'qcow2' && !elements?.includes('<encryption ')) {
        await this.node.check(['qemu-img', 'check', '-q', path]);
      }
    }
  }
}

/** The reasons of a refusal. */
export function refusal({ outcome, ...rest }: Report): string {
  if (rest.error !== undefined) {
    return rest.error; // nothing was changed, as with a refusal
  }
  assert.equal(outcome?.kind, 'refused', JSON.stringify({ outcome, ...rest }));
  return (outcome as Extract<QuiesceOutcome, { kind: 'refused' }>).reasons.join('; ');
}

/** The failed step and its reason. */
export function failure({ outcome, ...rest }: Report): Extract<QuiesceOutcome, { kind: 'failed' }> {
  assert.equal(outcome?.kind, 'failed', JSON.stringify({ outcome, ...rest }));
  return outcome as Extract<QuiesceOutcome, { kind: 'failed' }>;
}

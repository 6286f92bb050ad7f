import assert from 'node:assert/strict';
import { readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { Deadline } from '../../lib/deadline.ts';
import { type Json, QmpSocket } from '../../lib/qemu/qmp.ts';
import { faultEnv } from '../fault/fault.ts';
import type { Disk, Domain } from '../guest/domain.ts';
import { createDisk, type DiskOptions, readWitness, type Witness, waitForTicks } from '../guest/witness.ts';
import { Lab, type LabNode } from '../lab/client.ts';
import { type Answer, type Call, installedTree, Resource } from './agent.ts';

/** Milliseconds in which anything that is waited for must have come. */
const PATIENCE = 20_000;

/**
 * The policy of the node: quiescing is not limited, because each test stands for a fault of its own, and no other
 * node is asked for, because there is no cluster.
 */
const POLICY = `\
quiesce:
  storm: { guests: 1000, seconds: 1 }
  require-eligible-node: false
`;

/** What differs from an ordinary guest: one disk /shared/NAME.img without host cache, and failing storage at hand. */
export interface GuestOptions extends Omit<Domain, 'name' | 'disks' | 'uuid'> {
  readonly uuid?: string | 'none';
  /** Of the disk. With a path of its own, the image /shared/NAME.img must be what lies behind that. */
  readonly disk?: Disk;
  readonly settings?: DiskOptions['settings'];
  /** Of the resource. */
  readonly parameters?: Readonly<Record<string, string>>;
}

/** A lab of one node with libvirt and the installed agent. */
export class Host implements AsyncDisposable {
  readonly node: LabNode;
  readonly #disposables: AsyncDisposableStack;

  private constructor(node: LabNode, disposables: AsyncDisposableStack) {
    this.node = node;
    this.#disposables = disposables;
  }

  static async up(): Promise<Host> {
    await using starting = new AsyncDisposableStack();
    const tree = starting.use(await installedTree());
    const lab = starting.use(await Lab.up({ nodes: 1, cluster: false, install: tree.path }));
    const node = lab.node(1);
    node.write('/etc/kvmha/policy.yaml', POLICY);
    return new Host(node, starting.move());
  }

  /** A node of a lab with the installed agent; the lab is somebody else's to take down. */
  static of(node: LabNode): Host {
    node.write('/etc/kvmha/policy.yaml', POLICY);
    return new Host(node, new AsyncDisposableStack());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#disposables.disposeAsync();
  }

  /** A guest of its own, configured and with a disk, but not started. */
  async guest(name: string, options: GuestOptions = {}): Promise<TestGuest> {
    const { disk, settings, parameters, uuid, ...rest } = options;
    const image = `/shared/${name}.img`;
    const domain: Domain = {
      name,
      ...(uuid === 'none' ? {} : { uuid: uuid ?? uuidOf(name) }),
      env: await faultEnv(faultOf(name)),
      ...rest,
      disks: [{ path: image, ...disk }],
    };
    const format = disk?.format ?? 'raw';
    if (disk?.path === undefined) {
      await createDisk(image, { node: this.node, format, ...(settings === undefined ? {} : { settings }) });
    }
    const guest = new TestGuest(this.node, domain, image, parameters);
    guest.resource.configure(this.node);
    return guest;
  }

  /** A guest that the agent has started and that has written to its disk. */
  async running(name: string, options: GuestOptions = {}): Promise<TestGuest> {
    const guest = await this.guest(name, options);
    answers(await guest.call('start'), 0);
    await guest.ticks();
    return guest;
  }

  /** Runs a virsh command that has to succeed. */
  virsh(...words: string[]): Promise<string> {
    return this.node.check(['virsh', '--quiet', ...words]);
  }

  /** Stops the processes of this name by a signal, until the returned function is called. */
  async freeze(name: string): Promise<() => void> {
    const pids = processesNamed(this.node, name);
    assert.ok(pids.length > 0, `no ${name} runs`);
    for (const pid of pids) {
      process.kill(pid, 'SIGSTOP');
      await until(`${name} to stand still`, () => stat(pid).startsWith('stopped'));
    }
    return () => this.thaw(name);
  }

  /** Lets the processes of this name go on, whether or not they were stopped. */
  thaw(name: string): void {
    for (const pid of processesNamed(this.node, name)) {
      process.kill(pid, 'SIGCONT');
    }
  }

  /** Runs `work` while libvirtd is dead, or ends by another signal, and starts it again. */
  async withoutLibvirtd<T>(work: () => Promise<T>, signal: 'SIGKILL' | 'SIGTERM' = 'SIGKILL'): Promise<T> {
    for (const pid of processesNamed(this.node, 'libvirtd')) {
      process.kill(pid, signal);
    }
    if (signal === 'SIGKILL') {
      await until('libvirtd to be dead', () => processesNamed(this.node, 'libvirtd').length === 0);
    }
    try {
      return await work();
    } finally {
      await this.node.check(['systemctl', 'start', 'libvirtd']);
      await this.node.waitUntilReady();
    }
  }
}

/** A guest with one disk as a resource on the only node. */
export class TestGuest {
  readonly node: LabNode;
  readonly resource: Resource;
  readonly name: string;
  readonly disk: string;

  constructor(
    node: LabNode,
    domain: Domain,
    disk: string,
    parameters: Readonly<Record<string, string>> = {},
  ) {
    this.node = node;
    this.resource = new Resource(domain, parameters);
    this.name = domain.name;
    this.disk = disk;
  }

  call(action: string, call: Call = {}): Promise<Answer> {
    return this.resource.call(this.node, action, call);
  }

  probe(call: Call = {}): Promise<Answer> {
    return this.resource.probe(this.node, call);
  }

  monitor(call: Call = {}): Promise<Answer> {
    return this.call('monitor', call);
  }

  /** A recurring monitor with role=Stopped, as for a node that must not run the guest. */
  monitorOfStopped(call: Call = {}): Promise<Answer> {
    return this.call('monitor', { ...call, meta: { role: 'Stopped', ...call.meta } });
  }

  stop(call: Call = {}): Promise<Answer> {
    return this.call('stop', call);
  }

  /** What the guest has written. */
  witness(): Promise<Witness> {
    const format = this.resource.domain.disks?.[0]?.format ?? 'raw';
    return readWitness(this.disk, { node: this.node, format });
  }

  /** Waits until the guest has gone on writing. */
  ticks(count = 2): Promise<Witness> {
    const format = this.resource.domain.disks?.[0]?.format ?? 'raw';
    return waitForTicks(this.disk, count, { node: this.node, format });
  }

  /** Presses a key that the witness knows. */
  async press(key: string): Promise<void> {
    await this.node.check(['virsh', 'send-key', this.name, `KEY_${key.toUpperCase()}`]);
  }

  /** The name that `Fault` knows its storage by. */
  get fault(): string {
    return faultOf(this.name);
  }

  /** Waits until libvirt says this of it, as in "paused (I/O error)". */
  async untilState(wanted: string): Promise<void> {
    await until(
      `${this.name} to be ${wanted}`,
      async () => (await this.resource.state(this.node)) === wanted,
    );
  }

  /** Pids, as seen from the test, of qemu processes of this guest. */
  pids(): number[] {
    return processes(this.node)
      .filter(
        ({ comm, argv }) => comm.startsWith('qemu') && argv.includes(`guest=${this.name},debug-threads=on`),
      )
      .map(({ pid }) => pid);
  }

  /** The pid, as seen from the test, of its only qemu. */
  pid(): number {
    const [pid, ...others] = this.pids();
    assert.ok(
      pid !== undefined && others.length === 0,
      `${this.name} has ${this.pids().length} qemu processes`,
    );
    return pid;
  }

  /** Stops its qemu by a signal. */
  async freeze(): Promise<void> {
    const pid = this.pid();
    process.kill(pid, 'SIGSTOP');
    await until('its qemu to stand still', () => stat(pid).startsWith('stopped'));
  }

  /** Asks its QEMU over the QMP socket that the agent leaves to the watcher. */
  async qmp(command: string, args: { readonly [key: string]: Json } = {}): Promise<Json> {
    const deadline = Deadline.in(PATIENCE);
    const socket = await QmpSocket.connect(
      this.node.path(`/run/libvirt/qemu/kvmha/watcher/${this.name}.pid`),
      deadline,
    );
    try {
      return await socket.execute(command, args, deadline);
    } finally {
      socket.close();
    }
  }

  /**
   * Everything that a probe must leave as it is: the processes, what is recorded of the guest, what libvirt and QEMU
   * say of it and what its qemu has open. What cannot be seen while something is frozen is left out by `blind`; so is
   * the note that libvirt makes when QEMU is asked through it.
   */
  async everything(blind: readonly ('libvirt' | 'qemu')[] = []): Promise<Record<string, unknown>> {
    const { uuid } = this.resource.domain;
    const pids = this.pids();
    return {
      processes: pids.map((pid) => ({ pid, stat: stat(pid), files: openFiles(pid) })),
      records: filesBelow(this.node.path('/run/kvmha/guests')).filter(
        (file) => uuid === undefined || file.includes(uuid),
      ),
      sockets: filesBelow(this.node.path('/run/libvirt/qemu/kvmha')).filter((file) =>
        file.includes(`/${this.name}.pid`),
      ),
      config: fileFacts(this.node.path(this.resource.config)),
      libvirt: blind.includes('libvirt') ? 'not asked' : await this.#facts(),
      state: blind.includes('libvirt') ? 'not asked' : await this.resource.state(this.node),
      qmp:
        blind.includes('qemu') || pids.length === 0
          ? 'not asked'
          : [await this.tryQmp('query-status'), await this.tryQmp('query-named-block-nodes')],
    };
  }

  /** What `virsh dominfo` says, without what changes by itself or by asking. */
  async #facts(): Promise<string[]> {
    const { stdout } = await this.node.exec(['virsh', 'dominfo', this.name]);
    return stdout.split('\n').filter((line) => /^[A-Z]/.test(line) && !/^(CPU time|Messages)/.test(line));
  }

  async tryQmp(command: string): Promise<unknown> {
    try {
      const answer = await this.qmp(command);
      return JSON.parse(JSON.stringify(answer, (key, value) => (key === 'image' ? undefined : value)));
    } catch (error) {
      return String(error);
    }
  }

  /** Writes a second definition of the guest's disk, as another node would have it, and runs it. */
  async runElsewhere(): Promise<Witness> {
    const other = new Resource({ name: `${this.name}.elsewhere`, disks: this.resource.domain.disks ?? [] });
    other.configure(this.node);
    await this.node.check(['virsh', 'create', other.config]);
    try {
      return await this.ticks();
    } finally {
      await this.node.check(['virsh', 'destroy', other.domain.name]);
    }
  }
}

/** Fails unless the agent exited with `code`; shows why it did not. */
export function answers(answer: Answer, code: number, reason?: RegExp): void {
  assert.equal(
    answer.exitCode,
    code,
    `exited ${answer.exitCode}, not ${code}: ${answer.reason ?? 'without a reason'}\n${answer.stderr}`,
  );
  if (reason !== undefined) {
    assert.match(answer.reason ?? '', reason);
  }
  assert.doesNotMatch(`${answer.stdout}${answer.stderr}`, /^\s+at .*:\d+/m, 'a stack trace was shown');
}

/** Waits until `condition` holds. */
export async function until(what: string, condition: () => boolean | Promise<boolean>): Promise<void> {
  const held = await Deadline.in(PATIENCE).poll(30, async () => (await condition()) || undefined);
  assert.ok(held, `timed out waiting for ${what}`);
}

/** A uuid that belongs to this name. */
export function uuidOf(name: string): string {
  const hex = Buffer.from(name.padEnd(16, '.')).toString('hex').slice(-32);
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-4${hex.slice(13, 16)}-8${hex.slice(17, 20)}-${hex.slice(20)}`;
}

function faultOf(name: string): string {
  return `fault-${name}`;
}

interface Process {
  readonly pid: number;
  readonly comm: string;
  readonly argv: readonly string[];
}

/** The processes of a node, with the pids that this process sees. */
export function processes(node: LabNode): Process[] {
  const namespace = readlinkSync(`/proc/${node.pid}/ns/pid`);
  return readdirSync('/proc')
    .filter((name) => /^[0-9]+$/.test(name))
    .flatMap((name) => {
      try {
        if (readlinkSync(`/proc/${name}/ns/pid`) !== namespace) {
          return [];
        }
        const argv = readFileSync(`/proc/${name}/cmdline`, 'utf8').split('\0').slice(0, -1);
        return [{ pid: Number(name), comm: readFileSync(`/proc/${name}/comm`, 'utf8').trim(), argv }];
      } catch {
        return []; // It has just ended.
      }
    });
}

/** Pids, as this process sees them, of the node's processes whose program has this name. */
export function processesNamed(node: LabNode, comm: string): number[] {
  return processes(node)
    .filter((process) => process.comm === comm)
    .map(({ pid }) => pid);
}

/** Start time and whether a signal has stopped it. */
function stat(pid: number): string {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ').at(-1)?.split(' ') ?? [];
  return `${/[Tt]/.test(fields[0] ?? '') ? 'stopped' : 'not stopped'} ${fields[19]} ${readFileSync(`/proc/${pid}/oom_score_adj`, 'utf8').trim()}`;
}

/** Files, not sockets and the like, that it has open. */
function openFiles(pid: number): string[] {
  return readdirSync(`/proc/${pid}/fd`)
    .flatMap((fd) => {
      try {
        const target = readlinkSync(`/proc/${pid}/fd/${fd}`);
        return target.startsWith('/shared/') || target.startsWith('/var/lib/libvirt/') ? [target] : [];
      } catch {
        return [];
      }
    })
    .sort();
}

function filesBelow(directory: string): string[] {
  try {
    return readdirSync(directory, { recursive: true, encoding: 'utf8' })
      .map((name) => fileFacts(join(directory, name)))
      .sort();
  } catch {
    return [];
  }
}

function fileFacts(path: string): string {
  try {
    const { mtimeNs, ctimeNs, size } = statSync(path, { bigint: true });
    return `${path} ${size} ${mtimeNs} ${ctimeNs}`;
  } catch {
    return `${path} is not there`;
  }
}

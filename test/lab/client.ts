import { type ChildProcess, type SpawnOptions, spawn } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { constants } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { Deadline } from '../../lib/deadline.ts';
import { KvmhaError, messageOf } from '../../lib/error.ts';
import type { Output } from '../../lib/run.ts';
import { isAlive, Layout, type Mark, readMark } from './layout.ts';
import { askPower, type NodeAction } from './power-protocol.ts';
import type { PowerSwitchConfig } from './power-switch.ts';

export interface LabOptions {
  /** 1 to 5, by default 3. They are called node1, node2, ... */
  readonly nodes?: number;
  /** Whether corosync and Pacemaker run beside libvirt. By default they do. */
  readonly cluster?: boolean;
  /** The lab's directory on the host; by default a fresh one below the temporary directory. */
  readonly directory?: string;
  /** A tree (as `make install DESTDIR=` leaves it) that every node sees laid over the host's root. */
  readonly install?: string;
  /** Lines for the nodes' /etc/libvirt/qemu.conf; they override the lab's own. */
  readonly qemuConf?: string;
  /** Milliseconds until the lab must be ready, by default two minutes. */
  readonly timeout?: number;
}

export interface ExecOptions {
  /** The environment beside PATH, HOME and LANG; nothing of this process's own is passed on. */
  readonly env?: Readonly<Record<string, string>>;
  /** Text for standard input. */
  readonly input?: string;
  /** Milliseconds until the command and its children are killed, by default one minute. */
  readonly timeout?: number;
}

const SOURCE = resolve(import.meta.dirname, '../..');
const UP_TIMEOUT = 120_000;
const DOWN_TIMEOUT = 60_000;
const POWER_TIMEOUT = 40_000;
const EXEC_TIMEOUT = 60_000;

/** What a command in a node starts with. */
const ENVIRONMENT = {
  PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
  HOME: '/root',
  LANG: 'C.UTF-8',
  TERM: 'dumb',
};

/**
 * A lab: hosts of their own (namespaces over a copy-on-write view of this host's root) with libvirt, and a
 * cluster over them if asked for. See README.md.
 */
export class Lab implements AsyncDisposable {
  readonly layout: Layout;
  readonly nodes: readonly LabNode[];
  readonly cluster: boolean;
  readonly #mark: Mark;
  /** unshare(1), the parent of the power switch, in the process that created the lab. */
  readonly #process: ChildProcess | undefined;

  private constructor(layout: Layout, mark: Mark, process?: ChildProcess) {
    this.layout = layout;
    this.nodes = mark.nodes.map((name) => new LabNode(layout, name));
    this.cluster = mark.cluster;
    this.#mark = mark;
    this.#process = process;
  }

  /**
   * Builds a lab and waits until it is ready: libvirt answers on every node; with a cluster, it has quorum and a
   * DC, and all nodes are online. It goes down with this process, however that ends, unless it is `release`d.
   *
   * @throws Error saying what was not ready in time, with what the node printed; nothing is left then
   */
  static async up(options: LabOptions = {}): Promise<Lab> {
    const count = options.nodes ?? 3;
    if (!Number.isInteger(count) || count < 1 || count > 5) {
      throw new Error(`a lab has 1 to 5 nodes, not ${count}`);
    }
    if (process.getuid?.() !== 0) {
      throw new Error('a lab needs root: it makes namespaces and mounts');
    }
    const deadline = Deadline.in(options.timeout ?? UP_TIMEOUT);
    const lab = await Lab.#start(count, options, deadline);
    try {
      await Promise.all(lab.nodes.map((node) => node.powerOn(deadline)));
      if (lab.cluster) {
        await lab.waitForCluster(deadline);
      }
      return lab;
    } catch (error) {
      const printed = lab.nodes.map((node) => `--- ${node.name} printed:\n${node.console()}`).join('\n');
      await lab.down().catch(() => {});
      throw new Error(`the lab did not come up: ${messageOf(error)}\n${printed}`, { cause: error });
    }
  }

  /** Starts the power switch, with no node powered on yet. */
  static async #start(nodes: number, options: LabOptions, deadline: Deadline): Promise<Lab> {
    const config: PowerSwitchConfig = {
      directory: options.directory === undefined ? null : resolve(options.directory),
      nodes,
      cluster: options.cluster ?? true,
      install: options.install === undefined ? null : resolve(options.install),
      qemuConf: options.qemuConf ?? '',
      source: SOURCE,
    };
    const child = spawn(
      'unshare',
      [
        ...[
          '--mount',
          '--net',
          '--pid',
          '--ipc',
          '--propagation',
          'private',
          '--fork',
          '--kill-child=SIGKILL',
        ],
        ...[process.execPath, join(import.meta.dirname, 'power-switch.ts'), JSON.stringify(config)],
      ],
      { stdio: ['pipe', 'pipe', 'pipe'], detached: true, cwd: '/' },
    );
    let printed = '';
    const ready = new Promise<string>((resolve, reject) => {
      const hear = (chunk: Buffer) => {
        printed += chunk;
        const directory = /^ready (.*)$/m.exec(printed)?.[1];
        if (directory !== undefined) {
          resolve(directory);
        }
      };
      child.stdout.on('data', hear);
      child.stderr.on('data', hear);
      child.stdin.on('error', () => {});
      child.on('error', reject);
      child.on('close', () => reject(new Error(printed.trim() || 'the power switch ended at once')));
    });
    try {
      const layout = new Layout(await deadline.race(ready, 'the power switch'));
      const mark = readMark(layout);
      if (mark === undefined) {
        throw new Error(`${layout.mark} cannot be read`);
      }
      // The lab must not keep its creator alive: at the creator's end it goes down by itself.
      child.unref();
      for (const pipe of [child.stdin, child.stdout, child.stderr]) {
        (pipe as unknown as { unref(): void }).unref();
      }
      return new Lab(layout, mark, child);
    } catch (error) {
      // The end of its input is the power switch's order to clean up; after a while the kernel has to do.
      child.stdin.end();
      setTimeout(() => child.kill('SIGKILL'), 10_000).unref();
      throw new Error(`no lab: ${messageOf(error)}`, { cause: error });
    }
  }

  /**
   * The running lab in `directory`.
   *
   * @throws Error when there is none
   */
  static attach(directory: string): Lab {
    const layout = new Layout(directory);
    const mark = readMark(layout);
    if (mark === undefined || !isAlive(mark)) {
      throw new Error(`no lab is up in ${layout.directory}: start one with "lab.ts up"`);
    }
    return new Lab(layout, mark);
  }

  /**
   * Takes down the lab in `directory`, or removes what a crashed one left there.
   *
   * @throws Error when there is neither
   */
  static async remove(directory: string): Promise<void> {
    const layout = new Layout(directory);
    const mark = readMark(layout);
    if (mark === undefined || isAlive(mark)) {
      await Lab.attach(directory).down();
    } else {
      rmSync(layout.directory, { recursive: true, force: true });
    }
  }

  /** @param which its number, counted from 1, or its name */
  node(which: number | string): LabNode {
    const name = typeof which === 'number' ? `node${which}` : which;
    const node = this.nodes.find((each) => each.name === name);
    if (node === undefined) {
      throw new Error(`no node is called "${name}", only ${this.nodes.map((each) => each.name).join(', ')}`);
    }
    return node;
  }

  /** The power switch's pid as seen from here. SIGKILL to it ends the whole lab at once. */
  get pid(): number {
    return this.#mark.pid;
  }

  /**
   * Where a file of the directory that all nodes see as /shared lies, seen from here. Works while nodes are off.
   *
   * @param path below /shared
   */
  shared(path = ''): string {
    return join(`/proc/${this.pid}/root`, this.layout.shared, path);
  }

  /** Lets the lab outlive this process; it ends by `down`. */
  async release(): Promise<void> {
    const pipe = this.#process?.stdin;
    await new Promise<void>((resolve) => (pipe ? pipe.end('release\n', resolve) : resolve()));
  }

  /** Ends every process of the lab and removes its directory; returns when both are gone. Twice is no mistake. */
  async down(): Promise<void> {
    const deadline = Deadline.in(DOWN_TIMEOUT);
    if (isAlive(this.#mark)) {
      try {
        await askPower(this.layout.socket, 'quit', deadline.reserving(10_000));
      } catch {
        kill(this.pid);
      }
      const gone = await deadline.poll(5, () => (isAlive(this.#mark) ? undefined : true));
      if (!gone) {
        throw new Error(`the lab's process ${this.pid} does not end`);
      }
    }
    // Another lab may have the directory by now.
    const mark = readMark(this.layout);
    if (mark?.pid === this.#mark.pid && mark.started === this.#mark.started) {
      rmSync(this.layout.directory, { recursive: true, force: true });
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.down();
  }

  /**
   * Configures the power switch as the cluster's fence device. Without it, and without `stonith-enabled=false`,
   * Pacemaker starts no resource.
   */
  async configureFencing(): Promise<void> {
    const names = this.nodes.map((node) => node.name).join(' ');
    await this.nodes
      .find((node) => node.isOn)
      ?.check(['crm', 'configure', 'load', 'update', '-'], {
        input: `\
primitive fence stonith:fence_kvmha_lab params pcmk_host_list="${names}" op monitor interval=60s
property stonith-enabled=true
`,
      });
  }

  /** The calls of the fence agent so far, each line with time, calling node, action, plug; and "exits N" at its end. */
  fenceLog(): string[] {
    try {
      return readFileSync(this.shared('fence.log'), 'utf8').split('\n').slice(0, -1);
    } catch {
      return [];
    }
  }

  /** Waits until the cluster has quorum, a DC and every powered node online. */
  async waitForCluster(deadline: Deadline = Deadline.in(UP_TIMEOUT)): Promise<void> {
    const wanted = this.nodes.filter((node) => node.isOn);
    let last = 'nothing answered';
    const done = await deadline.poll(100, async () => {
      for (const node of wanted) {
        const { exitCode, stdout, stderr } = await node.exec(['crm_mon', '--one-shot', '--output-as=xml'], {
          timeout: Math.max(1_000, deadline.remaining()),
        });
        last = `crm_mon on ${node.name} says: ${exitCode === 0 ? summary(stdout) : stderr.trim() || exitCode}`;
        if (exitCode !== 0 || !isWhole(stdout, wanted.length)) {
          return undefined;
        }
      }
      return true;
    });
    if (!done) {
      throw new KvmhaError('deadline', `the cluster did not come up in time: ${last}`);
    }
  }
}

/** One host of a lab. */
export class LabNode {
  readonly name: string;
  readonly #layout: Layout;

  constructor(layout: Layout, name: string) {
    this.#layout = layout;
    this.name = name;
  }

  get isOn(): boolean {
    return this.#pidOrNone() !== undefined;
  }

  /**
   * The pid of the node's process 1, seen from here; another after each boot.
   *
   * @throws Error when the node is off
   */
  get pid(): number {
    const pid = this.#pidOrNone();
    if (pid === undefined) {
      throw new Error(`${this.name} is off`);
    }
    return pid;
  }

  #pidOrNone(): number | undefined {
    try {
      return Number(readFileSync(this.#layout.pidFile(this.name), 'utf8'));
    } catch {
      return undefined;
    }
  }

  /** Where an absolute path of the node lies, seen from here: files can be opened, UNIX sockets connected to. */
  path(path: string): string {
    return `/proc/${this.pid}/root${path}`;
  }

  /** Writes a file of the node, making the directories it needs. */
  write(path: string, content: string): void {
    const file = this.path(path);
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, content);
  }

  /**
   * Runs a command in the node.
   *
   * @returns what it printed and its exit code: 128 and the signal's number for a command ended by a signal, 127
   *   for a program that is not there
   * @throws KvmhaError `deadline` when it had to be killed
   */
  async exec(command: readonly string[], options: ExecOptions = {}): Promise<Output> {
    const deadline = Deadline.in(options.timeout ?? EXEC_TIMEOUT);
    const child = this.spawn(command, options.env);
    let [stdout, stderr] = ['', ''];
    child.stdout?.setEncoding('utf8').on('data', (chunk: string) => {
      stdout += chunk;
    });
    child.stderr?.setEncoding('utf8').on('data', (chunk: string) => {
      stderr += chunk;
    });
    child.stdin?.on('error', () => {});
    child.stdin?.end(options.input ?? '');
    const ended = new Promise<number>((resolve, reject) => {
      child.on('error', reject);
      // A daemon that keeps the pipes open does not keep us: it is the command that was asked for.
      child.on('exit', (code, signal) => {
        const result = code ?? 128 + constants.signals[signal ?? 'SIGKILL'];
        child.on('close', () => resolve(result));
        setTimeout(() => resolve(result), 1_000).unref();
      });
    });
    try {
      return { exitCode: await deadline.race(ended, `"${command.join(' ')}"`), stdout, stderr };
    } catch (error) {
      kill(-(child.pid ?? 0));
      throw new KvmhaError('deadline', `on ${this.name}: ${messageOf(error)}, and killed it`, {
        cause: error,
      });
    }
  }

  /**
   * Runs a command in the node that has to succeed.
   *
   * @returns its standard output
   * @throws KvmhaError `program-failed` with its own words, and as `exec`
   */
  async check(command: readonly string[], options: ExecOptions = {}): Promise<string> {
    const { exitCode, stdout, stderr } = await this.exec(command, options);
    if (exitCode !== 0) {
      const said = (stderr.trim() || stdout.trim()).replace(/\s+/g, ' ');
      const what = command.join(' ');
      throw new KvmhaError('program-failed', `on ${this.name}, "${what}" exited ${exitCode}: ${said}`);
    }
    return stdout;
  }

  /**
   * Starts a command in the node and leaves it running. The child's pid is that of nsenter(1), the parent of the
   * command; both are in a process group of their own, so `process.kill(-pid)` reaches the command.
   */
  spawn(
    command: readonly string[],
    env: Readonly<Record<string, string>> = {},
    options: SpawnOptions = {},
  ): ChildProcess {
    const [program, ...args] = this.command(command, env);
    return spawn(program as string, args, { detached: true, ...options });
  }

  /** The command line that runs `command` in the node when it is run here. */
  command(command: readonly string[], env: Readonly<Record<string, string>> = {}): string[] {
    const variables = Object.entries({ ...ENVIRONMENT, ...env }).map(([name, value]) => `${name}=${value}`);
    return [
      ...['nsenter', '--target', String(this.pid), '--mount', '--uts', '--ipc', '--net', '--pid', '--cgroup'],
      // The death of nsenter, which is what a signal from here reaches, is the command's.
      ...['--root', '--wd', '--', 'setpriv', '--pdeathsig', 'KILL', 'env', '-i', ...variables, ...command],
    ];
  }

  /** Powers the node on and waits until its services are up and libvirt answers. */
  async powerOn(deadline: Deadline = Deadline.in(UP_TIMEOUT)): Promise<void> {
    await this.#power('on', deadline);
    await this.waitUntilReady(deadline);
  }

  /** Ends every process of the node at once, as a power cut does; what it wrote to its disk stays. */
  async powerOff(): Promise<void> {
    await this.#power('off');
  }

  async reboot(deadline: Deadline = Deadline.in(UP_TIMEOUT)): Promise<void> {
    await this.#power('reboot', deadline);
    await this.waitUntilReady(deadline);
  }

  /** Pulls the network cable. */
  async cut(): Promise<void> {
    await this.#power('cut');
  }

  /** Plugs the network cable in again. */
  async heal(): Promise<void> {
    await this.#power('heal');
  }

  /** "on" or "off", and " cut" behind it while the cable is pulled. */
  async status(): Promise<string> {
    return this.#power('status');
  }

  #power(action: NodeAction, deadline: Deadline = Deadline.in(POWER_TIMEOUT)): Promise<string> {
    return askPower(this.#layout.socket, `${action} ${this.name}`, deadline.within(POWER_TIMEOUT));
  }

  /** Waits until the node's services are started and libvirt answers. */
  async waitUntilReady(deadline: Deadline = Deadline.in(UP_TIMEOUT)): Promise<void> {
    const booted = await deadline.poll(10, () => {
      if (!this.isOn) {
        throw new Error(`${this.name} went off while it booted`);
      }
      return existsSync(this.path('/run/lab/ready')) || undefined;
    });
    let last = '';
    const answered =
      booted &&
      (await deadline.poll(50, async () => {
        const result = await this.exec(['virsh', '--connect', 'qemu:///system', 'uri'], {
          timeout: Math.max(1_000, deadline.remaining()),
        });
        last = result.stderr.trim();
        return result.exitCode === 0 || undefined;
      }));
    if (!answered) {
      const what = booted ? `libvirt does not answer (${last})` : 'the services are not started';
      throw new KvmhaError('deadline', `${this.name} is not ready in time: ${what}`);
    }
  }

  /** The end of what the node's process 1 and its services printed. */
  console(): string {
    try {
      return readFileSync(this.#layout.console(this.name), 'utf8').slice(-4_000);
    } catch {
      return '';
    }
  }
}

function isWhole(crmMon: string, nodes: number): boolean {
  const online = crmMon.match(/<node [^>]*online="true"[^>]*pending="false"/g) ?? [];
  return /<current_dc present="true"[^>]*with_quorum="true"/.test(crmMon) && online.length === nodes;
}

function summary(crmMon: string): string {
  return (crmMon.match(/<current_dc [^>]*>|<node [^>]*online="[^"]*"/g) ?? []).join(' ');
}

/** SIGKILL to a process, or to a group when negative; nothing when it is gone. */
function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // Gone.
  }
}

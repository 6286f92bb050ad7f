import { type ChildProcess, spawn } from 'node:child_process';
import {
  appendFileSync,
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readlinkSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Deadline } from '../../lib/deadline.ts';
import { messageOf } from '../../lib/error.ts';
import { run, runChecked } from '../../lib/run.ts';
import { claim, Layout } from './layout.ts';
import { addressOf, nodeNames, provision } from './provision.ts';

/** Handed over as JSON in the only argument. */
export interface PowerSwitchConfig {
  /** The lab's directory; null for a fresh one below the temporary directory. */
  readonly directory: string | null;
  readonly nodes: number;
  readonly cluster: boolean;
  /** A tree laid over the host's root in every node. */
  readonly install: string | null;
  readonly qemuConf: string;
  /** The project's tree, seen in every node at the same path, read-only. */
  readonly source: string;
}

/** Long enough for the kernel to end a node's last process, however busy the machine. */
const OFF_TIMEOUT = 30_000;
const COMMAND_TIMEOUT = 10_000;

/** A node's process 1, running. */
interface Boot {
  /** unshare(1), the parent of process 1; it ends when the last process of the node is gone. */
  readonly unshare: ChildProcess;
  readonly ended: Promise<void>;
  /** Process 1 as this process's pid namespace numbers it. */
  pid?: number;
}

/**
 * The power of one node. Actions on one node run one after the other; on several, side by side.
 */
class NodePower {
  readonly name: string;
  readonly number: number;
  #boot: Boot | undefined;
  #cut = false;
  #queue: Promise<unknown> = Promise.resolve();

  constructor(number: number, name: string) {
    this.number = number;
    this.name = name;
  }

  /** Does `action` when the ones before it are done. */
  do(action: string): Promise<string> {
    const result = this.#queue.then(() => this.#do(action));
    this.#queue = result.catch(() => {});
    return result;
  }

  async #do(action: string): Promise<string> {
    switch (action) {
      case 'on':
        return this.#on();
      case 'off':
        return this.#off();
      case 'reboot':
        await this.#off();
        return this.#on();
      case 'cut':
      case 'heal':
        this.#cut = action === 'cut';
        if (this.#boot !== undefined) {
          await command('ip', 'link', 'set', this.name, this.#cut ? 'down' : 'up');
        }
        return action;
      case 'status':
        return `${this.#boot === undefined ? 'off' : 'on'}${this.#cut ? ' cut' : ''}`;
      default:
        throw new Error(`no such action: ${action}`);
    }
  }

  async #on(): Promise<string> {
    if (this.#boot !== undefined) {
      return 'already on';
    }
    for (const part of ['upper', 'work', 'root']) {
      mkdirSync(join(layout.nodeDirectory(this.name), part), { recursive: true });
    }
    const boot = this.#start();
    this.#boot = boot;
    try {
      const [outside, inside] = await readPids(boot.unshare, this.name);
      boot.pid = inside;
      // The veth of the boot before may still be here: the kernel removes a dead network namespace at its leisure.
      await run('ip', ['link', 'del', this.name], { deadline: Deadline.in(COMMAND_TIMEOUT) });
      // The same address at each boot, as a real card has, or the others' neighbour tables would be wrong for seconds.
      const address = `52:6c:61:62:00:0${this.number}`;
      const peer = ['peer', 'name', 'eth0', 'address', address, 'netns', `/proc/${outside}/ns/net`];
      await command('ip', 'link', 'add', this.name, 'type', 'veth', ...peer);
      await command('ip', 'link', 'set', this.name, 'master', 'lab0', this.#cut ? 'down' : 'up');
      writeFileSync(layout.pidFile(this.name), `${outside}\n`);
      boot.unshare.stdin?.end('go\n');
      log(`${this.name} on, process 1 is ${outside}`);
      return 'on';
    } catch (error) {
      await this.#off();
      throw new Error(`${this.name} did not boot: ${messageOf(error)}`);
    }
  }

  #start(): Boot {
    const console = openSync(layout.console(this.name), 'a');
    const unshare = spawn(
      'unshare',
      [
        ...['--mount', '--uts', '--ipc', '--net', '--pid', '--cgroup', '--propagation', 'private'],
        ...['--fork', '--kill-child=SIGKILL', '/bin/bash', join(scripts, 'boot.sh')],
      ],
      {
        cwd: layout.nodeDirectory(this.name),
        stdio: ['pipe', 'pipe', console],
        detached: true,
        env: {
          PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
          HOME: '/root',
          LANG: 'C.UTF-8',
          LAB_NODE: this.name,
          LAB_ADDRESS: addressOf(this.number),
          LAB_LOWER: config.install === null ? '/' : '../install:/',
          LAB_SHARED: layout.shared,
          LAB_SOCKET: layout.socket,
          LAB_VISIBLE: [config.source, process.execPath].join('\n'),
          LAB_INIT: join(scripts, 'init.sh'),
          LAB_SERVICES: config.cluster ? 'virtlogd libvirtd corosync pacemaker' : 'virtlogd libvirtd',
        },
      },
    );
    closeSync(console);
    unshare.stdin?.on('error', () => {});
    const ended = new Promise<void>((resolve) => {
      unshare.on('error', (error) => {
        log(`${this.name}: unshare could not be run: ${messageOf(error)}`);
        this.#ended();
        resolve();
      });
      unshare.on('exit', (code, signal) => {
        log(`${this.name} is off (${signal ?? code})`);
        this.#ended();
        resolve();
        // reboot(2) in a pid namespace ends its process 1 by SIGHUP for a restart, by SIGINT for a halt, and
        // unshare ends itself the same way.
        if (signal === 'SIGHUP') {
          log(`${this.name} asked for a reboot`);
          this.do('on').catch((error) => log(messageOf(error)));
        }
      });
    });
    return { unshare, ended };
  }

  #ended(): void {
    this.#boot = undefined;
    rmSync(layout.pidFile(this.name), { force: true });
  }

  async #off(): Promise<string> {
    const boot = this.#boot;
    if (boot === undefined) {
      return 'already off';
    }
    // The kernel ends every process of the node with its process 1, and lets that one go only as the last.
    // Before it has reported its number, unshare's death takes it along (--kill-child).
    try {
      process.kill(boot.pid ?? boot.unshare.pid ?? 0, 'SIGKILL');
    } catch {
      // Gone already.
    }
    await Deadline.in(OFF_TIMEOUT).race(boot.ended, `the last process of ${this.name} to end`);
    return 'off';
  }
}

/** The first line that boot.sh prints: its pid as the host, as this process and as itself sees it. */
async function readPids(unshare: ChildProcess, name: string): Promise<[number, number]> {
  const line = new Promise<string>((resolve, reject) => {
    let text = '';
    unshare.stdout?.setEncoding('utf8');
    unshare.stdout?.on('data', (chunk: string) => {
      text += chunk;
      if (text.includes('\n')) {
        resolve(text);
      }
    });
    unshare.stdout?.on('end', () => reject(new Error('its process 1 ended at once')));
  });
  const pids = (await Deadline.in(COMMAND_TIMEOUT).race(line, `process 1 of ${name}`)).trim().split(/\s+/);
  const [outside, inside] = [Number(pids[0]), Number(pids.at(-2))];
  if (pids.at(-1) !== '1' || !(outside > 0) || !(inside > 0)) {
    throw new Error(`process 1 of ${name} reported the pids "${pids.join(' ')}"`);
  }
  return [outside, inside];
}

async function command(program: string, ...args: string[]): Promise<void> {
  await runChecked(program, args, { deadline: Deadline.in(COMMAND_TIMEOUT) });
}

function log(text: string): void {
  try {
    appendFileSync(layout.powerLog, `${new Date().toISOString()} ${text}\n`);
  } catch {
    // The directory is being removed.
  }
}

/** Builds what the nodes stand on, in the namespaces that unshare(1) has made for this process. */
async function prepare(): Promise<void> {
  const elsewhere = ['/etc', '/usr', '/var'].find((path) => statSync(path).dev !== statSync('/').dev);
  if (elsewhere !== undefined) {
    throw new Error(`${elsewhere} is a file system of its own here, and a node sees only the one of /`);
  }
  mkdirSync(layout.inside, { recursive: true });
  await command('mount', '-t', 'tmpfs', '-o', 'mode=755', 'kvmha-lab', layout.inside);
  mkdirSync(layout.shared, { mode: 0o777 });
  if (config.install !== null) {
    // The tree usually lies on the same file system as /, and one overlay refuses a layer that contains another.
    // An overlay of the tree alone (it wants two layers, so an empty one) hides that it does.
    mkdirSync(layout.install);
    const empty = join(layout.inside, 'empty');
    mkdirSync(empty);
    const options = `lowerdir=${config.install}:${empty}`;
    await command('mount', '-t', 'overlay', '-o', options, 'kvmha-install', layout.install);
  }
  for (const { name, number } of nodes.values()) {
    provision(join(layout.nodeDirectory(name), 'files'), {
      number,
      nodes: [...nodes.keys()],
      qemuConf: config.qemuConf,
      node: process.execPath,
      fenceAgent: join(import.meta.dirname, 'fence-agent.ts'),
      scripts,
    });
  }
  await command('ip', 'link', 'add', 'lab0', 'type', 'bridge');
  await command('ip', 'link', 'set', 'lab0', 'up');
}

async function answer(request: string): Promise<string> {
  const [action = '', name = ''] = request.split(' ');
  if (action === 'list') {
    return [...nodes.keys()].join(' ');
  }
  const node = nodes.get(name);
  if (node === undefined) {
    throw new Error(`no node is called "${name}", only ${[...nodes.keys()].join(', ')}`);
  }
  const words = await node.do(action);
  if (action !== 'status') {
    log(`${request}: ${words}`);
  }
  return words;
}

function listen(): Promise<void> {
  const server = createServer((connection) => {
    let text = '';
    connection.setEncoding('utf8');
    connection.on('error', () => {});
    connection.on('data', async (chunk: string) => {
      text += chunk;
      if (!text.includes('\n')) {
        return;
      }
      const request = text.trim();
      text = '';
      if (request === 'quit') {
        await takeDown('asked to');
        connection.end('ok\n', () => process.exit(0));
        return;
      }
      const reply = await answer(request).then(
        (words) => `ok ${words}`,
        (error) => `error ${messageOf(error)}`,
      );
      connection.end(`${reply}\n`);
    });
  });
  return new Promise((resolve, reject) => {
    server.on('error', reject);
    server.listen(layout.socket, resolve);
  });
}

let goingDown: Promise<void> | undefined;

/** Ends every node and removes the directory. What is left after that ends with this process. */
function takeDown(why: string): Promise<void> {
  goingDown ??= (async () => {
    log(`going down: ${why}`);
    // A half-made mount would keep the directory from being removed.
    await built.catch(() => {});
    const offs = [...nodes.values()].map((node) => node.do('off'));
    for (const result of await Promise.allSettled(offs)) {
      if (result.status === 'rejected') {
        log(messageOf(result.reason));
      }
    }
    await run('umount', ['-l', layout.inside], { deadline: Deadline.in(COMMAND_TIMEOUT) });
    rmSync(layout.directory, { recursive: true, force: true });
  })();
  return goingDown;
}

async function takeDownAndExit(why: string, exitCode = 0): Promise<void> {
  await takeDown(why);
  process.exit(exitCode);
}

/**
 * The creator holds the other end of standard input. Its end, for whatever reason, is the lab's, unless it has
 * said "release" before.
 */
function followCreator(): void {
  let text = '';
  let released = false;
  process.stdin.setEncoding('utf8');
  process.stdin.on('data', (chunk: string) => {
    text += chunk;
    released ||= text.includes('release\n');
  });
  const end = () => {
    if (!released) {
      void takeDownAndExit('its creator is gone');
    }
  };
  process.stdin.on('error', () => {});
  process.stdin.on('end', end);
  process.stdin.on('close', end);
  // Words for a creator that is gone are no failure.
  process.stdout.on('error', () => {});
  process.stderr.on('error', () => {});
}

/** /proc is still the host's here, so this is the pid that the host knows this process by. */
function hostPid(): number {
  return Number(readlinkSync('/proc/self'));
}

const config = JSON.parse(process.argv[2] ?? '') as PowerSwitchConfig;
const scripts = join(import.meta.dirname, 'node');
const nodes = new Map(nodeNames(config.nodes).map((name, index) => [name, new NodePower(index + 1, name)]));
const layout = new Layout(config.directory ?? mkdtempSync(join(tmpdir(), 'kvmha-lab-')));

try {
  claim(layout, hostPid(), [...nodes.keys()], config.cluster);
} catch (error) {
  console.error(messageOf(error));
  process.exit(1);
}
const built = prepare().then(listen);
for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) {
  process.on(signal, () => void takeDownAndExit(signal));
}
followCreator();
try {
  await built;
  log(`ready, process ${hostPid()}`);
  process.stdout.write(`ready ${layout.directory}\n`);
} catch (error) {
  console.error(messageOf(error));
  await takeDownAndExit('it cannot be built', 1);
}

#!/usr/bin/env node
import { spawn } from 'node:child_process';
import { constants } from 'node:os';
import { Command, InvalidArgumentError, Option } from 'commander';
import { Deadline } from '../../lib/deadline.ts';
import { messageOf } from '../../lib/error.ts';
import { Lab, type LabNode } from './client.ts';
import { askPower, NODE_ACTIONS, type NodeAction } from './power-protocol.ts';

const POWER_TIMEOUT = 60_000;
const STATUS_TIMEOUT = 5_000;

interface UpOptions {
  readonly dir: string;
  readonly nodes: number;
  readonly cluster: boolean;
  readonly install?: string;
  readonly tied?: true;
}

async function up(options: UpOptions): Promise<void> {
  const start = performance.now();
  const { dir: directory, nodes, cluster, install } = options;
  const lab = await Lab.up({ directory, nodes, cluster, ...(install === undefined ? {} : { install }) });
  const seconds = ((performance.now() - start) / 1000).toFixed(1);
  const names = lab.nodes.map((node) => node.name).join(', ');
  console.log(`${names}: up after ${seconds} s in ${lab.layout.directory}`);
  if (options.tied === undefined) {
    await lab.release();
    return;
  }
  console.log('It goes down with this process: press Ctrl-C.');
  await new Promise<void>((resolve) => {
    // Something has to keep this process alive: nothing of the lab does.
    const alive = setInterval(() => {}, 1_000_000);
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
      process.once(signal, () => {
        clearInterval(alive);
        resolve();
      });
    }
  });
  await lab.down();
}

async function execute(
  node: LabNode,
  words: readonly string[],
  env: Record<string, string>,
): Promise<number> {
  const [program = '', ...args] = node.command(words, { TERM: process.env['TERM'] ?? 'dumb', ...env });
  const child = spawn(program, args, { stdio: 'inherit' });
  // Ctrl-C reaches the command by the terminal; this process stays for its exit code.
  process.on('SIGINT', () => {});
  process.on('SIGTERM', () => child.kill('SIGTERM'));
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('exit', (code, signal) => resolve(code ?? 128 + constants.signals[signal ?? 'SIGKILL']));
  });
}

async function status(lab: Lab): Promise<void> {
  console.log(`lab in ${lab.layout.directory}, process ${lab.pid}, power log ${lab.layout.powerLog}`);
  const cluster = lab.cluster ? await membership(lab) : new Map<string, string>();
  for (const node of lab.nodes) {
    const power = await node.status();
    if (!node.isOn) {
      console.log(`${node.name}  ${power}`);
      continue;
    }
    const guests = await answerOf(node, ['virsh', '--quiet', 'list', '--name']);
    const libvirt =
      guests === undefined
        ? 'libvirt does not answer'
        : `guests: ${guests.split(/\s+/).filter(Boolean).join(' ') || 'none'}`;
    const words = [power, `process ${node.pid}`, libvirt, cluster.get(node.name) ?? []].flat();
    console.log(`${node.name}  ${words.join(', ')}`);
  }
}

/** What the first node that answers says of each node of the cluster. */
async function membership(lab: Lab): Promise<Map<string, string>> {
  for (const node of lab.nodes.filter((each) => each.isOn)) {
    const text = await answerOf(node, ['crm_mon', '--one-shot', '--output-as=xml']);
    if (text === undefined) {
      continue;
    }
    const seen = text.matchAll(
      /<node name="([^"]*)" [^>]*online="(\w+)"[^>]*unclean="(\w+)"[^>]*is_dc="(\w+)"/g,
    );
    return new Map(
      [...seen].map(([, name = '', online, unclean, dc]) => [
        name,
        `cluster: ${unclean === 'true' ? 'unclean' : online === 'true' ? 'online' : 'offline'}${dc === 'true' ? ', DC' : ''}`,
      ]),
    );
  }
  return new Map(lab.nodes.map(({ name }) => [name, 'cluster: does not answer']));
}

async function answerOf(node: LabNode, command: readonly string[]): Promise<string | undefined> {
  try {
    const { exitCode, stdout } = await node.exec(command, { timeout: STATUS_TIMEOUT });
    return exitCode === 0 ? stdout : undefined;
  } catch {
    return undefined;
  }
}

function toCount(text: string): number {
  if (!/^[1-5]$/.test(text)) {
    throw new InvalidArgumentError('a lab has 1 to 5 nodes.');
  }
  return Number(text);
}

function toVariable(text: string, before: Record<string, string>): Record<string, string> {
  const [, name, value] = /^(\w+)=(.*)$/s.exec(text) ?? [];
  if (name === undefined || value === undefined) {
    throw new InvalidArgumentError('NAME=VALUE is wanted.');
  }
  return { ...before, [name]: value };
}

function toAction(text: string): NodeAction {
  const action = NODE_ACTIONS.find((each) => each === text);
  if (action === undefined) {
    throw new InvalidArgumentError(`one of ${NODE_ACTIONS.join(', ')} is wanted.`);
  }
  return action;
}

function dirOption(): Option {
  return new Option('--dir <directory>', "the lab's directory")
    .env('KVMHA_LAB_DIR')
    .default('/run/kvmha-lab');
}

const program = new Command('lab')
  .description(
    'Hosts in namespaces, with libvirt and a cluster, for tests and demonstrations. See README.md.',
  )
  .enablePositionalOptions();

program
  .command('up')
  .description('build a lab and wait until it is ready')
  .addOption(dirOption())
  .option('--nodes <count>', 'how many nodes', toCount, 3)
  .option('--no-cluster', 'only libvirt, no corosync and Pacemaker')
  .option('--install <tree>', "lay this tree over the host's root in every node")
  .option('--tied', 'stay in the foreground; the lab goes down with this process')
  .action(up);

program
  .command('down')
  .description('end every process of the lab and remove its directory')
  .addOption(dirOption())
  .action(({ dir }) => Lab.remove(dir));

program
  .command('exec')
  .description('run a command in a node')
  .addOption(dirOption())
  .option('--env <name=value>', 'a variable for the command', toVariable, {})
  .argument('<node>')
  .argument('<command...>')
  .passThroughOptions()
  .action(async (node, words, { dir, env }) => {
    const command = words[0] === '--' ? words.slice(1) : words;
    process.exitCode = await execute(Lab.attach(dir).node(node), command, env);
  });

program
  .command('power')
  .description("press a node's power switch, or pull its network cable (cut) and plug it in again (heal)")
  .addOption(dirOption())
  .argument('<action>', NODE_ACTIONS.join(', '), toAction)
  .argument('<node>')
  .action(async (action: NodeAction, name: string, { dir }) => {
    const lab = Lab.attach(dir);
    console.log(
      await askPower(lab.layout.socket, `${action} ${lab.node(name).name}`, Deadline.in(POWER_TIMEOUT)),
    );
  });

program
  .command('status')
  .description('the nodes, their guests and the state of the cluster')
  .addOption(dirOption())
  .action(({ dir }) => status(Lab.attach(dir)));

try {
  await program.parseAsync();
} catch (error) {
  console.error(`lab: ${error instanceof Error ? error.message.trim() : messageOf(error)}`);
  process.exitCode = 1;
}

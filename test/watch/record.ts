/**
 * Records what QEMU says on a guest's QMP socket when something happens to it, for the tests in test/unit/watch:
 *
 *   node test/watch/record.ts DIRECTORY [EMULATOR]
 *
 * Needs root, as everything in the lab does. Each file holds the bytes of one session as they came.
 */
import { cpSync, mkdirSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { Deadline, sleep } from '../../lib/deadline.ts';
import { socketsOf } from '../../lib/guest/sockets.ts';
import { Fault, faultEnv } from '../fault/fault.ts';
import type { Disk, Domain } from '../guest/domain.ts';
import { createDisk, waitForTicks } from '../guest/witness.ts';
import { Lab, type LabNode } from '../lab/client.ts';
import { installedTree, Resource } from '../support/agent.ts';

interface Scenario {
  readonly disk?: Partial<Disk>;
  readonly domain?: Partial<Domain>;
  readonly watchdog?: boolean;
  /** An event by which it is over; without one, half a second is waited. */
  readonly until: string | undefined;
  readonly raise: (guest: Raise) => Promise<unknown>;
}

interface Raise {
  readonly fault: Fault;
  readonly virsh: (...words: string[]) => Promise<string>;
  readonly key: (letter: string) => Promise<string>;
  readonly mce: (...words: string[]) => Promise<string>;
}

const SCENARIOS: Readonly<Record<string, Scenario>> = {
  'write-error': { until: 'STOP', raise: async ({ fault }) => fault.set('W', '.raw') },
  'no-space': { until: 'STOP', raise: async ({ fault }) => fault.set('NW', '.raw') },
  'passed-error': {
    disk: { errorPolicy: 'report' },
    until: 'BLOCK_IO_ERROR',
    raise: async ({ fault }) => fault.set('W', '.raw'),
  },
  'ignored-error': {
    disk: { errorPolicy: 'ignore' },
    until: 'BLOCK_IO_ERROR',
    raise: async ({ fault }) => fault.set('W', '.raw'),
  },
  panic: {
    domain: { pvpanic: true, onCrash: 'preserve' },
    until: 'STOP',
    raise: ({ key }) => key('P'),
  },
  'crash-kernel': { domain: { pvpanic: true }, until: 'GUEST_CRASHLOADED', raise: ({ key }) => key('C') },
  'watchdog-pause': {
    domain: { watchdog: 'pause' },
    watchdog: true,
    until: 'STOP',
    raise: ({ key }) => key('H'),
  },
  'watchdog-reset': {
    domain: { watchdog: 'reset' },
    watchdog: true,
    until: 'RESET',
    raise: ({ key }) => key('H'),
  },
  // Uncorrected, valid, enabled; the guest has not allowed machine check exceptions.
  'memory-reset': {
    until: 'RESET',
    raise: ({ mce }) => mce('0', '9', '0xb000000000000000', '0', '0', '0'),
  },
  // SRAR and SRAO (Intel SDM, volume 3, "Machine-check architecture") to a guest that has.
  'memory-action-required': {
    until: 'MEMORY_FAILURE',
    raise: async ({ key, mce }) => {
      await key('M');
      await sleep(500);
      await mce('0', '9', '0xbd80000000000134', '0x7', '0x1000', '0x8c');
    },
  },
  'memory-action-optional': {
    until: 'MEMORY_FAILURE',
    raise: async ({ key, mce }) => {
      await key('M');
      await sleep(500);
      await mce('0', '9', '0xbd000000000000cf', '0x5', '0x1000', '0x8c');
    },
  },
  'memory-corrected': {
    until: undefined,
    raise: ({ mce }) => mce('0', '9', '0x9c00000000000090', '0', '0x1000', '0x8c'),
  },
  'suspend-resume': {
    until: 'RESUME',
    raise: async ({ virsh }) => {
      await virsh('suspend');
      await virsh('resume');
    },
  },
  reset: { until: 'RESET', raise: ({ key }) => key('R') },
  'triple-fault': { until: 'RESET', raise: ({ key }) => key('X') },
  sleep: { until: 'SUSPEND', raise: ({ key }) => key('S') },
  'power-off': { until: 'SHUTDOWN', raise: ({ key }) => key('Q') },
  destroyed: { until: undefined, raise: ({ virsh }) => virsh('destroy') },
  'emulation-failure': {
    domain: { type: 'kvm' },
    until: 'STOP',
    raise: ({ key }) => key('I'),
  },
};

/** Reads what comes on the watcher's socket of a guest, and negotiates capabilities so that events come. */
class Recorder {
  bytes = Buffer.alloc(0);
  readonly #socket;

  constructor(path: string) {
    this.#socket = connect(path);
    this.#socket.on('data', (chunk: Buffer) => {
      this.bytes = Buffer.concat([this.bytes, chunk]);
    });
    this.#socket.on('error', () => {});
    this.say({ execute: 'qmp_capabilities' });
  }

  say(command: object): void {
    this.#socket.write(`${JSON.stringify(command)}\r\n`);
  }

  async heard(event: string): Promise<void> {
    await Deadline.in(20_000).poll(10, () => this.bytes.includes(`"event": "${event}"`) || undefined);
  }

  close(): void {
    this.#socket.destroy();
  }
}

async function record(
  node: LabNode,
  name: string,
  scenario: Scenario,
  emulator: string | undefined,
): Promise<Buffer> {
  const path = `/shared/${name}.raw`;
  const fault = new Fault(node);
  fault.clear();
  await createDisk(path, { node, settings: { watchdog: scenario.watchdog === true } });
  const guest = new Resource({
    name,
    env: await faultEnv(),
    disks: [{ path, ...scenario.disk }],
    ...scenario.domain,
    ...(emulator === undefined ? {} : { devices: '    <emulator>/opt/qemu/run</emulator>\n' }),
  });
  guest.configure(node);
  const started = await guest.call(node, 'start');
  if (started.exitCode !== 0) {
    throw new Error(`${name} did not start: ${started.stderr}`);
  }
  if (scenario.domain?.type !== 'kvm') {
    await waitForTicks(path, 2, { node });
  } else {
    await sleep(8000);
  }
  const recorder = new Recorder(node.path(socketsOf(name).watcher));
  const virsh = (command: string, ...words: string[]) => node.check(['virsh', command, name, ...words]);
  await sleep(100);
  await scenario.raise({
    fault,
    virsh: (command = '', ...words) => virsh(command, ...words),
    key: (letter) => virsh('send-key', `KEY_${letter}`),
    mce: (...words) => virsh('qemu-monitor-command', '--hmp', `mce ${words.join(' ')}`),
  });
  if (scenario.until !== undefined) {
    await recorder.heard(scenario.until);
  }
  await sleep(500);
  recorder.say({ execute: 'query-status' });
  recorder.say({ execute: 'query-block' });
  await sleep(200);
  recorder.close();
  await node.exec(['virsh', 'destroy', name]);
  return recorder.bytes;
}

const [directory = '.', emulator, only] = process.argv.slice(2);
mkdirSync(directory, { recursive: true });
await using tree = await installedTree();
if (emulator) {
  // Another QEMU than the host's: its package's content, unpacked. It must not see the host's modules.
  cpSync(emulator, join(tree.path, 'opt/qemu'), { recursive: true });
  writeFileSync(
    join(tree.path, 'opt/qemu/run'),
    `#!/bin/sh
exec unshare --mount sh -c '
  mount --bind /opt/qemu/usr/lib/x86_64-linux-gnu/qemu /usr/lib/x86_64-linux-gnu/qemu
  exec /opt/qemu/usr/bin/qemu-system-x86_64 -L /opt/qemu/usr/share/seabios -L /opt/qemu/usr/share/qemu "$@"
' sh "$@"
`,
    { mode: 0o755 },
  );
}
await using lab = await Lab.up({ nodes: 1, cluster: false, install: tree.path });
for (const [name, scenario] of Object.entries(SCENARIOS)) {
  if (only !== undefined && only !== name) {
    continue;
  }
  try {
    const bytes = await record(lab.node(1), name, scenario, emulator || undefined);
    writeFileSync(join(directory, `${name}.qmp`), bytes);
    const events = [...bytes.toString().matchAll(/"event": "([A-Z_]+)"/g)].map((match) => match[1]);
    console.log(`${name}: ${bytes.length} bytes, ${events.join(' ')}`);
  } catch (error) {
    console.log(`${name}: ${error}`);
    await lab.node(1).exec(['virsh', 'destroy', name]);
  }
}

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { Deadline, sleep } from '../../lib/deadline.ts';
import { runChecked } from '../../lib/run.ts';
import { Fault, faultEnv } from '../fault/fault.ts';
import { NbdServer } from '../fault/nbd.ts';
import { type Domain, domainXml } from '../guest/domain.ts';
import { createDisk, createOverlay, readSerial, readWitness, waitForTicks } from '../guest/witness.ts';
import { Lab, type LabNode } from './client.ts';

const CLI = join(import.meta.dirname, 'lab.ts');

/** What a lab must not change on the host. */
async function hostState(): Promise<string> {
  const links = await runChecked('ip', ['-o', 'link'], { deadline: Deadline.in(5_000) });
  return `${readFileSync('/proc/self/mountinfo', 'utf8')}\n${links}`;
}

/** Every process in the pid namespaces of the lab. */
function processesOf(lab: Lab): number[] {
  const namespaceOf = (pid: number | string) => {
    try {
      return readlinkSync(`/proc/${pid}/ns/pid`);
    } catch {
      return undefined;
    }
  };
  const roots = [lab.pid, ...lab.nodes.filter((node) => node.isOn).map((node) => node.pid)];
  const namespaces = new Set(roots.map(namespaceOf));
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && namespaces.has(namespaceOf(name)))
    .map(Number);
}

async function goneWithin(milliseconds: number, pids: readonly number[]): Promise<number[]> {
  const left = () => pids.filter((pid) => existsSync(`/proc/${pid}`));
  await Deadline.in(milliseconds).poll(10, () => left().length === 0 || undefined);
  return left();
}

function freshDirectory(): string {
  return mkdtempSync(join(tmpdir(), 'kvmha-lab-test-'));
}

async function startDomain(node: LabNode, domain: Domain): Promise<void> {
  node.write(`/shared/${domain.name}.xml`, domainXml(domain));
  await node.check(['virsh', 'create', `/shared/${domain.name}.xml`]);
}

async function waitForState(node: LabNode, domain: string, wanted: string): Promise<void> {
  let last = '';
  const reached = await Deadline.in(15_000).poll(50, async () => {
    last = (await node.check(['virsh', 'domstate', '--reason', domain])).trim();
    return last === wanted || undefined;
  });
  assert.ok(reached, `${domain} should be "${wanted}" but is "${last}"`);
}

function press(node: LabNode, domain: string, key: string): Promise<string> {
  return node.check(['virsh', 'send-key', domain, `KEY_${key.toUpperCase()}`]);
}

describe('a lab of two nodes without a cluster', () => {
  let lab: Lab;
  let node: LabNode;
  before(async () => {
    lab = await Lab.up({ nodes: 2, cluster: false });
    node = lab.node(1);
  });
  after(() => lab.down());

  test('a command gets its input and environment, and its output and exit code come back', async () => {
    const script = 'echo "$HOME $GREETING"; cat >&2; exit 3';
    const result = await node.exec(['sh', '-c', script], { env: { GREETING: 'hello' }, input: 'input' });
    assert.deepEqual(result, { exitCode: 3, stdout: '/root hello\n', stderr: 'input' });
  });

  test('nothing of the environment of the tests reaches a command', async () => {
    process.env['KVMHA_LAB_TEST'] = 'secret';
    assert.doesNotMatch(await node.check(['env']), /secret/);
  });

  test('a command that does not end in time is killed with its children', async () => {
    const hangs = node.exec(['sh', '-c', 'sleep 4711 & sleep 4711'], { timeout: 200 });
    await assert.rejects(hangs, { code: 'deadline' });
    await sleep(100);
    assert.equal((await node.exec(['pgrep', '-f', '^sleep 4711'])).stdout, '');
  });

  test('files and UNIX sockets of a node can be used from outside', async () => {
    node.write('/var/lib/thing/file', 'content');
    assert.equal(await node.check(['cat', '/var/lib/thing/file']), 'content');
    assert.equal(readFileSync(node.path('/etc/hostname'), 'utf8'), 'node1\n');
    const socket = connect(node.path('/run/libvirt/libvirt-sock'));
    await new Promise((resolve, reject) => socket.on('connect', resolve).on('error', reject));
    socket.destroy();
  });

  test('what one node writes to /shared the other reads, and what it writes elsewhere it does not', async () => {
    node.write('/shared/note', 'for all');
    node.write('/srv/note', 'for me');
    assert.equal(await lab.node(2).check(['cat', '/shared/note']), 'for all');
    assert.equal(readFileSync(lab.shared('note'), 'utf8'), 'for all');
    assert.equal((await lab.node(2).exec(['cat', '/srv/note'])).exitCode, 1);
    assert.equal(existsSync('/srv/note'), false);
  });

  test('the kernel of the host cannot be tuned from a node', async () => {
    const attempt = await node.exec(['sh', '-c', 'echo 1 >/proc/sys/vm/drop_caches']);
    assert.notEqual(attempt.exitCode, 0);
  });

  test('what is logged can be read in /var/log/syslog', async () => {
    await node.check([
      'python3',
      '-c',
      'import syslog; syslog.openlog("me"); syslog.syslog(syslog.LOG_ERR, "words")',
    ]);
    const line = await Deadline.in(2_000).poll(20, () =>
      readFileSync(node.path('/var/log/syslog'), 'utf8')
        .split('\n')
        .find((each) => each.endsWith('<11> me: words')),
    );
    assert.ok(line);
  });

  test('a service that a package brings can be started and stopped', async () => {
    node.write(
      '/etc/systemd/system/thing.service',
      '[Service]\nEnvironment=A=4712\nExecStart=-/bin/sleep $A\n',
    );
    const isActive = async () => (await node.exec(['systemctl', 'is-active', 'thing'])).stdout.trim();
    await node.check(['systemctl', 'start', 'thing.service']);
    assert.equal(await isActive(), 'active');
    await node.check(['pgrep', '-f', '^/bin/sleep 4712']);
    await node.check(['systemctl', 'stop', 'thing']);
    assert.equal(await isActive(), 'inactive');
  });

  test('a guest boots, ticks, says so, and the power button turns it off', async () => {
    await createDisk('/shared/plain.raw', { node });
    await startDomain(node, {
      name: 'plain',
      disks: [{ path: '/shared/plain.raw' }],
      serial: '/shared/plain.serial',
    });
    const witness = await waitForTicks('/shared/plain.raw', 3, { node });
    assert.equal(witness.boots, 1);
    assert.equal(witness.tickBoot, 1);
    const said = readSerial('/shared/plain.serial', node);
    assert.equal(said.boots, 1);
    assert.ok(said.acknowledged >= witness.ticks - 1 && said.errors === 0);
    await node.check(['virsh', 'shutdown', 'plain']);
    const off = await Deadline.in(10_000).poll(50, async () =>
      (await node.exec(['virsh', 'domstate', 'plain'])).exitCode === 0 ? undefined : true,
    );
    assert.ok(off);
  });

  for (const [bus, machine] of [
    ['ide', 'pc'],
    ['scsi', 'pc'],
    ['sata', 'q35'],
  ] as const) {
    test(`the guest boots from a qcow2 disk on ${bus}, and writes to a second disk`, async () => {
      const place = { node, format: 'qcow2' } as const;
      const [first, second] = [`/shared/${bus}.qcow2`, `/shared/${bus}-2.qcow2`];
      await createDisk(first, place);
      await createDisk(second, { ...place, content: 'data' });
      const disks = [first, second].map((path) => ({ path, bus, format: 'qcow2' }) as const);
      await startDomain(node, { name: bus, machine, disks });
      await waitForTicks(first, 2, place);
      assert.ok((await readWitness(second, place)).ticks > 0);
      await node.check(['virsh', 'destroy', bus]);
    });
  }

  test('ticks go on where the backing image ends', async () => {
    await createDisk('/shared/base.raw', { node });
    await startDomain(node, { name: 'base', disks: [{ path: '/shared/base.raw' }] });
    await waitForTicks('/shared/base.raw', 2, { node });
    await node.check(['virsh', 'destroy', 'base']);
    const base = await readWitness('/shared/base.raw', { node });
    await createOverlay('/shared/top.qcow2', { path: '/shared/base.raw', format: 'raw' }, { node });
    await startDomain(node, { name: 'top', disks: [{ path: '/shared/top.qcow2', format: 'qcow2' }] });
    const top = await waitForTicks('/shared/top.qcow2', 2, { node, format: 'qcow2' });
    assert.equal(top.boots, base.boots + 1);
    assert.ok(top.ticks > base.ticks);
    assert.deepEqual(await readWitness('/shared/base.raw', { node }), base);
    await node.check(['virsh', 'destroy', 'top']);
  });

  test('failing storage pauses the guest, which goes on when the storage is mended', async () => {
    await createDisk('/shared/hurt.raw', { node });
    await startDomain(node, { name: 'hurt', disks: [{ path: '/shared/hurt.raw' }], env: await faultEnv() });
    const fault = new Fault(node);
    for (const letters of ['W', 'F', 'WN']) {
      await waitForTicks('/shared/hurt.raw', 2, { node });
      const before = fault.hits().length;
      fault.set(letters, 'hurt.raw');
      await waitForState(node, 'hurt', 'paused (I/O error)');
      assert.equal(fault.hits()[before], `${letters[0]} /shared/hurt.raw`);
      fault.clear();
      await node.check(['virsh', 'resume', 'hurt']);
    }
    await waitForTicks('/shared/hurt.raw', 2, { node });
    await node.check(['virsh', 'destroy', 'hurt']);
  });

  test('a write that the guest is told has failed is not called written, and repeated', async () => {
    await createDisk('/shared/told.raw', { node });
    await startDomain(node, {
      name: 'told',
      disks: [{ path: '/shared/told.raw', errorPolicy: 'report' }],
      serial: '/shared/told.serial',
      env: await faultEnv('told'),
    });
    await waitForTicks('/shared/told.raw', 2, { node });
    const fault = new Fault(node, 'told');
    fault.set('W', 'told.raw');
    const said = () => readSerial('/shared/told.serial', node);
    assert.ok(await Deadline.in(5_000).poll(20, () => said().errors > 1 || undefined));
    assert.equal(said().acknowledged, (await readWitness('/shared/told.raw', { node })).ticks);
    fault.clear();
    await waitForTicks('/shared/told.raw', 2, { node });
    const { acknowledged } = said();
    assert.ok((await readWitness('/shared/told.raw', { node })).ticks >= acknowledged);
    await node.check(['virsh', 'destroy', 'told']);
  });

  test('hung storage stops the ticks and nothing else', async () => {
    await createDisk('/shared/hung.raw', { node });
    await startDomain(node, {
      name: 'hung',
      disks: [{ path: '/shared/hung.raw' }],
      env: await faultEnv('hang'),
    });
    await waitForTicks('/shared/hung.raw', 2, { node });
    const fault = new Fault(node, 'hang');
    fault.set('WH', 'hung.raw');
    assert.ok(await Deadline.in(5_000).poll(20, () => fault.hits().length > 0 || undefined));
    const before = await readWitness('/shared/hung.raw', { node });
    await sleep(500);
    assert.deepEqual(await readWitness('/shared/hung.raw', { node }), before);
    await waitForState(node, 'hung', 'running (booted)');
    fault.clear();
    await waitForTicks('/shared/hung.raw', 2, { node });
    await node.check(['virsh', 'destroy', 'hung']);
  });

  test('storage behind nbdkit fails and hangs as told', async () => {
    await createDisk('/shared/nbd.raw', { node });
    await using server = await NbdServer.start(node, '/shared/nbd.raw');
    await startDomain(node, { name: 'nbd', disks: [{ nbd: server.socket }] });
    await waitForTicks('/shared/nbd.raw', 2, { node });
    server.fail('write');
    await waitForState(node, 'nbd', 'paused (I/O error)');
    server.mend();
    await node.check(['virsh', 'resume', 'nbd']);
    await waitForTicks('/shared/nbd.raw', 2, { node });
    await server.pause();
    const before = await readWitness('/shared/nbd.raw', { node });
    await sleep(500);
    assert.deepEqual(await readWitness('/shared/nbd.raw', { node }), before);
    await server.resume();
    await waitForTicks('/shared/nbd.raw', 2, { node });
    await node.check(['virsh', 'destroy', 'nbd']);
  });

  test('keys make the guest panic, and hang so that the watchdog pauses it', async () => {
    await createDisk('/shared/keys.raw', { node, settings: { watchdog: true } });
    const disks = [{ path: '/shared/keys.raw' }];
    await startDomain(node, { name: 'keys', disks, pvpanic: true, onCrash: 'preserve', watchdog: 'pause' });
    await waitForTicks('/shared/keys.raw', 2, { node });
    await press(node, 'keys', 'c');
    await waitForTicks('/shared/keys.raw', 2, { node });
    await press(node, 'keys', 'h');
    await waitForState(node, 'keys', 'paused (watchdog)');
    await node.check(['virsh', 'reset', 'keys']);
    await node.check(['virsh', 'resume', 'keys']);
    await waitForTicks('/shared/keys.raw', 2, { node });
    await press(node, 'keys', 'p');
    await waitForState(node, 'keys', 'crashed (panicked)');
    await node.check(['virsh', 'destroy', 'keys']);
  });

  test('a key makes a guest on KVM fail with an internal error', {
    skip: !existsSync('/dev/kvm'),
  }, async () => {
    await createDisk('/shared/kvm.raw', { node });
    await startDomain(node, { name: 'kvm', type: 'kvm', disks: [{ path: '/shared/kvm.raw' }] });
    await waitForTicks('/shared/kvm.raw', 2, { node });
    await press(node, 'kvm', 'i');
    await waitForState(node, 'kvm', 'paused (unknown)');
    const status = await node.check(['virsh', 'qemu-monitor-command', 'kvm', '{"execute":"query-status"}']);
    assert.match(status, /"status":"internal-error"/);
    await node.check(['virsh', 'destroy', 'kvm']);
  });

  test('a guest migrates live between the nodes and stays the same guest', async () => {
    await createDisk('/shared/move.raw', { node });
    await startDomain(node, { name: 'move', disks: [{ path: '/shared/move.raw' }], bridges: ['br0'] });
    const before = await waitForTicks('/shared/move.raw', 2, { node });
    await node.check(['virsh', 'migrate', '--live', '--unsafe', 'move', 'qemu+tcp://node2/system']);
    const after = await waitForTicks('/shared/move.raw', 2, { node });
    assert.equal(after.instance, before.instance);
    assert.ok(after.ticks > before.ticks && after.boots === 1);
    await lab.node(2).check(['virsh', 'destroy', 'move']);
  });

  test('a cut node is alone until it is healed, also over a reboot', async () => {
    const other = lab.node(2);
    const reaches = async () => (await node.exec(['ping', '-c1', '-W1', 'node2'])).exitCode === 0;
    assert.ok(await reaches());
    await other.cut();
    assert.equal(await reaches(), false);
    await other.reboot();
    assert.equal(await other.status(), 'on cut');
    assert.equal(await reaches(), false);
    await other.heal();
    // As with real cables it takes the kernel up to a second to notice.
    assert.ok(await Deadline.in(5_000).poll(50, async () => (await reaches()) || undefined));
  });

  test('a node that is off has no process left, and finds what it wrote when it is on again', async () => {
    const other = lab.node(2);
    other.write('/etc/kept', 'kept');
    await createDisk('/shared/dies.raw', { node });
    await startDomain(other, { name: 'dies', disks: [{ path: '/shared/dies.raw' }] });
    await waitForTicks('/shared/dies.raw', 2, { node });
    const namespace = readlinkSync(`/proc/${other.pid}/ns/pid`);
    await other.powerOff();
    const left = readdirSync('/proc').filter((pid) => {
      try {
        return readlinkSync(`/proc/${pid}/ns/pid`) === namespace;
      } catch {
        return false;
      }
    });
    assert.deepEqual(left, []);
    assert.equal(other.isOn, false);
    assert.throws(() => other.pid, /node2 is off/);
    await other.powerOn();
    assert.equal(await other.check(['cat', '/etc/kept']), 'kept');
    assert.equal(await other.check(['virsh', '--quiet', 'list', '--all']), '');
  });

  test('a node that reboots itself comes back', async () => {
    const other = lab.node(2);
    const pid = other.pid;
    await other.exec(['python3', '-c', 'import ctypes; ctypes.CDLL(None).reboot(0x1234567)']);
    assert.ok(await Deadline.in(5_000).poll(20, () => (other.isOn && other.pid !== pid) || undefined));
    await other.waitUntilReady();
  });
});

describe('the life of a lab', () => {
  test('down leaves no process, mount, interface or file', async () => {
    const before = await hostState();
    const lab = await Lab.up({ nodes: 2, cluster: false });
    await createDisk('/shared/guest.raw', { node: lab.node(1) });
    await startDomain(lab.node(1), {
      name: 'guest',
      disks: [{ path: '/shared/guest.raw' }],
      bridges: ['br0'],
    });
    const pids = processesOf(lab);
    assert.ok(pids.length > 10, `only ${pids.length} processes were seen`);
    await lab.down();
    assert.deepEqual(await goneWithin(0, pids), []);
    assert.equal(existsSync(lab.layout.directory), false);
    assert.equal(await hostState(), before);
  });

  test('the death of its creator is the death of the lab', async () => {
    const script = `
      import { Lab } from ${JSON.stringify(join(import.meta.dirname, 'client.ts'))};
      const lab = await Lab.up({ nodes: 1, cluster: false });
      console.log(lab.layout.directory);
      setInterval(() => {}, 1000);`;
    const creator = spawn(process.execPath, ['--input-type=module', '-e', script], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const directory = await new Promise<string>((resolve) => {
      creator.stdout.setEncoding('utf8').on('data', (text: string) => resolve(text.trim()));
    });
    const pids = processesOf(Lab.attach(directory));
    creator.kill('SIGKILL');
    assert.deepEqual(await goneWithin(10_000, pids), []);
    assert.equal(existsSync(directory), false);
  });

  test('a directory holds one lab at a time, and what a crashed one left is cleaned', async () => {
    const directory = freshDirectory();
    const first = await Lab.up({ directory, nodes: 1, cluster: false });
    await assert.rejects(Lab.up({ directory, nodes: 1, cluster: false }), /already up .* take it down with/);
    const pids = processesOf(first);
    process.kill(first.pid, 'SIGKILL');
    assert.deepEqual(await goneWithin(10_000, pids), []);
    assert.ok(existsSync(first.layout.mark));
    assert.throws(() => Lab.attach(directory), /no lab is up/);
    const second = await Lab.up({ directory, nodes: 1, cluster: false });
    assert.equal((await second.node(1).exec(['true'])).exitCode, 0);
    process.kill(second.pid, 'SIGKILL');
    assert.deepEqual(await goneWithin(10_000, [second.pid]), []);
    await Lab.remove(directory);
    assert.equal(existsSync(directory), false);
    await assert.rejects(Lab.remove(directory), /no lab is up/);
  });

  test('several labs live side by side', async () => {
    await using first = await Lab.up({ nodes: 1, cluster: false });
    await using second = await Lab.up({ nodes: 1, cluster: false });
    first.node(1).write('/shared/mine', '');
    assert.equal((await second.node(1).exec(['test', '-e', '/shared/mine'])).exitCode, 1);
    await first.down();
    assert.equal((await second.node(1).exec(['virsh', 'uri'])).exitCode, 0);
  });

  test('a directory that no lab made is left alone', async () => {
    const directory = freshDirectory();
    writeFileSync(join(directory, 'precious'), '');
    await assert.rejects(Lab.up({ directory, nodes: 1, cluster: false }), /is not a lab's and not empty/);
    assert.deepEqual(readdirSync(directory), ['precious']);
    rmSync(directory, { recursive: true });
  });

  test('an installed tree lies over the root of every node', async () => {
    const tree = freshDirectory();
    const agents = 'usr/lib/ocf/resource.d/heartbeat';
    mkdirSync(join(tree, agents), { recursive: true });
    writeFileSync(join(tree, agents, 'Thing'), '#!/bin/sh\n', { mode: 0o755 });
    await using lab = await Lab.up({ nodes: 2, cluster: false, install: tree });
    const listed = await lab.node(2).check(['ls', `/${agents}`]);
    assert.match(listed, /^Thing$/m);
    assert.match(listed, /^VirtualDomain$/m);
    rmSync(tree, { recursive: true });
  });

  test('what does not come up says what it printed, and leaves nothing', async () => {
    const directory = freshDirectory();
    const broken = { directory, nodes: 1, cluster: false, qemuConf: 'user = broken"', timeout: 3_000 };
    await assert.rejects(Lab.up(broken), /libvirt does not answer/);
    assert.equal(existsSync(directory), false);
  });

  test('the command line builds a lab that outlives it, works in it, and takes it down', async () => {
    const directory = freshDirectory();
    const lab = (command: string, ...args: string[]) =>
      runChecked(process.execPath, [CLI, command, '--dir', directory, ...args], {
        deadline: Deadline.in(60_000),
      });
    assert.match(await lab('up', '--nodes', '1', '--no-cluster'), /^node1: up after \d+\.\d s/);
    assert.equal(await lab('exec', '--env', 'A=1 2', 'node1', 'sh', '-c', 'echo "$A"'), '1 2\n');
    assert.match(await lab('status'), /^node1 {2}on, process \d+, guests: none$/m);
    assert.equal(await lab('power', 'off', 'node1'), 'off\n');
    assert.match(await lab('status'), /^node1 {2}off$/m);
    await lab('down');
    assert.equal(existsSync(directory), false);
  });
});

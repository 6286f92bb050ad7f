/**
 * Shows the main job on one host: a guest whose storage fails is made failover-safe, proved so, and preserved, while
 * the same guest starts elsewhere. Then the same fault under ocf:heartbeat:VirtualDomain. Each claim is checked; the
 * exit code is 0 only if all hold. Nothing of it is left, however it ends.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Deadline, sleep } from '../../lib/deadline.ts';
import { messageOf } from '../../lib/error.ts';
import { Fault, faultEnv } from '../fault/fault.ts';
import { type Domain, domainXml } from '../guest/domain.ts';
import { createDisk, readSerial, readWitness, waitForTicks } from '../guest/witness.ts';
import { Lab, type LabNode } from '../lab/client.ts';
import { type Answer, installedTree, Resource } from '../support/agent.ts';
import { Screen } from './screen.ts';

const VIRTUAL_DOMAIN = '/usr/lib/ocf/resource.d/heartbeat/VirtualDomain';

/** Milliseconds for what takes a moment: a boot, an error to be noticed. */
const PATIENCE = 20_000;

let interrupted = false;

const screen = new Screen({
  // What fails because it was interrupted says nothing of the claims.
  write: (text) => interrupted || process.stdout.write(text),
  isTTY: process.stdout.isTTY === true,
  columns: process.stdout.columns,
  environment: process.env,
});

async function demo(node: LabNode): Promise<void> {
  const guest = await prepare(node, 'vm1');
  await preserve(node, guest);
  await runElsewhere(node, guest);
  const other = await prepare(node, 'vm2');
  await asVirtualDomain(node, other);
}

interface DemoGuest {
  readonly resource: Resource;
  readonly domain: Domain;
  readonly disk: string;
  readonly serial: string;
  readonly fault: Fault;
}

/** A small guest that counts: every tick is written to its disk, and said on its serial port once it is written. */
async function prepare(node: LabNode, name: string): Promise<DemoGuest> {
  const [disk, serial] = [`/shared/${name}.img`, `/shared/${name}.serial`];
  const domain: Domain = { name, disks: [{ path: disk }], env: await faultEnv(`fault-${name}`) };
  const resource = new Resource(domain);
  resource.configure(node);
  await createDisk(disk, { node });
  return { resource, domain, disk, serial, fault: new Fault(node, `fault-${name}`) };
}

/** From the start to the proof. */
async function preserve(node: LabNode, { resource, disk, serial, fault }: DemoGuest): Promise<void> {
  const { name } = resource.domain;
  screen.title(`1. ${name} under ocf:kvmha:KvmGuest`);
  screen.step(`The agent starts ${name}, a real guest of QEMU and libvirt that counts on its disk, ${disk}.`);
  await answered('start', resource.call(node, 'start'), 0);
  // What it says on its serial port is what it has been told is written.
  const listen = `exec cat "$(virsh ttyconsole ${name})" >${serial}`;
  node.spawn(['sh', '-c', listen], {}, { stdio: 'ignore' }).unref();
  const { ticks } = await waitForTicks(disk, 3, { node });
  screen.claim(`${name} runs: it has written ${ticks} ticks`, ticks > 0);
  await answered('monitor', resource.call(node, 'monitor'), 0);

  screen.step(
    `Its storage fails. (A library preloaded into this one QEMU lets every write to ${disk} fail with EIO, as a broken ` +
      'disk or path would; the error then goes its true way through QEMU.)',
  );
  fault.set('W', disk);
  screen.claim(
    'QEMU has stopped the guest: libvirt says "paused (I/O error)"',
    await isPaused(node, resource),
  );

  screen.step(
    'The next monitor finds it. It makes the guest failover-safe, and answers once that is proved.',
  );
  await answered('monitor', resource.call(node, 'monitor'), 7);
  const proof = JSON.parse((await node.exec(['kvmha', 'proof', name, '--json'])).stdout);
  screen.step(`"kvmha proof ${name}", item by item, as it is seen now:`);
  for (const { item, holds, seen } of proof.items ?? []) {
    screen.claim(`${item}: ${seen}`, holds);
  }
  screen.claim(
    'the proof is complete: the cluster may start the guest on another node, without fencing this one',
    proof.complete === true,
  );

  const said = readSerial(serial, node).acknowledged;
  const written = (await readWitness(disk, { node })).ticks;
  screen.claim(
    `no write is lost: the guest was told of ${said} ticks, and ${written} are on the disk`,
    said <= written,
  );
  screen.step('The cluster stops it on this node, which is where VirtualDomain would kill it.');
  const pid = await resource.pid(node);
  await answered('stop', resource.call(node, 'stop'), 0);
  screen.claim(`QEMU, process ${pid}, is alive`, pid !== undefined && (await resource.pid(node)) === pid);
}

/** The copy of the guest that a cluster would start on another node, beside the preserved one. */
async function runElsewhere(node: LabNode, { resource, domain, disk }: DemoGuest): Promise<void> {
  const { name } = domain;
  const pid = await resource.pid(node);
  const before = await readWitness(disk, { node });
  const copy = `${name}-elsewhere`;
  screen.step(
    `The cluster starts it on another node. (Here that is a second QEMU, ${copy}, on the same image; its storage works.)`,
  );
  node.write(`/shared/${copy}.xml`, domainXml({ name: copy, disks: [{ path: disk }] }));
  await node.check(['virsh', 'create', `/shared/${copy}.xml`]);
  const after = await waitForTicks(disk, 3, { node });
  screen.claim(
    `it has opened the image for writing, booted (boot ${after.boots}), and goes on counting from ${before.ticks}: ${after.ticks}`,
    after.boots === before.boots + 1 && after.ticks > before.ticks,
  );
  screen.claim(`the first QEMU, process ${pid}, is still alive`, (await resource.pid(node)) === pid);

  screen.step('Somebody tries to resume the first one, or to start it again.');
  await refused(node, ['virsh', 'resume', name]);
  await refused(node, ['virsh', 'qemu-monitor-command', name, '{"execute":"cont"}']);
  await answered('start', resource.call(node, 'start'), 5);
  const { instance } = await waitForTicks(disk, 2, { node });
  screen.claim('only the second one writes to the image', instance === after.instance);

  screen.step(`"kvmha postmortem ${name}": the first one is still there to be examined.`);
  const collected = await node.exec(['kvmha', 'postmortem', name, '--output', '/shared/postmortem']);
  const manifest = JSON.parse(await node.check(['cat', '/shared/postmortem/manifest.json']));
  const memory = manifest.files.find((file: { name: string }) => file.name === 'memory.elf');
  screen.claim(
    `its memory (${Math.round(memory?.bytes / 1024 / 1024)} MiB) and ${manifest.files.length - 1} other files are saved`,
    collected.exitCode === 0 && manifest.complete === true && memory?.bytes > 0,
    collected.stderr,
  );

  screen.step(`"kvmha release ${name}" ends it.`);
  const released = await node.exec(['kvmha', 'release', name]);
  screen.claim(
    'it has ended',
    released.exitCode === 0 && (await resource.pid(node)) === undefined,
    released.stderr,
  );
  const last = await waitForTicks(disk, 2, { node });
  screen.claim('the second one goes on counting', last.instance === after.instance);
  await node.check(['virsh', 'destroy', copy]);
}

/** What users have today. */
async function asVirtualDomain(node: LabNode, { resource, disk, fault }: DemoGuest): Promise<void> {
  const { name } = resource.domain;
  screen.title(`2. ${name}, the same guest with the same fault, under ocf:heartbeat:VirtualDomain`);
  screen.step(`VirtualDomain starts ${name}, and its storage fails in the same way.`);
  await answered('start', virtualDomain(node, resource, 'start'), 0);
  await waitForTicks(disk, 3, { node });
  fault.set('W', disk);
  screen.claim(
    'QEMU has stopped the guest: libvirt says "paused (I/O error)"',
    await isPaused(node, resource),
  );
  const before = await readWitness(disk, { node });
  await sleep(1500);
  const after = await readWitness(disk, { node });
  screen.claim(
    `the guest is dead in the water: ${after.ticks} ticks, and no more`,
    after.ticks === before.ticks,
  );
  screen.step('Its monitor, every time:');
  await answered('monitor', virtualDomain(node, resource, 'monitor'), 0);
  screen.detail('"Running": the cluster does nothing, and nobody is told.');
  screen.step(
    'When somebody has found out and the cluster stops it (timeout 8 s, the request to shut down is unheard):',
  );
  await answered('stop', virtualDomain(node, resource, 'stop'), 0);
  screen.claim('QEMU is killed: nothing is left to be examined', (await resource.pid(node)) === undefined);
}

async function virtualDomain(node: LabNode, { config, domain }: Resource, action: string): Promise<Answer> {
  const off = {
    autoset_utilization_cpu: 'false',
    autoset_utilization_hv_memory: 'false',
    autoset_utilization_host_memory: 'false',
  };
  const parameters = { config, hypervisor: 'qemu:///system', CRM_meta_timeout: '8000', ...off };
  const output = await node.exec([VIRTUAL_DOMAIN, action], {
    env: {
      OCF_ROOT: '/usr/lib/ocf',
      OCF_RA_VERSION_MAJOR: '1',
      OCF_RESOURCE_INSTANCE: domain.name,
      __OCF_ACTION: action,
      HA_LOGFILE: '/var/log/agent.log',
      ...Object.fromEntries(Object.entries(parameters).map(([key, value]) => [`OCF_RESKEY_${key}`, value])),
    },
    timeout: PATIENCE,
  });
  return { ...output, reason: /^ocf-exit-reason:(.*)$/m.exec(output.stderr)?.[1] };
}

/** What an action of an agent means to the cluster. */
const MEANING: { readonly [code: number]: string } = {
  0: 'success',
  1: 'failed',
  5: 'must not run on this node',
  7: 'not running',
};

async function answered(action: string, call: Promise<Answer>, expected: number): Promise<void> {
  const begun = performance.now();
  const { exitCode, reason, stderr } = await call;
  const seconds = ((performance.now() - begun) / 1000).toFixed(1);
  screen.claim(
    `${action} answers ${exitCode} (${MEANING[exitCode] ?? 'failed'}) after ${seconds} s` +
      `${reason === undefined ? '' : `: ${reason}`}`,
    exitCode === expected,
    `it should be ${expected}; ${stderr}`,
  );
}

async function refused(node: LabNode, command: readonly string[]): Promise<void> {
  const { exitCode, stdout, stderr } = await node.exec(command);
  // virsh qemu-monitor-command succeeds in passing on QEMU's error.
  const error =
    /"desc":"([^"]*)"/.exec(stdout)?.[1] ?? (exitCode === 0 ? undefined : stderr.trim().split('\n').at(-1));
  screen.claim(`${command.join(' ')} is refused: ${error}`, error !== undefined);
}

async function isPaused(node: LabNode, resource: Resource): Promise<boolean> {
  const wait = Deadline.in(PATIENCE).poll(50, async () =>
    (await resource.state(node)) === 'paused (I/O error)' ? true : undefined,
  );
  return (await wait) === true;
}

async function main(): Promise<number> {
  // Everything that must be gone at the end lies here, or in the lab, which ends with this process.
  const directory = mkdtempSync(join(tmpdir(), 'kvmha-demo-'));
  process.env['TMPDIR'] = directory;
  process.on('exit', () => rmSync(directory, { recursive: true, force: true }));
  await using left = new AsyncDisposableStack();
  const interruption = new Promise<number>((resolve) => {
    for (const [signal, code] of SIGNALS) {
      // For good: where nobody listens any more, the library that runs programs ends this one.
      process.on(signal, () => {
        interrupted = true;
        resolve(code);
      });
    }
  });
  const installing = installedTree();
  const shown = show(installing, left);
  const code = await Promise.race([shown, interruption]);
  // What is under way when it is interrupted fails, because its lab goes away; but nothing may be installed later.
  shown.catch(() => {});
  await installing.catch(() => {});
  return code;
}

/** What a shell says of a program that such a signal ended. */
const SIGNALS = [
  ['SIGHUP', 129],
  ['SIGINT', 130],
  ['SIGTERM', 143],
] as const;

async function show(
  installing: ReturnType<typeof installedTree>,
  left: AsyncDisposableStack,
): Promise<number> {
  screen.title('kvmha: a guest whose storage fails, made failover-safe and preserved, on one host');
  screen.step(
    'A lab: a host of its own in namespaces, with libvirt, QEMU and the installed agent. This host is left alone.',
  );
  const tree = left.use(await installing);
  const lab = left.use(await Lab.up({ nodes: 1, cluster: false, install: tree.path }));
  const node = lab.node(1);
  node.write('/etc/kvmha/policy.yaml', 'quiesce:\n  require-eligible-node: false\n');
  screen.detail(
    'There is no cluster: the demo calls the agent as Pacemaker would, and the policy says that no other node is needed.',
  );
  await demo(node);
  screen.title(
    screen.failures === 0
      ? 'Everything was as it was said to be. The lab is removed.'
      : `${screen.failures} of the claims above did NOT hold. The lab is removed.`,
  );
  return screen.failures === 0 ? 0 : 1;
}

try {
  process.exitCode = await main();
} catch (error) {
  process.stderr.write(`demo: ${messageOf(error)}\n`);
  process.exitCode = 1;
}
process.exit();

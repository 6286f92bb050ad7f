import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { Deadline, sleep } from '../../lib/deadline.ts';
import type { Output } from '../../lib/run.ts';
import { Fault, faultEnv } from '../fault/fault.ts';
import type { Domain } from '../guest/domain.ts';
import { createDisk } from '../guest/witness.ts';
import { Lab, type LabNode } from '../lab/client.ts';
import { installedTree } from '../support/agent.ts';
import { answers, processesNamed, TestGuest, until, uuidOf } from '../support/host.ts';

/**
 * libvirt gives qemu the images and takes them back, as distributions configure it. That shows in the group alone: with
 * another user, libvirt would ask QEMU for all it can do at every start, which takes 15 s.
 */
const QEMU_CONF = `\
group = "kvm"
dynamic_ownership = 1
`;

const POLICY = 'quiesce: { storm: { guests: 1000, seconds: 1 }, require-eligible-node: false }\n';

interface Ground extends AsyncDisposable {
  readonly lab: Lab;
}

async function ground(nodes: number, cluster: boolean): Promise<Ground> {
  await using starting = new AsyncDisposableStack();
  const tree = starting.use(await installedTree());
  const lab = starting.use(await Lab.up({ nodes, cluster, install: tree.path, qemuConf: QEMU_CONF }));
  for (const node of lab.nodes) {
    node.write('/etc/kvmha/policy.yaml', POLICY);
  }
  const left = starting.move();
  return { lab, [Symbol.asyncDispose]: () => left.disposeAsync() };
}

function kvmha(node: LabNode, ...words: string[]): Promise<Output> {
  return node.exec(['kvmha', ...words]);
}

/** Fails unless the command exited with `code`, and said so. */
function exits({ exitCode, stdout, stderr }: Output, code: number, ...said: RegExp[]): void {
  assert.equal(exitCode, code, `exited ${exitCode}, not ${code}:\n${stdout}${stderr}`);
  for (const pattern of said) {
    assert.match(`${stdout}${stderr}`, pattern);
  }
  assert.doesNotMatch(stderr, /^\s+at .*:\d+/m, 'a stack trace was shown');
}

/** A guest whose disk all nodes see, as the resource of its own name. */
async function newGuest(
  node: LabNode,
  name: string,
  more: Partial<Domain> = {},
  parameters = {},
): Promise<TestGuest> {
  const disk = `/shared/${name}.img`;
  const domain: Domain = {
    name,
    uuid: uuidOf(name),
    disks: [{ path: disk }],
    env: await faultEnv(`fault-${name}`),
    ...more,
  };
  await createDisk(disk, { node });
  const guest = new TestGuest(node, domain, disk, parameters);
  guest.resource.configure(node);
  return guest;
}

async function runningGuest(
  node: LabNode,
  name: string,
  more: Partial<Domain> = {},
  parameters = {},
): Promise<TestGuest> {
  const guest = await newGuest(node, name, more, parameters);
  answers(await guest.call('start'), 0);
  await guest.ticks();
  return guest;
}

async function failingGuest(
  node: LabNode,
  name: string,
  more: Partial<Domain> = {},
  parameters = {},
): Promise<TestGuest> {
  const guest = await runningGuest(node, name, more, parameters);
  new Fault(node, guest.fault).set('W', guest.disk);
  await guest.untilState('paused (I/O error)');
  return guest;
}

async function preservedGuest(
  node: LabNode,
  name: string,
  more: Partial<Domain> = {},
  parameters = {},
): Promise<TestGuest> {
  const guest = await failingGuest(node, name, more, parameters);
  answers(await guest.monitor(), 7);
  return guest;
}

/** The same resource on another node. */
function elsewhere(guest: TestGuest, node: LabNode): TestGuest {
  return new TestGuest(node, guest.resource.domain, guest.disk);
}

async function status(node: LabNode, name: string) {
  const { stdout } = await kvmha(node, 'status', '--json');
  const report = JSON.parse(stdout);
  return { report, guest: report.guests.find((each: { name: string }) => each.name === name) };
}

describe('the command on two nodes without a cluster', { timeout: 600_000 }, () => {
  let here: Ground;
  let node: LabNode;
  let other: LabNode;
  before(async () => {
    here = await ground(2, false);
    node = here.lab.node(1);
    other = here.lab.node(2);
  });
  after(() => here[Symbol.asyncDispose]());

  /** Owner and mode of a guest's disk. */
  const ownerOf = (guest: TestGuest) => {
    const { uid, gid, mode } = statSync(here.lab.shared(guest.disk.replace('/shared/', '')));
    return `${uid}:${gid} ${(mode & 0o777).toString(8)}`;
  };
  const restartLibvirtd = async () => {
    await node.check(['systemctl', 'start', 'libvirtd']);
    await node.waitUntilReady();
  };

  test('a node without guests is well', async () => {
    exits(await kvmha(other, 'status'), 0, /^no guest is known on node2$/m);
    exits(await kvmha(other, 'proof', 'ghost'), 1, /nothing is known of a guest "ghost" on this node/);
  });

  test('a guest that runs is well, could be quiesced, and is neither released nor collected', async () => {
    const guest = await runningGuest(node, 'run');
    exits(await kvmha(node, 'status', 'run'), 0, /^run +running +20\S+Z +\d+ +\d+ MiB/m);
    exits(await kvmha(node, 'proof', 'run'), 0, /It could be quiesced now/);
    exits(await kvmha(node, 'proof', guest.resource.domain.uuid ?? ''), 0);
    exits(await kvmha(node, 'release', 'run'), 1, /run is running, and release ends preserved guests only/);
    exits(await kvmha(node, 'release', 'run', '--force'), 1, /run is running/);
    exits(await kvmha(node, 'postmortem', 'run'), 1, /run is running.*kvmha quiesce run/);
    await guest.ticks();
    answers(await guest.stop(), 0);
  });

  test('proof names what would be refused, and quiesce refuses it and lets the guest run', async () => {
    const guest = await runningGuest(node, 'unsafe', {
      disks: [{ path: '/shared/unsafe.img', cache: 'unsafe' }],
    });
    exits(await kvmha(node, 'proof', 'unsafe'), 1, /refused: .*cache=unsafe/, /could not be proved/);
    const { stdout } = await kvmha(node, 'proof', 'unsafe', '--json');
    const report = JSON.parse(stdout);
    assert.equal(report.kind, 'assessment');
    assert.equal(report.possible, false);
    exits(
      await kvmha(node, 'quiesce', 'unsafe'),
      1,
      /cannot be proved failover-safe.*left as it was.*cache=unsafe/s,
    );
    await guest.ticks();
    answers(await guest.stop(), 0);
  });

  test('a guest is quiesced by hand, shown with its proof, and released', async () => {
    const guest = await failingGuest(node, 'hand');
    exits(await kvmha(node, 'status'), 1, /^hand +faulted .*io-error/m, /"kvmha quiesce hand"/);
    exits(
      await kvmha(node, 'quiesce', 'hand'),
      0,
      /hand is quiesced-failover-safe, hit by io-error/,
      /proof is complete/,
    );
    exits(await kvmha(node, 'quiesce', 'hand'), 0, /is quiesced-failover-safe already/);
    answers(await guest.probe(), 7);
    answers(await guest.monitor(), 7);
    answers(await guest.call('start'), 5, /kvmha release hand/);
    const proof = JSON.parse((await kvmha(node, 'proof', 'hand', '--json')).stdout);
    assert.equal(proof.complete, true);
    assert.ok(proof.items.length >= 7 && proof.items.every((item: { holds: boolean }) => item.holds));
    const { guest: shown, report } = await status(node, 'hand');
    assert.equal(report.libvirtSilent, null);
    assert.equal(shown.state, 'quiesced-failover-safe');
    assert.equal(shown.fault, 'io-error');
    assert.deepEqual(shown.proof, { complete: true, missing: [] });
    assert.ok(shown.qemu.memory > 10 * 1024 ** 2);
    exits(await kvmha(node, 'release', 'hand'), 0, /hand is released: its qemu, process \d+, has ended/);
    assert.deepEqual(guest.pids(), []);
    exits(await kvmha(node, 'release', 'hand'), 0, /hand has no qemu here any more/);
    exits(await kvmha(node, 'status'), 0);
    const journal = readFileSync(node.path('/var/log/kvmha/events.jsonl'), 'utf8');
    const lines = journal
      .split('\n')
      .slice(0, -1)
      .map((line) => JSON.parse(line));
    const own = lines.filter(({ by, guest }) => by === 'command' && guest === 'hand');
    assert.deepEqual(
      own.map(({ what, fault, action, outcome }) => ({ what, fault, action, outcome })),
      [
        { what: 'proved', fault: 'io-error', action: undefined, outcome: undefined },
        { what: 'done', fault: 'io-error', action: 'release', outcome: 'shut-off' },
        { what: 'done', fault: undefined, action: 'release', outcome: 'shut-off' },
      ],
    );
    new Fault(node, guest.fault).clear();
    answers(await guest.call('start'), 0);
    await guest.ticks();
    answers(await guest.stop(), 0);
  });

  test('a guest that runs is quiesced by hand, too, with the reason that is given', async () => {
    const guest = await runningGuest(node, 'byhand');
    exits(await kvmha(node, 'quiesce', 'byhand', '--reason', 'maintenance of the array'), 0);
    const { guest: shown } = await status(node, 'byhand');
    assert.equal(shown.fault, 'maintenance of the array');
    const written = await guest.witness();
    await sleep(300);
    assert.deepEqual(await guest.witness(), written);
    exits(await kvmha(node, 'release', 'byhand'), 0);
  });

  test('a false alarm is resumed, once somebody vouches that no other host runs the guest', async () => {
    const guest = await preservedGuest(node, 'alarm');
    const left = await guest.witness();
    exits(await kvmha(node, 'status', 'alarm'), 1, /"kvmha resume alarm" lets it go on here/);
    exits(
      await kvmha(node, 'resume', 'alarm'),
      1,
      /alarm is not resumed, and was left as it was:\n {2}no cluster runs here .*--not-elsewhere/,
    );
    answers(await guest.probe(), 7);
    new Fault(node, guest.fault).clear();
    exits(await kvmha(node, 'resume', 'alarm', '--not-elsewhere'), 0, /^alarm runs again, where it stopped/m);
    const now = await guest.ticks();
    assert.deepEqual([now.instance, now.boots], [left.instance, left.boots]);
    answers(await guest.monitor(), 0);
    exits(await kvmha(node, 'status'), 0);
    const { stdout, exitCode } = await kvmha(node, 'resume', 'alarm', '--not-elsewhere', '--json');
    assert.equal(exitCode, 1);
    assert.deepEqual(JSON.parse(stdout), {
      name: 'alarm',
      uuid: guest.resource.domain.uuid,
      runstate: null,
      next: [],
      outcome: 'refused',
      reasons: ['alarm is running, so there is nothing to be resumed'],
    });
    answers(await guest.stop(), 0);
  });

  test('a guest that ran on another node is not resumed, whoever vouches for it', async () => {
    const guest = await preservedGuest(node, 'ran');
    const there = elsewhere(guest, other);
    answers(await there.call('start'), 0);
    await there.ticks();
    const words = ['resume', 'ran', '--not-elsewhere'];
    exits(
      await kvmha(node, ...words),
      1,
      /ran\.img is not as this qemu left it/,
      /is in use by another qemu/,
    );
    answers(await there.stop(), 0);
    exits(await kvmha(node, ...words), 1, /ran\.img is not as this qemu left it/);
    answers(await guest.probe(), 7);
    exits(await kvmha(node, 'release', 'ran'), 0);
  });

  test('a resume that is killed is told of, and goes on', async () => {
    const guest = await preservedGuest(node, 'half');
    new Fault(node, guest.fault).clear();
    const path = `/run/kvmha/guests/${guest.resource.domain.uuid}/quiesce.json`;
    const record = JSON.parse(readFileSync(node.path(path), 'utf8'));
    node.write(path, JSON.stringify({ ...record, wasPreserved: true, resuming: true }));
    exits(await kvmha(node, 'status', 'half'), 1, /^half +faulted/m, /"kvmha resume half" goes on with it/);
    exits(
      await kvmha(node, 'proof', 'half'),
      1,
      /DOES NOT HOLD +writes-durable .*being given its images back/,
    );
    exits(await kvmha(node, 'quiesce', 'half'), 0, /proof is complete/);
    exits(await kvmha(node, 'resume', 'half', '--not-elsewhere'), 0);
    await guest.ticks();
    answers(await guest.stop(), 0);
  });

  test('who changes a guest waits for whoever is changing it', async () => {
    const guest = await failingGuest(node, 'locked');
    const folder = `/run/kvmha/guests/${guest.resource.domain.uuid}`;
    await node.check(['mkdir', '-p', folder]);
    const holder = node.spawn(['flock', `${folder}/lock`, 'sleep', '1000'], {}, { stdio: 'ignore' });
    await until('the lock to be held', () => processesNamed(node, 'sleep').length > 0);
    exits(
      await kvmha(node, 'quiesce', 'locked', '--timeout', '1'),
      1,
      /another kvmha process is changing this guest/,
    );
    exits(await kvmha(node, 'status', 'locked'), 1);
    process.kill(-(holder.pid ?? 0), 'SIGKILL');
    exits(await kvmha(node, 'quiesce', 'locked'), 0);
    exits(await kvmha(node, 'release', 'locked'), 0);
  });

  test('a release leaves the owner of an image that another node uses', async () => {
    const guest = await preservedGuest(node, 'owner');
    answers(await guest.stop(), 0);
    const there = elsewhere(guest, other);
    answers(await there.call('start'), 0);
    await there.ticks();
    const owner = ownerOf(guest);
    assert.doesNotMatch(owner, /^0:0 /, 'libvirt gives the image to qemu');
    const seen = new Set<string>();
    let ended = false;
    const watching = (async () => {
      while (!ended) {
        seen.add(ownerOf(guest));
        await sleep(1);
      }
    })();
    exits(await kvmha(node, 'release', guest.name), 0);
    await sleep(500);
    ended = true;
    await watching;
    assert.deepEqual([...seen], [owner], 'there was a moment at which it had another owner');
    assert.doesNotMatch(await node.check(['cat', '/proc/self/mountinfo']), /hidden-image/);
    await there.ticks();
    // It can be opened again by name, which is what quiescing it needs.
    exits(await kvmha(other, 'quiesce', guest.name), 0);
    exits(await kvmha(other, 'release', guest.name), 0);
  });

  test('without libvirtd everything works, and libvirtd does not take the image back when it returns', async () => {
    const guest = await preservedGuest(node, 'dead');
    const there = elsewhere(guest, other);
    answers(await there.call('start'), 0);
    await there.ticks();
    const owner = ownerOf(guest);
    for (const pid of processesNamed(node, 'libvirtd')) {
      process.kill(pid, 'SIGKILL');
    }
    try {
      exits(await kvmha(node, 'status'), 1, /^dead +quiesced-failover-safe/m, /libvirt does not answer/);
      exits(await kvmha(node, 'proof', 'dead'), 0, /proof is complete/);
      exits(await kvmha(node, 'release', 'dead'), 0);
      assert.deepEqual(guest.pids(), []);
    } finally {
      await restartLibvirtd();
    }
    assert.equal((await node.exec(['virsh', 'domstate', 'dead'])).exitCode, 1, 'libvirt has forgotten it');
    assert.equal(ownerOf(guest), owner);
    await there.ticks();
    answers(await there.stop(), 0);
  });

  test('with a libvirtd that hangs, status and proof answer, and release refuses', async () => {
    const guest = await preservedGuest(node, 'hung');
    const [daemon] = processesNamed(node, 'libvirtd');
    assert.ok(daemon);
    process.kill(daemon, 'SIGSTOP');
    try {
      exits(await kvmha(node, 'status'), 1, /^hung +quiesced-failover-safe/m, /libvirt does not answer/);
      exits(await kvmha(node, 'proof', 'hung'), 0);
      exits(await kvmha(node, 'release', 'hung'), 1, /libvirt does not answer.*Restart the daemon.*--force/);
      assert.equal(guest.pids().length, 1);
      answers(await guest.probe(), 7);
    } finally {
      process.kill(daemon, 'SIGCONT');
    }
    exits(await kvmha(node, 'release', 'hung'), 0);
  });

  describe('a release that is killed', () => {
    const size = async (path: string) => (await node.check(['stat', '-c', '%s', path])).trim();

    /** Hides the guest's image in the node, as a release does, and gives back what does it. */
    async function hide(guest: TestGuest) {
      const project = new URL('../..', import.meta.url).pathname;
      const script = `
        const { shadowImages } = await import('${project}lib/guest/image-shadow.ts');
        const { Deadline } = await import('${project}lib/deadline.ts');
        await shadowImages('${guest.resource.domain.uuid}', ['${guest.disk}'], Deadline.in(5000));
        console.log('hidden');
        setInterval(() => {}, 1000);`;
      const child = node.spawn([process.execPath, '--input-type=module', '-e', script]);
      await new Promise((resolve) => child.stdout?.once('data', resolve));
      assert.equal(await size(guest.disk), '0');
      return { kill: () => process.kill(-(child.pid ?? 0), 'SIGKILL') };
    }

    test('leaves no image hidden', async () => {
      const guest = await newGuest(node, 'hide');
      const hidden = await hide(guest);
      hidden.kill();
      await until('the image to be seen again', async () => (await size(guest.disk)) !== '0');
    });

    test('together with what guards the image: the next start lets it be seen again', async () => {
      const guest = await newGuest(node, 'hidden');
      const hidden = await hide(guest);
      const guards = await node.check(['pgrep', '-f', 'kvmha-shadow']);
      await node.check(['kill', '-KILL', ...guards.trim().split('\n')]);
      hidden.kill();
      assert.equal(await size(guest.disk), '0');
      answers(await guest.call('start'), 0);
      await guest.ticks();
      answers(await guest.stop(), 0);
    });
  });

  test('what cannot be read of a record is told, and the guest can be released all the same', async () => {
    const guest = await preservedGuest(node, 'torn');
    const path = `/run/kvmha/guests/${guest.resource.domain.uuid}/quiesce.json`;
    const record = JSON.parse(readFileSync(node.path(path), 'utf8'));
    assert.equal(record.format, 1);
    node.write(path, JSON.stringify({ ...record, format: 2 }));
    exits(await kvmha(node, 'status'), 1, /^torn +faulted/m, /quiesce\.json cannot be read: its format is 2/);
    exits(await kvmha(node, 'proof', 'torn'), 1, /proof is NOT complete/);
    writeFileSync(node.path(`/run/kvmha/guests/${guest.resource.domain.uuid}/quiesce.json`), '{"half":');
    exits(await kvmha(node, 'status'), 1, /^torn +faulted/m, /quiesce\.json is not JSON/);
    exits(await kvmha(node, 'proof', 'torn'), 1, /proof is NOT complete/);
    exits(await kvmha(node, 'release', 'torn'), 0);
    assert.deepEqual(guest.pids(), []);
    exits(await kvmha(node, 'status'), 0);
  });

  test('a preserved guest that has ended by itself is told of, and its remains are released', async () => {
    const guest = await preservedGuest(node, 'gone');
    process.kill(guest.pid(), 'SIGKILL');
    await until('it to be gone', () => guest.pids().length === 0);
    exits(await kvmha(node, 'status'), 1, /gone: it was preserved, and its qemu, process \d+, has ended/);
    exits(await kvmha(node, 'release', 'gone'), 0, /has no qemu here any more/);
    exits(await kvmha(node, 'status'), 0);
  });

  describe('a post-mortem', () => {
    let guest: TestGuest;
    before(async () => {
      guest = await preservedGuest(node, 'corpse', { memory: 64 });
    });

    /** The files of a folder with their modes. */
    const modes = (folder: string) =>
      readdirSync(node.path(folder)).map((name) => [
        name,
        (statSync(node.path(`${folder}/${name}`)).mode & 0o777).toString(8),
      ]);

    test('holds the memory and what QEMU and libvirt say, for root alone, with a manifest that is true', async () => {
      exits(
        await kvmha(node, 'postmortem', 'corpse', '--output', '/var/pm'),
        0,
        /The post-mortem in \/var\/pm is complete/,
      );
      assert.equal((statSync(node.path('/var/pm')).mode & 0o777).toString(8), '700');
      assert.ok(modes('/var/pm').every(([, mode]) => mode === '600'));
      const manifest = JSON.parse(readFileSync(node.path('/var/pm/manifest.json'), 'utf8'));
      assert.equal(manifest.complete, true);
      assert.equal(manifest.fault, 'io-error');
      assert.equal(manifest.state, 'quiesced-failover-safe');
      const names = manifest.files.map((file: { name: string }) => file.name);
      for (const name of [
        'memory.elf',
        'registers.txt',
        'query-block.json',
        'domain.xml',
        'qemu.log',
        'quiesce.json',
        'proof.json',
        'libvirt.txt',
        'kernel.log',
        'events.jsonl',
      ]) {
        assert.ok(names.includes(name), `${name} is there`);
      }
      assert.deepEqual(
        [...names, 'SHA256SUMS', 'manifest.json'].sort(),
        readdirSync(node.path('/var/pm')).sort(),
      );
      for (const { name, bytes, sha256 } of manifest.files) {
        const content = readFileSync(node.path(`/var/pm/${name}`));
        assert.equal(content.length, bytes);
        assert.equal(createHash('sha256').update(content).digest('hex'), sha256);
      }
      await node.check(['sh', '-c', 'cd /var/pm && sha256sum --check --strict --quiet SHA256SUMS']);
      const events = readFileSync(node.path('/var/pm/events.jsonl'), 'utf8').trim().split('\n');
      assert.ok(events.some((line) => JSON.parse(line).what === 'proved'));
      assert.ok(events.every((line) => JSON.parse(line).guest === 'corpse'));
      assert.match(readFileSync(node.path('/var/pm/libvirt.txt'), 'utf8'), /== virsh domstate .*\npaused/);
      const memory = readFileSync(node.path('/var/pm/memory.elf'));
      assert.ok(memory.length > 64 * 1024 ** 2);
      assert.equal(memory.toString('latin1', 0, 4), '\x7fELF');
      assert.match(readFileSync(node.path('/var/pm/registers.txt'), 'utf8'), /CPU#0\s+EAX=/);
      exits(await kvmha(node, 'status'), 1, /corpse: a post-mortem is in \/var\/pm\./);
    });

    test('leaves the guest as safe as it was, and libvirt alive', async () => {
      answers(await guest.probe(), 7);
      exits(await kvmha(node, 'proof', 'corpse'), 0);
      assert.equal(await guest.resource.state(node), 'paused (I/O error)');
    });

    test('goes into the folder of the policy, in its format', async () => {
      node.write('/etc/kvmha/dumps.yaml', 'dump: { directory: /var/dumps, format: kdump-zlib }\n');
      exits(await kvmha(node, 'postmortem', 'corpse', '--policy', '/etc/kvmha/dumps.yaml'), 0);
      const [folder] = readdirSync(node.path('/var/dumps'));
      assert.match(folder ?? '', /^corpse-20\d\d-\d\d-\d\dT[\d-]+Z$/);
      const dump = readFileSync(node.path(`/var/dumps/${folder}/memory.kdump`));
      // The flattened form of it, which begins so, is what QEMU writes to a file that it cannot seek in.
      assert.equal(dump.toString('latin1', 0, 8), 'makedump');
    });

    test('overwrites nothing', async () => {
      exits(
        await kvmha(node, 'postmortem', 'corpse', '--output', '/var/pm'),
        1,
        /\/var\/pm cannot be made: it is there already/,
      );
    });

    test('is not begun where the memory has no room', async () => {
      await node.check(['sh', '-c', 'mkdir /mnt/small && mount -t tmpfs -o size=50m none /mnt/small']);
      exits(
        await kvmha(node, 'postmortem', 'corpse', '-o', '/mnt/small/deep/pm'),
        1,
        /no post-mortem of corpse was begun.*has 50 MiB free, and 192 MiB are needed.*--output.*--no-memory/,
      );
      assert.deepEqual(readdirSync(node.path('/mnt/small')), []);
      exits(
        await kvmha(node, 'status'),
        1,
        /its post-mortem in \/mnt\/small\/deep\/pm is not complete: no post-mortem/,
      );
    });

    test('is one file, for root alone, if it is to, and shows on a terminal how far it is', async () => {
      const command = 'kvmha postmortem corpse -o /var/packed.tar --tar';
      const shown = await node.check(['script', '--quiet', '--return', '--command', command, '/dev/null']);
      assert.match(shown, /memory \[[# ]{30}\] +\d+ % .* of /);
      assert.match(shown, /The post-mortem in \/var\/packed\.tar is complete/);
      assert.equal((statSync(node.path('/var/packed.tar')).mode & 0o777).toString(8), '600');
      assert.ok(!readdirSync(node.path('/var')).includes('packed'));
      const unpack =
        'mkdir /var/unpacked && tar -xf /var/packed.tar -C /var/unpacked && cd /var/unpacked/packed';
      await node.check(['sh', '-c', `${unpack} && sha256sum --check --strict --quiet SHA256SUMS`]);
      assert.equal(
        JSON.parse(readFileSync(node.path('/var/unpacked/packed/manifest.json'), 'utf8')).complete,
        true,
      );
      exits(
        await kvmha(node, 'postmortem', 'corpse', '-o', '/var/packed', '--tar'),
        1,
        /it is there already/,
      );
    });

    test('has the memory but for the pages that cannot be read, if it is wanted after a memory error', async () => {
      const elements = "  <memoryBacking><source type='file'/><access mode='private'/></memoryBacking>\n";
      const poisoned = await preservedGuest(node, 'poisoned', { memory: 32, elements });
      const record = `/run/kvmha/guests/${poisoned.resource.domain.uuid}/quiesce.json`;
      await node.check(['sed', '-i', 's/"fault": *"[^"]*"/"fault": "memory failure"/', record]);
      // What lies behind the end of its file cannot be read, as a page that has failed.
      await node.check(['sh', '-c', 'truncate --size 31M /var/lib/libvirt/qemu/ram/*-poisoned/*']);
      exits(
        await kvmha(node, 'postmortem', 'poisoned', '-o', '/var/pm5'),
        1,
        /missing: memory\.elf: .*--memory/,
      );
      exits(
        await kvmha(node, 'postmortem', 'poisoned', '-o', '/var/pm6', '--memory', '--format=kdump-zlib'),
        0,
        /not in the memory: 1\.0 MiB at 0x1f00000, which cannot be read/,
      );
      const manifest = JSON.parse(readFileSync(node.path('/var/pm6/manifest.json'), 'utf8'));
      assert.deepEqual(manifest.unreadable, [{ address: '0x1f00000', bytes: 1024 ** 2 }]);
      assert.ok(modes('/var/pm6').every(([, mode]) => mode === '600'));
      await node.check(['sh', '-c', 'cd /var/pm6 && sha256sum --check --strict --quiet SHA256SUMS']);
      answers(await poisoned.probe(), 7);
      exits(await kvmha(node, 'release', 'poisoned'), 0);
    });

    test('makes older ones go, as the policy says, but not those of guests that are still here', async () => {
      for (const name of ['old-2020-01-01T00-00-00Z', 'old-2020-01-02T00-00-00Z', 'notes']) {
        node.write(`/var/kept/${name}/manifest.json`, '{}');
      }
      node.write('/var/kept/cut-2021-01-01T00-00-00Z/memory.partial', '');
      node.write('/etc/kvmha/kept.yaml', 'dump: { directory: /var/kept, keep: { number: 2 } }\n');
      exits(
        await kvmha(node, 'postmortem', 'corpse', '--policy', '/etc/kvmha/kept.yaml'),
        0,
        /Removed, .*cut-2021-01-01T00-00-00Z, .*old-2020-01-01T00-00-00Z/,
      );
      const left = readdirSync(node.path('/var/kept')).sort();
      assert.equal(left.length, 3);
      assert.match(left[0] ?? '', /^corpse-/);
      assert.deepEqual(left.slice(1), ['notes', 'old-2020-01-02T00-00-00Z']);
    });

    test('without memory is not complete, so that the guest is not released', async () => {
      const words = ['postmortem', 'corpse', '-o', '/var/pm2', '--no-memory', '--then-release'];
      exits(
        await kvmha(node, ...words),
        1,
        /corpse is not released, because its post-mortem is not complete/,
      );
      assert.equal(guest.pids().length, 1);
    });

    test('that is interrupted or killed leaves no manifest and nothing that looks like a dump', async () => {
      const guest = await preservedGuest(node, 'large', { memory: 256 });
      const job = `/run/kvmha/guests/${guest.resource.domain.uuid}/postmortem.json`;
      // Who writes it for libvirt, as the kernel cuts its name; QEMU waits for it.
      const writers = () => processesNamed(node, 'libvirt_iohelpe');
      const signalWriters = (signal: NodeJS.Signals) => {
        for (const pid of writers()) {
          process.kill(pid, signal);
        }
      };
      /** Begins one, sends it `signal` half-way, and tells what it has left. */
      const cutOff = async (folder: string, signal: string, meanwhile?: () => Promise<void>) => {
        const child = node.spawn(['kvmha', 'postmortem', 'large', '-o', folder], {}, { stdio: 'ignore' });
        const exited = new Promise((resolve) => child.on('exit', resolve));
        await until('the dump to be written', () => writers().length > 0);
        signalWriters('SIGSTOP');
        await meanwhile?.();
        const { pid } = JSON.parse(readFileSync(node.path(job), 'utf8')).process;
        await node.check(['kill', `-${signal}`, String(pid)]);
        await exited;
        const left = readdirSync(node.path(folder));
        signalWriters('SIGCONT');
        await until('libvirt to be done with it', () => writers().length === 0);
        return left;
      };
      const killed = await cutOff('/var/pm-killed', 'KILL');
      assert.ok(killed.includes('memory.partial') && !killed.includes('manifest.json'), killed.join(' '));
      exits(await kvmha(node, 'status', 'large'), 1, /its post-mortem in \/var\/pm-killed was interrupted/);
      const interrupted = await cutOff('/var/pm3', 'INT', async () => {
        exits(
          await kvmha(node, 'postmortem', 'large'),
          1,
          /a post-mortem of large is being collected in \/var\/pm3/,
        );
        exits(await kvmha(node, 'release', 'large'), 1, /A post-mortem of large is being collected/);
      });
      assert.ok(
        interrupted.length > 0 && !interrupted.some((name) => /^(memory|manifest)/.test(name)),
        interrupted.join(' '),
      );
      exits(await kvmha(node, 'status', 'large'), 1, /is not complete: it was interrupted by SIGINT/);
      exits(await kvmha(node, 'release', 'large'), 0);
    });

    test('then releases the guest, if it is to', async () => {
      exits(
        await kvmha(node, 'postmortem', 'corpse', '-o', '/var/pm4', '--then-release'),
        0,
        /corpse is released/,
      );
      assert.deepEqual(guest.pids(), []);
      exits(await kvmha(node, 'status'), 0);
    });
  });

  describe('what the agent does with a preserved guest', () => {
    test('preserved_guest=keep: nothing', async () => {
      const guest = await preservedGuest(node, 'keep');
      answers(await guest.stop(), 0);
      assert.equal(guest.pids().length, 1);
      exits(await kvmha(node, 'release', 'keep'), 0);
    });

    test('preserved_guest=destroy: the stop that finds it ends it', async () => {
      const guest = await preservedGuest(node, 'destroy', {}, { preserved_guest: 'destroy' });
      assert.equal(guest.pids().length, 1);
      answers(await guest.stop(), 0);
      assert.deepEqual(guest.pids(), []);
      exits(await kvmha(node, 'status'), 0);
    });

    test('preserved_guest=dump: the stop answers at once, and the guest is dumped and ended after it', async () => {
      node.write('/etc/kvmha/policy.yaml', `${POLICY}dump: { directory: /var/agent-dumps }\n`);
      const guest = await preservedGuest(node, 'dump', { memory: 128 }, { preserved_guest: 'dump' });
      answers(await guest.stop(), 0);
      answers(await guest.stop(), 0);
      await until('it to be ended', () => guest.pids().length === 0);
      const folders = readdirSync(node.path('/var/agent-dumps'));
      assert.equal(folders.length, 1, 'one job is enough');
      const manifest = JSON.parse(
        readFileSync(node.path(`/var/agent-dumps/${folders[0]}/manifest.json`), 'utf8'),
      );
      assert.equal(manifest.complete, true);
      await until('the records to be gone', async () => (await kvmha(node, 'status')).exitCode === 0);
    });

    test('preserved_guest=keep: it is dumped if the policy says so, and stays', async () => {
      node.write(
        '/etc/kvmha/policy.yaml',
        `${POLICY}dump: { directory: /var/policy-dumps, on-quiesce: true }\n`,
      );
      const guest = await preservedGuest(node, 'always', { memory: 64 });
      answers(await guest.stop(), 0);
      await until('it to be dumped', async () =>
        (await kvmha(node, 'status', 'always')).stdout.includes(
          'always: a post-mortem is in /var/policy-dumps/',
        ),
      );
      assert.equal(guest.pids().length, 1);
      answers(await guest.stop(), 0);
      assert.equal(readdirSync(node.path('/var/policy-dumps')).length, 1, 'one is enough');
      await node.check(['sh', '-c', 'rm -r /var/policy-dumps']);
      exits(await kvmha(node, 'release', 'always'), 1, /was promised.*any more/);
      exits(await kvmha(node, 'release', 'always', '--without-postmortem'), 0);
      node.write('/etc/kvmha/policy.yaml', POLICY);
    });

    test('a guest of no cluster is dumped when it is quiesced by hand, if the policy says so', async () => {
      node.write(
        '/etc/kvmha/policy.yaml',
        `${POLICY}dump: { directory: /var/hand-dumps, on-quiesce: true }\n`,
      );
      const guest = await newGuest(node, 'alone', { memory: 64 });
      await node.check(['virsh', 'create', guest.resource.config]);
      await guest.ticks();
      exits(await kvmha(node, 'quiesce', 'alone'), 0, /Its post-mortem is being collected by process \d+/);
      await until('it to be dumped', async () =>
        (await kvmha(node, 'status', 'alone')).stdout.includes('alone: a post-mortem is in /var/hand-dumps/'),
      );
      exits(await kvmha(node, 'release', 'alone'), 0);
      node.write('/etc/kvmha/policy.yaml', POLICY);
    });

    test('preserved_guest=dump: a guest that cannot be dumped stays preserved', async () => {
      node.write('/etc/kvmha/policy.yaml', `${POLICY}dump: { directory: /mnt/small/agent }\n`);
      await node.exec(['sh', '-c', 'mkdir -p /mnt/small && mount -t tmpfs -o size=50m none /mnt/small']);
      const guest = await preservedGuest(node, 'nodump', {}, { preserved_guest: 'dump' });
      answers(await guest.stop(), 0);
      const said = await Deadline.in(20_000).poll(200, async () => {
        const { stdout } = await kvmha(node, 'status', 'nodump');
        return stdout.includes('is not complete') ? stdout : undefined;
      });
      assert.match(
        said ?? '',
        /nodump: its post-mortem in \/mnt\/small\/agent\/nodump-\S+ is not complete: no post-mortem of nodump was begun/,
      );
      answers(await guest.stop(), 0);
      answers(await guest.probe(), 7);
      exits(
        await kvmha(node, 'release', 'nodump'),
        1,
        /A post-mortem of nodump was promised.*not complete.*--without-postmortem/,
      );
      assert.equal(guest.pids().length, 1);
      exits(await kvmha(node, 'release', 'nodump', '--without-postmortem'), 0);
      node.write('/etc/kvmha/policy.yaml', POLICY);
    });
  });
});

describe('the command in a cluster', { timeout: 600_000 }, () => {
  let here: Ground;
  let node: LabNode;
  let other: LabNode;
  before(async () => {
    here = await ground(2, true);
    node = here.lab.node(1);
    other = here.lab.node(2);
    await here.lab.configureFencing();
  });
  after(() => here[Symbol.asyncDispose]());

  const attributes = async () => (await node.check(['crm_mon', '-1', '-A', '-f'])).replace(/\s+/g, ' ');

  test('quiesce moves the guest to another node, and release lets it return', async () => {
    const guest = await newGuest(node, 'web');
    const there = elsewhere(guest, other);
    await node.check(['crm', 'configure', 'load', 'update', '-'], {
      input: `\
primitive vm-web ocf:kvmha:KvmGuest params config=${guest.resource.config} \
  op start timeout=90s interval=0 op stop timeout=90s interval=0 op monitor timeout=30s interval=3s \
  meta migration-threshold=1 multiple-active=stop_unexpected resource-stickiness=100
location vm-web-prefers vm-web 10: node1
location vm-web-where-not-preserved vm-web rule -inf: kvmha-preserved-vm-web eq 1
`,
    });
    await until('it to run on node1', () => guest.pids().length === 1);
    const before = await guest.ticks();
    exits(await kvmha(node, 'quiesce', 'vm-web'), 0, /starts vm-web on another node/);
    await until('it to run on node2', () => there.pids().length === 1);
    assert.match(await attributes(), /kvmha-preserved-vm-web : 1/);
    const after = await there.ticks();
    assert.equal(after.boots, before.boots + 1);
    assert.equal(guest.pids().length, 1, 'the first one is preserved');
    exits(await kvmha(node, 'status'), 1, /^web +node1 +quiesced-failover-safe .*vm-web$/m);
    await here.lab.waitForCluster();

    exits(
      await kvmha(node, 'release', 'vm-web'),
      0,
      /web is released/,
      /vm-web may run on this node again/,
      /cleaned up/,
    );
    assert.deepEqual(guest.pids(), []);
    const left = await attributes();
    assert.doesNotMatch(left, /kvmha-(preserved|fault)-vm-web/);
    assert.doesNotMatch(left, /fail-count=1/);
    assert.equal((await there.ticks()).instance, after.instance, 'the healthy one goes on');
    const fenced = here.lab.fenceLog().filter((line) => / (off|reboot)/.test(line));
    assert.deepEqual(fenced, [], 'nobody was fenced');
  });
});

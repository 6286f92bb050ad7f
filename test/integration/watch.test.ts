import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { sleep } from '../../lib/deadline.ts';
import { Fault } from '../fault/fault.ts';
import { answers, type GuestOptions, Host, type TestGuest, until, uuidOf } from '../support/host.ts';
import { ReplayServer, recording } from '../support/qmp-recording.ts';
import { journal, Watch } from '../support/watch.ts';

/** Of the monitors of the memory: SRAR and SRAO errors (Intel SDM, volume 3), and one of a CPU that takes none. */
const MCE_ACTION_REQUIRED = 'mce 0 9 0xbd80000000000134 0x7 0x1000 0x8c';
const MCE_ACTION_OPTIONAL = 'mce 0 9 0xbd000000000000cf 0x5 0x1000 0x8c';
const MCE_NOT_ALLOWED = 'mce 0 9 0xb000000000000000 0 0 0';

let host: Host;
let watch: Watch;
before(async () => {
  host = await Host.up();
  watch = new Watch(host.node);
  await watch.start();
});
after(async () => {
  await watch[Symbol.asyncDispose]();
  await host[Symbol.asyncDispose]();
});

/** A guest that runs and is followed. */
async function followed(name: string, options: GuestOptions = {}): Promise<TestGuest> {
  const guest = await host.running(name, options);
  await watch.follows(name);
  return guest;
}

/** Lets writes to the guest's storage fail. */
function failing(guest: TestGuest, letters = 'W'): Fault {
  const fault = new Fault(host.node, guest.fault);
  fault.set(letters, `${guest.name}.img`);
  return fault;
}

/** The watcher has proved that the guest is failover-safe, and everybody else sees it. */
async function isPreserved(guest: TestGuest): Promise<void> {
  await watch.proves(guest.name);
  assert.match(await watch.settles(guest.name), /failover-safe/);
  answers(await guest.probe(), 7);
  answers(await guest.monitor(), 7, /quiesced-failover-safe/);
  answers(await guest.stop(), 0);
  guest.pid();
  await guest.runElsewhere();
}

async function hmp(guest: TestGuest, command: string): Promise<void> {
  await host.virsh('qemu-monitor-command', '--hmp', guest.name, command);
}

describe('the watcher', { concurrency: 3 }, () => {
  test('follows and quiesces a guest whose name is too long for the path of a socket', async () => {
    const guest = await followed('ü'.repeat(100));
    assert.equal((await watch.guest(guest.name))?.by, 'qmp');
    failing(guest);
    await isPreserved(guest);
    const { stdout } = await host.node.exec(['kvmha', 'status', guest.name]);
    assert.match(stdout, /^ü+ +quiesced-failover-safe /m);
    await host.node.check(['kvmha', 'release', guest.name]);
    assert.deepEqual(guest.pids(), []);
  });

  test('quiesces a guest at an I/O error, which no monitor has seen', async () => {
    const guest = await followed('ioerror');
    failing(guest);
    const proof = await watch.proves('ioerror');
    assert.equal(proof['fault'], 'io-error');
    await isPreserved(guest);
    assert.deepEqual(watch.decisions('ioerror'), ['fail-over']);
  });

  test('quiesces a guest that its watchdog has paused', async () => {
    const guest = await followed('watchdog', { watchdog: 'pause', settings: { watchdog: true } });
    await guest.press('h');
    await isPreserved(guest);
  });

  test('holds a guest whose storage is full, and takes up a fault of the same guest later', async () => {
    const guest = await followed('full');
    const fault = failing(guest, 'NW');
    await watch.writes('full', 'that it is held', (entry) => entry['do'] === 'hold');
    assert.equal(await guest.resource.state(host.node), 'paused (I/O error)');
    fault.clear();
    await host.virsh('resume', 'full');
    await guest.ticks();
    // QEMU itself says "nospace" of this one, too.
    failing(guest);
    await isPreserved(guest);
    assert.deepEqual(watch.decisions('full'), ['hold', 'fail-over']);
  });

  test('leaves a guest to an operator who has paused it', async () => {
    const guest = await followed('paused');
    await host.virsh('suspend', 'paused');
    await watch.writes('paused', 'that it is held', (entry) => entry['do'] === 'hold');
    await host.virsh('resume', 'paused');
    await guest.ticks();
    answers(await guest.monitor(), 0);
    assert.deepEqual(watch.decisions('paused'), ['hold']);
    await guest.stop();
  });

  test('leaves a panicked guest to the monitor, and quiesces one that is to be preserved', async () => {
    const panicking: GuestOptions = { pvpanic: true, onCrash: 'preserve' };
    const guest = await followed('panic', panicking);
    await guest.press('p');
    await watch.writes('panic', 'that it is held', (entry) => entry['do'] === 'hold');
    guest.pid();
    answers(await guest.monitor(), 7);
    assert.deepEqual(guest.pids(), []);

    const kept = await followed('panickept', { ...panicking, parameters: { guest_panic: 'preserve' } });
    await kept.press('p');
    await isPreserved(kept);
  });

  test('waits while the crash kernel is at work', async () => {
    const guest = await followed('crashker', { pvpanic: true });
    await guest.press('c');
    await watch.writes('crashker', 'that it is held', (entry) => entry['do'] === 'hold');
    answers(await guest.monitor(), 0);
    await guest.stop();
  });

  test('quiesces a guest whose memory was lost when it was needed', async () => {
    const guest = await followed('memory');
    await guest.press('m');
    await sleep(500);
    await hmp(guest, MCE_ACTION_REQUIRED);
    const { fault } = await watch.proves('memory');
    assert.match(String(fault), /memory failure in the guest's memory, needed at once/);
    await isPreserved(guest);
  });

  test('quiesces a guest that was reset because its memory was lost', async () => {
    const guest = await followed('memreset');
    await hmp(guest, MCE_NOT_ALLOWED);
    await isPreserved(guest);
  });

  test('lets the monitor show a guest as degraded whose lost memory was not needed', async () => {
    const guest = await followed('scrubbed');
    answers(await guest.monitor(), 0);
    await guest.press('m');
    await sleep(500);
    await hmp(guest, MCE_ACTION_OPTIONAL);
    await watch.writes('scrubbed', 'that it is degraded', (entry) => entry['do'] === 'degrade');
    const words = /memory failure in the guest's memory, not needed yet/;
    answers(await guest.monitor(), 190, words);
    answers(await guest.probe(), 190);
    await guest.ticks();
    // It is gone with the qemu that it was said of.
    answers(await guest.stop(), 0);
    answers(await guest.call('start'), 0);
    answers(await guest.monitor(), 0);
    await guest.stop();
  });

  test('keeps a memory failure for the monitor where it could do nothing about it itself', async () => {
    const guest = await followed('refused', {
      devices: "    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>\n",
      disk: { cache: 'unsafe' },
    });
    await hmp(guest, MCE_NOT_ALLOWED);
    assert.match(await watch.settles('refused'), /not proved/);
    await guest.ticks();
    answers(await guest.monitor(), 1, /memory failure/);
    answers(await guest.stop(), 0);
    assert.deepEqual(guest.pids(), []);
  });

  test('only writes down what it would do, where the policy says to observe', async () => {
    host.node.write('/etc/kvmha/observe.yaml', 'watch: { mode: observe }\n');
    const guest = await followed('observed', { parameters: { policy: '/etc/kvmha/observe.yaml' } });
    failing(guest);
    await watch.writes('observed', 'the decision', (entry) => entry['do'] === 'fail-over');
    await sleep(1000);
    assert.ok(!journal(host.node, 'observed').some(({ what }) => what === 'proved'));
    assert.equal(await guest.resource.state(host.node), 'paused (I/O error)');
    answers(await guest.stop(), 0);
  });

  test('follows a guest without its socket by libvirt', async () => {
    const guest = await host.guest('libvirt');
    await host.virsh('create', guest.resource.config);
    await guest.ticks();
    answers(await guest.monitor(), 0);
    assert.equal((await watch.follows('libvirt')).by, 'libvirt');
    failing(guest);
    await isPreserved(guest);
  });

  test('holds a guest without its socket whose storage is full', async () => {
    const guest = await host.guest('libvirtf');
    await host.virsh('create', guest.resource.config);
    await guest.ticks();
    answers(await guest.monitor(), 0);
    await watch.follows('libvirtf');
    await sleep(1000);
    const fault = failing(guest, 'NW');
    await watch.writes('libvirtf', 'that it is held', (entry) => entry['do'] === 'hold');
    answers(await guest.monitor(), 0);
    fault.clear();
    await host.virsh('resume', 'libvirtf');
    await guest.ticks();
    failing(guest);
    await isPreserved(guest);
  });

  test('hears by libvirt of a memory failure of a guest without its socket', async () => {
    const guest = await host.guest('libvirtm');
    await host.virsh('create', guest.resource.config);
    await guest.ticks();
    answers(await guest.monitor(), 0);
    await watch.follows('libvirtm');
    await sleep(1000);
    await hmp(guest, MCE_NOT_ALLOWED);
    await isPreserved(guest);
  });

  test('leaves a guest alone that no resource runs', async () => {
    const guest = await followed('nobody');
    await host.node.check(['rm', `/run/kvmha/guests/${uuidOf('nobody')}/resource.json`]);
    failing(guest);
    assert.match(await watch.settles('nobody'), /no resource/);
    assert.equal(await guest.resource.state(host.node), 'paused (I/O error)');
    await guest.stop();
  });

  test('lets no second one watch beside it', async () => {
    const { exitCode, stderr } = await host.node.exec(['kvmha', 'watch']);
    assert.equal(exitCode, 1);
    assert.match(stderr, /another watcher runs on this node/);
  });
});

describe('the watcher, when something else is broken', () => {
  test('quiesces a guest while libvirtd is dead', async () => {
    const guest = await followed('nolibvirt');
    await host.withoutLibvirtd(async () => {
      failing(guest);
      await watch.proves('nolibvirt');
    });
    await isPreserved(guest);
  });

  test('finds a fault that came while no watcher was there', async () => {
    const guest = await followed('gap');
    await watch.kill();
    failing(guest);
    await guest.untilState('paused (I/O error)');
    await watch.start();
    await isPreserved(guest);
  });

  test('finishes what another watcher had begun when it was killed', async () => {
    const names = ['killed0', 'killed1', 'killed2', 'killed3', 'killed4'];
    const guests = await Promise.all(names.map((name) => followed(name)));
    guests.forEach((guest) => void failing(guest));
    await until('one to be quiesced', () =>
      journal(host.node).some(({ guest, what }) => what === 'proved' && names.includes(String(guest))),
    );
    await watch.kill();
    await watch.start();
    for (const guest of guests) {
      await watch.settles(guest.name);
      answers(await guest.probe(), 7);
      answers(await guest.monitor(), 7, /quiesced-failover-safe/);
      answers(await guest.stop(), 0);
      await guest.runElsewhere();
    }
  });

  test('goes on with other guests while one hangs, and takes it up when it comes back', async () => {
    const hung = await followed('hung');
    const guest = await followed('besides');
    await hung.freeze();
    process.kill(watch.pid, 'SIGHUP');
    failing(guest);
    await isPreserved(guest);
    await until('it to be silent', async () => (await watch.guest('hung'))?.silent !== undefined);
    process.kill(hung.pid(), 'SIGCONT');
    await watch.follows('hung');
    failing(hung);
    await isPreserved(hung);
  });

  test('quiesces no more guests at a time than the policy allows, and leaves the others resumable', async () => {
    host.node.write(
      '/etc/kvmha/storm.yaml',
      'quiesce: { storm: { guests: 2, seconds: 5 }, require-eligible-node: false }\n',
    );
    await sleep(5000);
    const names = ['storm0', 'storm1', 'storm2', 'storm3', 'storm4', 'storm5'];
    const parameters = { policy: '/etc/kvmha/storm.yaml' };
    const guests = await Promise.all(names.map((name) => followed(name, { parameters })));
    const faults = guests.map((guest) => failing(guest));
    await Promise.all(guests.map((guest) => watch.settles(guest.name)));
    const proved = names.filter((name) => journal(host.node, name).some(({ what }) => what === 'proved'));
    assert.equal(proved.length, 2, proved.join());
    for (const fault of faults) {
      fault.clear();
    }
    for (const guest of guests.filter(({ name }) => !proved.includes(name))) {
      await host.virsh('resume', guest.name);
      await guest.ticks();
      answers(await guest.monitor(), 0);
      await guest.stop();
    }
  });
});

describe('ocf:kvmha:KvmWatch', () => {
  const AGENT = '/usr/lib/ocf/resource.d/kvmha/KvmWatch';

  async function call(action: string, env: Readonly<Record<string, string>> = {}) {
    return host.node.exec([AGENT, action], {
      env: {
        OCF_ROOT: '/usr/lib/ocf',
        OCF_RA_VERSION_MAJOR: '1',
        OCF_RESOURCE_INSTANCE: 'watch',
        OCF_RESKEY_CRM_meta_timeout: '20000',
        HA_LOGFILE: '/var/log/agent.log',
        ...env,
      },
    });
  }

  test('starts, watches over and stops the watcher', async () => {
    assert.equal((await call('monitor')).exitCode, 0);
    await watch.stop();
    assert.equal((await call('monitor')).exitCode, 7);
    assert.equal((await call('stop')).exitCode, 0);
    assert.equal((await call('start')).exitCode, 0);
    assert.equal((await call('start')).exitCode, 0);
    assert.equal((await call('monitor')).exitCode, 0);
    assert.equal((await call('reload-agent')).exitCode, 0);
    const { pid } = watch;
    process.kill(pid, 'SIGSTOP');
    const hung = await call('monitor', { OCF_RESKEY_CRM_meta_interval: '10000' });
    assert.equal(hung.exitCode, 1);
    assert.match(hung.stderr, /ocf-exit-reason:the watcher, process \d+, does not answer/);
    assert.equal((await call('stop', { OCF_RESKEY_CRM_meta_timeout: '6000' })).exitCode, 0);
    assert.ok(!watch.isRunning);
    assert.equal((await call('monitor')).exitCode, 7);
  });

  test('tells why the watcher does not start', async () => {
    const holder = host.node.spawn(['flock', '/run/kvmha/watch.lock', 'sleep', '1000']);
    await sleep(300);
    const { exitCode, stderr } = await call('start');
    process.kill(-(holder.pid ?? 0), 'SIGKILL');
    assert.equal(exitCode, 1);
    assert.match(stderr, /ocf-exit-reason:the watcher was not started: .*another watcher runs on this node/);
  });

  test('passes ocf-tester', async () => {
    const { exitCode, stdout } = await host.node.exec(['ocf-tester', '-n', 'watch', AGENT]);
    assert.equal(exitCode, 0, stdout);
    assert.match(stdout, /passed all tests/);
  });
});

describe('fifty guests', () => {
  test('cost the watcher next to nothing while nothing happens', async (t) => {
    const quiet = recording('suspend-resume');
    await using servers = new AsyncDisposableStack();
    await watch.start();
    for (let number = 0; number < 50; number++) {
      const path = host.node.path(`/run/libvirt/qemu/kvmha/watcher/idle${number}.pid`);
      servers.use(await ReplayServer.listen(path, quiet, uuidOf(`idle${number}`)));
    }
    for (let number = 0; number < 50; number++) {
      await watch.follows(`idle${number}`);
    }
    const { pid } = watch;
    await sleep(3000);
    const before = processorTime(pid);
    // Every guest is looked at once in this time.
    await sleep(30_000);
    const used = processorTime(pid) - before;
    const rss = /VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1];
    t.diagnostic(`${used} ms of processor time in 30 s, ${Math.round(Number(rss) / 1024)} MiB`);
    assert.ok(used < 3000, `${used} ms`);
  });
});

/** Milliseconds of processor time that a process has used. */
function processorTime(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ').at(-1)?.split(' ') ?? [];
  return (Number(fields[11]) + Number(fields[12])) * 10;
}

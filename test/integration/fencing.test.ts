import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { sleep } from '../../lib/deadline.ts';
import { Fault } from '../fault/fault.ts';
import { FuseFile } from '../fault/fuse.ts';
import { createDisk } from '../guest/witness.ts';
import { answers, type GuestOptions, Host, type TestGuest, until } from '../support/host.ts';

let host: Host;
before(async () => {
  host = await Host.up();
});
after(() => host[Symbol.asyncDispose]());

async function untilDead(guest: TestGuest): Promise<void> {
  await until(`the qemu of ${guest.name} to be gone`, () => guest.pids().length === 0);
}

/** What is left of a guest beside its image and configuration. */
function remains(guest: TestGuest): string[] {
  const { uuid } = guest.resource.domain;
  return [
    `/run/kvmha/guests/${uuid}/running.json`,
    `/run/kvmha/guests/${uuid}/quiesce.json`,
    `/run/libvirt/qemu/kvmha/agent/${guest.name}.pid`,
    `/run/libvirt/qemu/kvmha/watcher/${guest.name}.pid`,
    `/run/libvirt/qemu/${guest.name}.pid`,
  ].filter((path) => existsSync(host.node.path(path)));
}

describe('the fencing stage', { concurrency: 4 }, () => {
  test('ends a crashed guest in a monitor, leaves nothing of it, and does nothing the second time', async () => {
    const guest = await host.running('crash', { pvpanic: true, onCrash: 'preserve' });
    await guest.press('p');
    await guest.untilState('crashed (panicked)');
    answers(await guest.monitor(), 7, /crashed/);
    assert.deepEqual(guest.pids(), []);
    assert.equal(await guest.resource.state(host.node), '');
    assert.deepEqual(remains(guest), []);
    answers(await guest.monitor(), 7, /shut-off/);
    answers(await guest.stop(), 0);
    answers(await guest.stop(), 0);
  });

  test('ends a crashed guest before a start boots it anew', async () => {
    const guest = await host.running('recrash', { pvpanic: true, onCrash: 'preserve' });
    await guest.press('p');
    await guest.untilState('crashed (panicked)');
    const [dead] = guest.pids();
    answers(await guest.call('start'), 0);
    assert.notEqual(guest.pid(), dead);
    assert.equal((await guest.ticks()).boots, 2);
    answers(await guest.stop(), 0);
  });

  test('is the same for a monitor and a stop at the same moment', async () => {
    const guest = await host.running('both', { pvpanic: true, onCrash: 'preserve' });
    await guest.press('p');
    await guest.untilState('crashed (panicked)');
    const [monitor, stop] = await Promise.all([guest.monitor(), guest.stop()]);
    answers(monitor, 7);
    answers(stop, 0);
    assert.deepEqual(guest.pids(), []);
  });

  test('leaves a guest that is preserved, or becomes so, whoever asks at the same moment', async () => {
    const guest = await host.running('kept');
    new Fault(host.node, guest.fault).set('W', guest.disk);
    await guest.untilState('paused (I/O error)');
    const [monitor, stop, probe] = await Promise.all([guest.monitor(), guest.stop(), guest.probe()]);
    answers(monitor, 7, /quiesced-failover-safe/);
    answers(stop, 0);
    assert.ok(probe.exitCode === 1 || probe.exitCode === 7);
    const pid = guest.pid();
    const again = await Promise.all([guest.stop(), guest.monitor(), guest.stop(), guest.probe()]);
    assert.deepEqual(
      again.map(({ exitCode }) => exitCode),
      [0, 7, 0, 7],
    );
    assert.equal(guest.pid(), pid);
    await guest.runElsewhere();
  });

  test('ends a faulted guest whose storage hangs in a flush, so that it cannot be quiesced, in time', async () => {
    const guest = await host.running('stuck');
    const fault = new Fault(host.node, guest.fault);
    fault.setAll([
      ['FH', guest.disk],
      ['W', guest.disk],
    ]);
    await until('a flush to hang', () => fault.hits().some((hit) => hit.startsWith('F')));
    await guest.untilState('paused (I/O error)');
    const meta = { timeout: '10000' };
    answers(await guest.monitor({ meta }), 1, /stuck \(io-error\) is not quiesced: its QEMU does not answer/);
    answers(await guest.probe({ meta }), 1, /stuck is faulted/);
    answers(await guest.stop({ meta }), 0);
    assert.deepEqual(guest.pids(), []);
    fault.clear();
    await guest.runElsewhere();
  });

  test('ends a qemu that is frozen, in a short time and in a long one', async () => {
    await Promise.all(
      ['10000', '25000'].map(async (timeout) => {
        const guest = await host.running(`ice${timeout}`);
        await guest.freeze();
        answers(await guest.stop({ meta: { timeout } }), 0);
        assert.deepEqual(guest.pids(), []);
        await guest.runElsewhere();
      }),
    );
  });

  test('touches no guest whose name is like another, and no process that only speaks of one', async () => {
    const names = ['web', 'web1', 'my.web', 'w.b', 'WEB', 'web web'];
    // Without a uuid a guest is known by its name alone.
    const guests = await Promise.all(names.map((name) => host.running(name, { uuid: 'none' })));
    const decoys = [
      ['find', '/', '-name', 'web'],
      ['qemu-system-x86_64', '-name', 'guest=web,debug-threads=on'],
      ['qemu-system-x86_64 -name guest=web,debug-threads=on -uuid 1'],
      ['qemu-system-x86_64', '-uuid', 'web', 'guest=web'],
      ['virsh', 'start', 'web'],
    ].map((argv) =>
      host.node.spawn(['python3', '-c', 'import time; time.sleep(1000)', ...argv], {}, { stdio: 'ignore' }),
    );
    const victims = guests.filter(({ name }) => name === 'w.b' || name === 'web');
    for (const guest of victims) {
      answers(await guest.stop({ parameters: { force_stop: 'yes' } }), 0);
      assert.deepEqual(guest.pids(), []);
    }
    for (const guest of victims) {
      answers(await guest.monitor(), 7);
      answers(await guest.probe(), 7);
    }
    const others = guests.filter((guest) => !victims.includes(guest));
    await Promise.all(others.map((guest) => guest.ticks()));
    for (const decoy of decoys) {
      assert.equal(decoy.exitCode ?? decoy.signalCode, null, `${decoy.spawnargs.join(' ')} was ended`);
      decoy.kill('SIGKILL');
    }
    await Promise.all(
      others.map(async (guest) => answers(await guest.stop({ parameters: { force_stop: 'yes' } }), 0)),
    );
  });
});

test('ends a qemu that libvirt has lost and that nobody can ask', async () => {
  // Started past the agent, so without a monitor of ours.
  const guest = await host.guest('lost');
  await host.virsh('create', guest.resource.config);
  await guest.ticks();
  await host.withoutLibvirtd(async () => {
    await host.node.check(['rm', '-f', '/run/libvirt/qemu/lost.xml']);
  });
  assert.equal(await guest.resource.state(host.node), '');
  answers(await guest.probe(), 1, /libvirt does not know the domain.*may run the guest/);
  answers(await guest.monitorOfStopped(), 7);
  answers(await guest.monitor(), 1, /libvirt does not know the domain/);
  await guest.ticks();
  answers(await guest.stop(), 0);
  assert.deepEqual(guest.pids(), []);
  await guest.runElsewhere();
});

describe('the fencing stage on storage that hangs or fails', {
  skip: !FuseFile.isPossible && 'this kernel has no FUSE',
  concurrency: 4,
}, () => {
  const meta = { timeout: '10000' };
  type Cache = 'none' | 'writeback' | 'unsafe';

  /** A guest that runs on a file whose storage can be made to hang. */
  async function onFuse(name: string, cache: Cache, options: GuestOptions = {}) {
    const image = `/shared/${name}.img`;
    await createDisk(image, { node: host.node });
    // With cache=unsafe QEMU flushes nothing, so that only the fencing stage meets the failure.
    const file = await FuseFile.start(host.node, image, name, cache === 'unsafe');
    const guest = await host.running(name, { disk: { path: file.path, cache }, ...options });
    return { file, guest };
  }

  /** Ends the guest's qemu as the kernel's out-of-memory killer does. */
  async function killed(name: string, cache: Cache) {
    const { file, guest } = await onFuse(name, cache);
    process.kill(guest.pid(), 'SIGKILL');
    await untilDead(guest);
    await until('libvirt to see it', async () => (await guest.resource.state(host.node)) === '');
    return { file, guest };
  }

  /** Ends the guest's qemu while one of its threads hangs in a write. */
  async function dying(name: string, options: GuestOptions = {}) {
    const { file, guest } = await onFuse(name, 'none', options);
    await file.pauseWrites();
    await until('a write to hang', async () => {
      const { ticks } = await guest.witness();
      await sleep(300);
      return (await guest.witness()).ticks === ticks;
    });
    process.kill(guest.pid(), 'SIGKILL');
    await untilDead(guest);
    return { file, guest };
  }

  test('waits for a thread that outlives its qemu', async () => {
    const { file, guest } = await dying('zombie');
    await using _file = file;
    const [probe, ofStopped] = await Promise.all([guest.probe({ meta }), guest.monitorOfStopped({ meta })]);
    answers(probe, 1, /is dead, but a thread of it is left/);
    answers(ofStopped, 7);
    answers(await guest.monitor({ meta }), 1, /does not die/);
    answers(await guest.stop({ meta }), 1, /does not die/);
    answers(await guest.call('start', { meta }), 1, /does not die/);
    await file.resumeWrites();
    answers(await guest.stop({ meta }), 0);
    answers(await guest.probe(), 7);
  });

  test('answers in time where not even the names of the images can be looked up', async () => {
    const { file, guest } = await onFuse('unseen', 'writeback');
    await using _file = file;
    await file.hang();
    answers(await guest.stop({ meta }), 1, /does not die/);
    await file.resume();
    answers(await guest.stop({ meta }), 0);
  });

  test('waits for a thread that outlives its qemu also where the guest has no uuid', async () => {
    const { file, guest } = await dying('zombien', { uuid: 'none' });
    await using _file = file;
    answers(await guest.stop({ meta }), 1, /does not die/);
    await file.resumeWrites();
    answers(await guest.stop({ meta }), 0);
  });

  test('brings what the host caches to the storage, in a monitor and in a stop', async () => {
    const { file, guest } = await killed('cached', 'writeback');
    await using _file = file;
    const before = file.flushes();
    answers(await guest.probe(), 7);
    answers(await guest.monitorOfStopped(), 7);
    assert.equal(file.flushes(), before, 'a probe or a monitor with role=Stopped has synced');
    answers(await guest.monitor(), 7);
    assert.ok(file.flushes() > before, 'the monitor has not synced');
    answers(await guest.call('start'), 0);
    await guest.ticks();
    process.kill(guest.pid(), 'SIGKILL');
    await untilDead(guest);
    const again = file.flushes();
    answers(await guest.stop(), 0);
    assert.ok(file.flushes() > again, 'the stop has not synced');
  });

  test('fails while storage hangs that the host caches, and succeeds when it goes on', async () => {
    const { file, guest } = await killed('hangs', 'writeback');
    await using _file = file;
    await file.hang();
    answers(await guest.probe({ meta }), 7);
    answers(await guest.monitor({ meta }), 1, /hangs that the host still caches cannot be brought/);
    answers(await guest.stop({ meta }), 1, /hangs that the host still caches cannot be brought/);
    await file.resume();
    answers(await guest.stop({ meta }), 0);
  });

  test('fails when the host cannot write what it caches', async () => {
    const { file, guest } = await killed('fails', 'unsafe');
    await using _file = file;
    answers(await guest.monitor(), 1, /cannot be brought to storage:.*Input\/output error/);
    answers(await guest.stop(), 1, /cannot be brought to storage:.*Input\/output error/);
  });

  test('syncs nothing that bypasses the host cache', async () => {
    const { file, guest } = await killed('direct', 'none');
    await using _file = file;
    await file.pauseWrites();
    answers(await guest.monitor({ meta }), 7);
    answers(await guest.stop({ meta }), 0);
    await file.resumeWrites();
  });
});

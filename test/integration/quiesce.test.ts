import assert from 'node:assert/strict';
import { after, before, describe, type TestContext, test } from 'node:test';
import { isComplete } from '../../lib/quiesce/proof.ts';
import { createDisk } from '../guest/witness.ts';
import { Lab, type LabNode } from '../lab/client.ts';
import { installedTree, Resource } from '../support/agent.ts';
import { qemus } from '../support/qemus.ts';
import { type GuestOptions, QuiesceGuest } from '../support/quiesced.ts';

let lab: Lab;
let node: LabNode;
const stack = new AsyncDisposableStack();
before(async () => {
  const tree = stack.use(await installedTree());
  lab = stack.use(await Lab.up({ nodes: 2, cluster: false, install: tree.path }));
  node = lab.node(1);
});
after(() => stack.disposeAsync());

const UNOPENED = /Could not open '[^']*kvmha-sentinel/;
const UNMOVABLE = /vdi format used by node 'kvmha-sentinel-\d' does not support live migration/;

/** A guest with a disk of each kind and both kinds of CD drive, to which all sorts of things are done. */
class Victim {
  readonly guest: QuiesceGuest;
  readonly #t: TestContext;

  constructor(guest: QuiesceGuest, t: TestContext) {
    this.guest = guest;
    this.#t = t;
  }

  static async paused(
    t: TestContext,
    name: string,
    emulator: string | undefined,
    options: Partial<GuestOptions> = {},
  ): Promise<Victim> {
    const guest = await QuiesceGuest.running(node, name, {
      disks: [
        { path: `/shared/${name}.img` },
        { path: `/shared/${name}.qcow2`, format: 'qcow2', bus: 'ide' },
        { path: `/shared/${name}.iso`, bus: 'ide', device: 'cdrom', target: 'hdc' },
        { bus: 'ide', device: 'cdrom', target: 'hdd' },
      ],
      bridges: ['br0'],
      emulator,
      ...options,
    });
    await guest.failing();
    await guest.preserve();
    return new Victim(guest, t);
  }

  /** The attempt fails, for this reason, and the proof stays complete. */
  async refuses(what: string, attempt: () => Promise<unknown>, why: RegExp): Promise<void> {
    await this.#t.test(`${what} is refused`, async () => {
      await assert.rejects(attempt, (error: Error) => why.test(error.message) || assert.fail(error));
    });
  }

  /** The attempt succeeds, and the proof stays complete. */
  async withstands(what: string, attempt: () => Promise<unknown>): Promise<void> {
    await this.#t.test(`${what} changes nothing of the proof`, async () => {
      await attempt();
      await this.guest.assertProved(what);
    });
  }

  refusesVirsh(why: RegExp, command: string, ...words: string[]): Promise<void> {
    const what = ['virsh', command, ...words].join(' ');
    return this.refuses(what, () => this.guest.virsh(command, this.guest.name, ...words), why);
  }

  withstandsVirsh(command: string, ...words: string[]): Promise<void> {
    const what = ['virsh', command, ...words].join(' ');
    return this.withstands(what, () => this.guest.virsh(command, this.guest.name, ...words));
  }

  hmp(line: string): Promise<string> {
    return this.guest.virsh('qemu-monitor-command', this.guest.name, '--hmp', line);
  }
}

for (const [index, { name: qemu, emulator, skip }] of (await qemus()).entries()) {
  describe(qemu, { skip, concurrency: 2 }, () => {
    test('a preserved guest cannot be resumed, started, saved or migrated', async (t) => {
      const victim = await Victim.paused(t, `resumed-${index}`, emulator, { persistent: true });
      const { guest } = victim;
      const pid = await guest.pid();
      const left = await guest.witness();

      await victim.refuses('cont', () => guest.qmp('cont'), UNOPENED);
      await victim.refuses('cont once more', () => guest.qmp('cont'), UNOPENED);
      await victim.refusesVirsh(UNOPENED, 'resume');
      await victim.refusesVirsh(/already active/, 'start');
      await victim.withstandsVirsh('suspend');
      await victim.refusesVirsh(UNOPENED, 'resume');
      await victim.refusesVirsh(UNMOVABLE, 'save', '/shared/saved');
      await victim.refusesVirsh(UNMOVABLE, 'managedsave');
      await victim.refusesVirsh(UNMOVABLE, 'dump', '/shared/dump-with-disks');
      await victim.refusesVirsh(/does not support live migration/, ...migration);
      await victim.refuses('migrate', () => guest.qmp('migrate', { uri: 'exec:cat >/dev/null' }), UNMOVABLE);
      await victim.withstandsVirsh('reset');
      await victim.refusesVirsh(UNOPENED, 'resume');
      await victim.withstandsVirsh('reboot');
      await victim.withstands('system_reset', () => guest.qmp('system_reset'));
      await victim.refuses('cont', () => guest.qmp('cont'), UNOPENED);
      if (await guest.knows('blockdev-set-active')) {
        const activate = () => guest.qmp('blockdev-set-active', { active: true });
        await victim.refuses('blockdev-set-active', activate, UNOPENED);
      }
      await guest.assertProved('all of it');
      assert.equal(await guest.pid(), pid, 'its qemu was replaced');
      assert.deepEqual(await guest.witness(), left, 'it wrote to its disk');
      await guest.runsElsewhere();
      await guest.assertProved('another guest ran from its images');
      await guest.end();
    });
    const migration = ['migrate', '--live', '--unsafe', 'qemu+tcp://node2/system'] as const;

    test('a preserved guest can be looked into', async (t) => {
      const victim = await Victim.paused(t, `looked-${index}`, emulator);
      await victim.withstandsVirsh('dump', '--memory-only', '/shared/dump');
      await victim.withstandsVirsh('domstats');
      await victim.withstandsVirsh('domblkinfo', 'vda');
      await victim.withstandsVirsh('send-key', 'KEY_R');
      await victim.withstandsVirsh('inject-nmi');
      await victim.withstands('info registers', () => victim.hmp('info registers'));
      await victim.withstands('info block', () => victim.hmp('info block'));
      await victim.guest.end();
    });

    test('nothing that libvirt does to disks touches the images of a preserved guest', async (t) => {
      const name = `disks-${index}`;
      const victim = await Victim.paused(t, name, emulator);
      const { guest } = victim;
      await createDisk(`/shared/${name}-other.iso`, { node, content: 'blank' });
      const gone = /Cannot find device|failed to update capacity|could not find base image|unsupported/;
      await victim.refusesVirsh(gone, 'blockpull', 'hda');
      await victim.refusesVirsh(gone, 'blockcommit', 'hda', '--active');
      await victim.refusesVirsh(gone, 'blockcopy', 'hda', `/shared/${name}.copy`, '--transient-job');
      await victim.refusesVirsh(gone, 'blockresize', 'hda', '8M');
      await victim.refusesVirsh(gone, 'snapshot-create-as', 'internal');
      const external = ['external', '--disk-only', '--diskspec', `vda,file=/shared/${name}.snap`] as const;
      await victim.refusesVirsh(/./, 'snapshot-create-as', ...external, '--diskspec', 'hda,snapshot=no');
      await victim.withstandsVirsh('blkdeviotune', 'vda', '--total-iops-sec', '1000');
      await victim.withstands('savevm', () => victim.hmp('savevm one'));
      await victim.withstands('loadvm', () => victim.hmp('loadvm one'));
      await victim.withstands('commit', () => victim.hmp('commit all'));
      await victim.withstandsVirsh('change-media', 'hdc', '--eject');
      await guest.runsElsewhere();

      await t.test('a medium that is put in takes the proof away until it is taken out', async () => {
        await guest.virsh('change-media', name, 'hdd', `/shared/${name}-other.iso`, '--insert');
        assert.equal((await guest.proof())?.['block-nodes-released']?.holds, false);
        await guest.virsh('change-media', name, 'hdd', '--eject');
        await guest.assertProved('the medium was taken out');
      });
      await guest.end();
    });

    test('a disk that is attached to a preserved guest takes its proof away', async (t) => {
      const name = `attached-${index}`;
      const { guest } = await Victim.paused(t, name, emulator);
      await guest.virsh('attach-disk', name, guest.disk, 'vdb', '--live');
      const proof = await guest.proof();
      assert.equal(proof?.['block-nodes-released']?.holds, false);
      assert.equal(proof?.['images-released']?.holds, false);
      await assert.rejects(guest.qmp('cont'), UNOPENED);
      await guest.end();
    });

    test('a preserved guest that lost its only disk is not called safe, nor does it run', async (t) => {
      const name = `detached-${index}`;
      const { guest } = await Victim.paused(t, name, emulator, { disks: [{ path: `/shared/${name}.img` }] });
      await guest.virsh('detach-disk', name, 'vda', '--live');
      await guest.virsh('reset', name);
      assert.equal(isComplete(await guest.proof()), false);
      await assert.rejects(guest.virsh('resume', name), UNOPENED);
      await guest.end();
    });

    test('a guest that was resumed on its own disks runs again to the agent', async () => {
      const name = `again-${index}`;
      const disks = [{ path: `/shared/${name}.img` }];
      const guest = await QuiesceGuest.running(node, name, { emulator, disks });
      const resource = new Resource({ name, uuid: guest.uuid, disks });
      resource.configure(node);
      const monitor = () => resource.call(node, 'monitor');
      await guest.quiesce({ before: { 'add-sentinels': 'die' } });
      await guest.virsh('resume', name);
      const before = await guest.witness();
      assert.equal((await monitor()).exitCode, 0);
      assert.equal((await guest.ticks()).instance, before.instance);
      await guest.end();
    });

    test('the agent starts no guest on a node that preserves it', async (t) => {
      const name = `refused-${index}`;
      const disks = [{ path: `/shared/${name}.img` }];
      const { guest } = await Victim.paused(t, name, emulator, { disks });
      const resource = new Resource({ name, uuid: guest.uuid, disks });
      resource.configure(node);
      for (const action of ['start', 'migrate_from']) {
        const answer = await resource.call(node, action);
        assert.equal(answer.exitCode, 5, `${action}: ${answer.stderr}`);
        assert.match(answer.reason ?? '', /preserved/);
      }
      await guest.assertProved('the agent was asked to start it');
      await guest.end();
    });
  });

  test(`${qemu}: a preserved guest stays so when libvirtd is restarted or killed`, { skip }, async (t) => {
    const victim = await Victim.paused(t, `libvirtd-${index}`, emulator);
    await victim.withstands('a restart', () => node.check(['systemctl', 'restart', 'libvirtd']));
    await victim.refusesVirsh(UNOPENED, 'resume');
    await victim.withstands('a kill', async () => {
      await node.check(['sh', '-c', 'pid=$(pidof libvirtd); kill -9 $pid; while kill -0 $pid; do :; done']);
    });
    await victim.withstands('a start after it', () => node.check(['systemctl', 'start', 'libvirtd']));
    await victim.refusesVirsh(UNOPENED, 'resume');
    await victim.guest.end();
  });
}

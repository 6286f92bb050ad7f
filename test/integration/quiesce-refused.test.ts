import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { isComplete } from '../../lib/quiesce/proof.ts';
import type { Step } from '../../lib/quiesce/sequence.ts';
import type { Disk } from '../guest/domain.ts';
import { createDisk } from '../guest/witness.ts';
import { Lab, type LabNode } from '../lab/client.ts';
import { qemus } from '../support/qemus.ts';
import {
  failure,
  type GuestOptions,
  MAKE_SOCKET_FOLDERS,
  QuiesceGuest,
  refusal,
} from '../support/quiesced.ts';

let lab: Lab;
let node: LabNode;
before(async () => {
  lab = await Lab.up({ nodes: 2, cluster: false });
  node = lab.node(1);
});
after(() => lab.down());

/** A guest that cannot be proved safe, and why. */
interface Case {
  readonly why: RegExp;
  readonly options?: (name: string) => Partial<GuestOptions>;
  readonly disk?: Partial<Disk>;
  /** Why it cannot be tested here. */
  readonly skip?: string | false;
  /** Done before the guest is started; what it gives is undone in the end. */
  readonly prepare?: (name: string) => Promise<(() => void) | undefined>;
  /** Done while the guest runs. */
  readonly afterwards?: (guest: QuiesceGuest) => Promise<unknown>;
  /** Done when the guest was refused, before it must be seen to go on. */
  readonly finally?: (guest: QuiesceGuest) => Promise<unknown>;
}

/** `-blockdev` and `-device` as libvirt gives them, for a disk past libvirt. */
function extraDisk(path: string): string[] {
  const storage = { driver: 'file', filename: path, 'node-name': 'extra-storage', 'auto-read-only': true };
  const format = { driver: 'raw', 'node-name': 'extra-format', file: 'extra-storage', 'read-only': false };
  return ['-blockdev', JSON.stringify(storage), '-blockdev', JSON.stringify(format)];
}

const blank = (path: string) => createDisk(path, { node, content: 'blank' });

const VIRTIOFSD = '/usr/lib/qemu/virtiofsd';

const CASES: Record<string, Case> = {
  'drops flushes (cache=unsafe)': { disk: { cache: 'unsafe' }, why: /cache=unsafe: flushes are dropped/ },
  'has a disk in the syntax of -drive': {
    prepare: (name) => blank(`/shared/${name}-old.img`).then(() => undefined),
    options: (name) => ({
      args: [
        ...['-drive', `file=/shared/${name}-old.img,format=raw,if=none,id=old`],
        ...['-device', 'virtio-blk-pci,drive=old,id=old-disk,addr=0x1e'],
      ],
    }),
    why: /started with -drive/,
  },
  'has a block device that is not JSON': {
    prepare: (name) => blank(`/shared/${name}-old.img`).then(() => undefined),
    options: (name) => ({
      args: ['-blockdev', `driver=file,node-name=old,filename=/shared/${name}-old.img`],
    }),
    why: /is not JSON/,
  },
  'has an image open that no device uses': {
    prepare: (name) => blank(`/shared/${name}-extra.img`).then(() => undefined),
    options: (name) => ({ args: extraDisk(`/shared/${name}-extra.img`) }),
    why: /block node extra-format \(.*\) would stay open/,
  },
  'has a USB stick': {
    prepare: (name) => blank(`/shared/${name}-extra.img`).then(() => undefined),
    options: (name) => ({
      args: [
        ...extraDisk(`/shared/${name}-extra.img`),
        ...['-device', 'qemu-xhci,id=xhci,addr=0x1e', '-device', 'usb-storage,id=stick,drive=extra-format'],
      ],
    }),
    why: /device stick is a usb-storage, which is not on the list/,
  },
  'has a folder of the host (9p)': {
    options: () => ({
      args: [
        ...['-fsdev', 'local,id=folder,path=/shared,security_model=none'],
        ...['-device', 'virtio-9p-pci,id=folder0,fsdev=folder,mount_tag=folder,addr=0x1e'],
      ],
    }),
    why: /device folder0 is a virtio-9p-pci.*started with -fsdev/,
  },
  'has a disk served by another process (vhost-user-blk)': {
    prepare: async (name) => {
      await blank(`/shared/${name}-user.img`);
      const daemon = node.spawn([
        'qemu-storage-daemon',
        ...['--blockdev', `driver=file,node-name=file,filename=/shared/${name}-user.img`],
        ...['--export', 'vhost-user-blk,id=one,node-name=file,writable=on'].flatMap((word) =>
          word.startsWith('vhost') ? [`${word},addr.type=unix,addr.path=/run/lab/${name}.user`] : [word],
        ),
      ]);
      const socket = ['sh', '-c', `until [ -S /run/lab/${name}.user ]; do sleep 0.05; done`];
      await node.check(socket, { timeout: 10_000 });
      return () => void process.kill(-(daemon.pid ?? 0), 'SIGKILL');
    },
    options: (name) => ({
      elements: "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>",
      args: [
        ...['-chardev', `socket,id=user,path=/run/lab/${name}.user`],
        ...['-device', 'vhost-user-blk-pci,id=user0,chardev=user,addr=0x1e'],
      ],
    }),
    why: /device user0 is a vhost-user-blk-pci/,
  },
  'has a TPM that another process emulates (swtpm)': {
    skip: !existsSync('/usr/bin/swtpm') && 'swtpm is not installed',
    prepare: async (name) => {
      const socket = `/run/lab/${name}.tpm`;
      await node.check(['mkdir', `/shared/${name}-tpm`]);
      // It ends with QEMU, and in any case with the lab.
      node.spawn([
        ...['swtpm', 'socket', '--tpm2', '--tpmstate', `dir=/shared/${name}-tpm`],
        ...['--ctrl', `type=unixio,path=${socket}`],
      ]);
      await node.check(['sh', '-c', `until [ -S ${socket} ]; do sleep 0.05; done`], { timeout: 10_000 });
      return undefined;
    },
    options: (name) => ({
      args: [
        ...['-chardev', `socket,id=tpm-socket,path=/run/lab/${name}.tpm`],
        ...['-tpmdev', 'emulator,id=tpm,chardev=tpm-socket', '-device', 'tpm-crb,id=tpm0,tpmdev=tpm'],
      ],
    }),
    why: /device tpm0 is a tpm-crb.*started with -tpmdev/,
  },
  'has a folder served by another process (virtiofs)': {
    skip: !existsSync(VIRTIOFSD) && `${VIRTIOFSD} is not installed`,
    prepare: async (name) => {
      const socket = `/run/lab/${name}.fs`;
      await node.check(['mkdir', `/shared/${name}-fs`]);
      // It ends with QEMU, and in any case with the lab.
      node.spawn([
        ...[VIRTIOFSD, `--socket-path=${socket}`],
        ...['-o', `source=/shared/${name}-fs`, '-o', 'sandbox=chroot'],
      ]);
      await node.check(['sh', '-c', `until [ -S ${socket} ]; do sleep 0.05; done`], { timeout: 10_000 });
      return undefined;
    },
    options: (name) => ({
      elements: "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>",
      args: [
        ...['-chardev', `socket,id=folder,path=/run/lab/${name}.fs`],
        ...['-device', 'vhost-user-fs-pci,id=fs0,chardev=folder,tag=folder,addr=0x1e'],
      ],
    }),
    why: /device fs0 is a vhost-user-fs-pci/,
  },
  'shares its memory through a file on a disk': {
    options: () => ({
      elements: "<memoryBacking><source type='file'/><access mode='shared'/></memoryBacking>",
    }),
    why: /memory is shared through the file .*, which is not on a memory file system/,
  },
  'has a network backend that goes on by itself': {
    options: () => ({
      args: [
        ...['-netdev', 'socket,id=wire,udp=127.0.0.1:4711,localaddr=127.0.0.1:4712'],
        ...['-device', 'virtio-net-pci,id=wired,netdev=wire,addr=0x1e'],
      ],
    }),
    why: /network backend wire is a (socket|dgram)/,
  },
  'copies what it reads into its image': {
    disk: { driver: "copy_on_read='on'" },
    why: /block driver copy-on-read \(node \S+\) has not been shown to be safe/,
  },
  'has a disk on an adapter that nobody has examined': {
    prepare: (name) => blank(`/shared/${name}-extra.img`).then(() => undefined),
    options: (name) => ({
      args: [
        ...extraDisk(`/shared/${name}-extra.img`),
        ...[
          '-device',
          'megasas,id=raid,addr=0x1e',
          '-device',
          'scsi-hd,id=raid0,bus=raid.0,drive=extra-format',
        ],
      ],
    }),
    why: /device raid0 is on a megasas, whose media nobody has shown to be movable/,
  },
  'is being copied (block job)': {
    afterwards: (guest) =>
      guest.virsh('blockcopy', guest.name, 'vda', `/shared/${guest.name}.copy`, '--transient-job'),
    why: /the job copy-vda-\S+ \(mirror\) is not finished/,
    finally: (guest) => guest.virsh('blockjob', guest.name, 'vda', '--abort'),
  },
  'is served over NBD (block export)': {
    afterwards: async (guest) => {
      const addr = { type: 'unix', data: { path: `/shared/${guest.name}.nbd` } };
      await guest.qmp('nbd-server-start', { addr });
      const nodes = (await guest.qmp('query-named-block-nodes')) as readonly { 'node-name': string }[];
      const format = nodes.map((each) => each['node-name']).find((name) => name.endsWith('format'));
      await guest.qmp('block-export-add', { type: 'nbd', id: 'served', 'node-name': format ?? '' });
    },
    why: /the block export served is served/,
    finally: (guest) => guest.qmp('nbd-server-stop'),
  },
  'was given a disk since its start': {
    prepare: (name) => blank(`/shared/${name}-plugged.img`).then(() => undefined),
    afterwards: (guest) =>
      guest.virsh('attach-disk', guest.name, `/shared/${guest.name}-plugged.img`, 'vdb', '--live'),
    why: /is not on qemu's command line \(a snapshot, copy, media change or hot-plug since the start\)/,
  },
  'writes to a snapshot since its start': {
    afterwards: (guest) =>
      guest.virsh('snapshot-create-as', guest.name, 'one', '--disk-only', '--no-metadata'),
    why: /is not on qemu's command line \(a snapshot, copy, media change or hot-plug since the start\)/,
    finally: (guest) => guest.virsh('blockcommit', guest.name, 'vda', '--active', '--wait', '--pivot'),
  },
  'has an image that was replaced under its name': {
    afterwards: (guest) => node.check(['sh', '-c', 'mv "$0" "$0.moved" && cp "$0.moved" "$0"', guest.disk]),
    why: /the file at \S+ is not the one that qemu has open/,
    finally: (guest) => node.check(['mv', `${guest.disk}.moved`, guest.disk]),
  },
  'is being migrated': {
    prepare: async (name) => {
      await createDisk(`/shared/${name}.img`, { node, settings: { dirty: true } });
      await lab.node(2).check(['sh', '-c', MAKE_SOCKET_FOLDERS]);
      return undefined;
    },
    afterwards: async (guest) => {
      await guest.virsh('migrate-setspeed', guest.name, '1');
      node.spawn(['virsh', 'migrate', '--live', '--unsafe', guest.name, 'qemu+tcp://node2/system']);
      await guest.until(async () => {
        const { status } = (await guest.qmp('query-migrate')) as { status?: string };
        return status === 'active';
      });
    },
    why: /a migration is under way \(active\)/,
    finally: (guest) => guest.virsh('domjobabort', guest.name),
  },
};

/**
 * A guest that is resumed by hand while its sentinel is active runs on that: it reaches none of its images, and for
 * having done so it is neither called safe nor resumed on them any more.
 */
async function runsOnItsSentinel(guest: QuiesceGuest): Promise<void> {
  const left = await guest.witness();
  const requests = async () => JSON.stringify(await guest.qmp('query-blockstats'));
  const before = await requests();
  await guest.qmp('cont');
  await guest.until(async () => (await requests()) !== before);
  assert.ok(!isComplete(await guest.proof()), 'it is called safe while it runs');
  const { reason, undone } = failure(await guest.quiesce());
  assert.match(reason, /it was running on its sentinels/);
  assert.equal(undone, false);
  assert.match(JSON.stringify(await guest.resume()), /it has run since it was quiesced/);
  assert.deepEqual(await guest.witness(), left, 'it wrote to its disk');
  await guest.runsElsewhere();
}

/** What is laid in the place of a sentinel's file ($path), to get at a file of somebody else ($victim). */
interface Trap {
  readonly lay: string;
  readonly before: Step;
  /** Undefined where the quiesce goes its way all the same, and is proved. */
  readonly failure?: { readonly step: Step; readonly undone: boolean; readonly reason: RegExp };
  /** `cont` by hand is not refused then. */
  readonly attack?: true;
}

const TRAPS: Record<string, Trap> = {
  'a symbolic link': { lay: 'ln -s "$victim" "$path"', before: 'add-sentinels' },
  'a hard link': { lay: 'ln "$victim" "$path"', before: 'add-sentinels' },
  'a folder': {
    lay: 'mkdir "$path"',
    before: 'add-sentinels',
    failure: {
      step: 'add-sentinels',
      undone: true,
      reason: /kvmha-sentinel-\S+ cannot be made: .*directory/,
    },
  },
  'a symbolic link, once QEMU has opened it': {
    lay: 'mv "$path" "$path.moved" && ln -s "$victim" "$path"',
    before: 'links-down',
    failure: { step: 'record-durable', undone: true, reason: /kvmha-sentinel-\S+: it was moved or replaced/ },
  },
  'a symbolic link, once its image is let go': {
    lay: 'mv "$path" "$path.moved" && ln -s "$victim" "$path"',
    before: 'delete-nodes',
    failure: { step: 'inactivate', undone: false, reason: /kvmha-sentinel-\S+: it was moved or replaced/ },
    attack: true,
  },
  'a folder, once its node is inactive': {
    lay: 'mv "$path" "$path.moved" && mkdir "$path"',
    before: 'unlink-sentinels',
    failure: { step: 'unlink-sentinels', undone: false, reason: /somebody has made a folder/ },
  },
};

for (const [index, { name: qemu, emulator, skip }] of (await qemus()).entries()) {
  describe(`${qemu}: no other file is written to, no guest wrongly called safe and no qemu lost when in a sentinel's place is`, {
    skip,
    concurrency: 2,
  }, () => {
    for (const [number, [what, { lay, before, failure: expected, attack }]] of Object.entries(
      TRAPS,
    ).entries()) {
      test(what, async () => {
        const name = `trap-${index}-${number}`;
        // On the file system of libvirt's folders, and an image that QEMU could take for the sentinel.
        const victim = `/var/lib/libvirt/${name}.vdi`;
        await node.check(['qemu-img', 'create', '-q', '-f', 'vdi', victim, '1M']);
        const content = async () =>
          node.check(['sh', '-c', 'md5sum "$0"; stat -c "%u %a %s %Y" "$0"', victim]);
        const pristine = await content();
        const guest = await QuiesceGuest.running(node, name, {
          emulator,
          disks: [{ path: `/shared/${name}.img` }],
        });
        const pid = await guest.pid();
        const script = `victim=${victim}
          path=$(grep -o '/[^"]*/kvmha-sentinel-0-[0-9a-f]*.vdi' /run/kvmha/guests/${guest.uuid}/quiesce.json)
          ${lay} && touch /shared/${name}.laid`;
        const report = await guest.quiesce({ before: { [before]: { run: ['sh', '-c', script] } } });
        await node.check(['test', '-e', `/shared/${name}.laid`]);
        if (expected === undefined) {
          assert.equal(report.outcome?.kind, 'proved', JSON.stringify(report));
          await assert.rejects(guest.qmp('cont'), /Could not open '[^']*kvmha-sentinel/);
        } else {
          const { step, undone, reason } = failure(report);
          assert.deepEqual([step, undone], [expected.step, expected.undone], reason);
          assert.match(reason, expected.reason);
          if (undone) {
            await guest.goesOn();
            await guest.preserve(); // by a sentinel of another name
          } else {
            assert.ok(!isComplete(await guest.proof()), 'it is called safe');
            assert.notEqual(
              (await guest.quiesce()).outcome?.kind,
              'proved',
              'the second attempt calls it safe',
            );
          }
        }
        assert.equal(await content(), pristine);
        assert.equal(await guest.pid(), pid, 'its qemu is gone');
        if (attack) {
          await runsOnItsSentinel(guest);
          assert.equal(await content(), pristine);
          await guest.end();
          return;
        }
        await guest.resumes();
        assert.equal(await content(), pristine);
        await guest.end();
      });
    }
  });

  describe(`${qemu}: refused by name, and left as it is, is a guest that`, { skip, concurrency: 2 }, () => {
    for (const [number, [what, each]] of Object.entries(CASES).entries()) {
      test(what, { skip: each.skip ?? false }, async () => {
        const name = `refused-${index}-${number}`;
        const undo = await each.prepare?.(name);
        try {
          const guest = await QuiesceGuest.running(node, name, {
            emulator,
            disks: [{ path: `/shared/${name}.img`, ...each.disk }],
            ...each.options?.(name),
          });
          const pid = await guest.pid();
          await each.afterwards?.(guest);
          assert.match(refusal(await guest.quiesce()), each.why);
          assert.equal(await guest.proof(), undefined, 'it was recorded as quiesced');
          await each.finally?.(guest);
          assert.equal(await guest.pid(), pid, 'its qemu is gone');
          await guest.goesOn();
          await guest.end();
        } finally {
          undo?.();
        }
      });
    }

    test('has no writable disk', async () => {
      const name = `refused-${index}-readonly`;
      await createDisk(`/shared/${name}.img`, { node });
      const disks = [{ path: `/shared/${name}.img`, readonly: true }];
      const guest = await QuiesceGuest.started(node, name, { emulator, disks });
      const pid = await guest.pid();
      assert.match(refusal(await guest.quiesce()), /no writable disk to carry a sentinel/);
      assert.equal(await guest.pid(), pid, 'its qemu is gone');
      await guest.end();
    });

    test('has no disk at all', async () => {
      const guest = await QuiesceGuest.started(node, `refused-${index}-diskless`, { emulator, disks: [] });
      assert.match(refusal(await guest.quiesce()), /no writable disk to carry a sentinel/);
      await guest.runstate('running');
      await guest.end();
    });
  });
}

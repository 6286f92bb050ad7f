import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { NbdServer } from '../fault/nbd.ts';
import type { Disk } from '../guest/domain.ts';
import { createDisk } from '../guest/witness.ts';
import { Lab, type LabNode } from '../lab/client.ts';
import { qemus } from '../support/qemus.ts';
import { type GuestOptions, MAKE_SOCKET_FOLDERS, QuiesceGuest, refusal } from '../support/quiesced.ts';

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
  'has a disk on the network (NBD)': {
    prepare: async (name) => {
      await blank(`/shared/${name}-nbd.img`);
      const server = await NbdServer.start(node, `/shared/${name}-nbd.img`, { name });
      return () => void server.stop();
    },
    options: (name) => ({
      disks: [{ path: `/shared/${name}.img` }, { nbd: `/run/lab/${name}.sock` }],
    }),
    why: /block driver nbd \(node \S+\) has not been shown to be safe/,
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

for (const [index, { name: qemu, emulator, skip }] of (await qemus()).entries()) {
  describe(`${qemu}: refused by name, and left as it is, is a guest that`, { skip, concurrency: 2 }, () => {
    for (const [number, [what, each]] of Object.entries(CASES).entries()) {
      test(what, async () => {
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

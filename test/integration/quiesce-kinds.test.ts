import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { createDisk, createOverlay } from '../guest/witness.ts';
import { Lab, type LabNode } from '../lab/client.ts';
import { qemus } from '../support/qemus.ts';
import {
  failure,
  type GuestDisk,
  type GuestOptions,
  MAKE_SOCKET_FOLDERS,
  QuiesceGuest,
} from '../support/quiesced.ts';

let lab: Lab;
let node: LabNode;
before(async () => {
  lab = await Lab.up({ nodes: 2, cluster: false });
  node = lab.node(1);
  await node.check(['sh', '-c', LOOP_DEVICES]);
});
after(async () => {
  await node.exec([
    'sh',
    '-c',
    'losetup -n -O NAME,BACK-FILE | grep /shared/kind- | while read d _; do losetup -d "$d"; done',
  ]);
  await lab.down();
});

const LOOP_DEVICES =
  'mknod /dev/loop-control c 10 237; for i in $(seq 0 31); do mknod /dev/loop$i b 7 $i; done';

/** A kind of guest that can be proved safe. */
interface Kind {
  readonly disks: (name: string) => readonly GuestDisk[];
  readonly options?: Partial<GuestOptions> | ((name: string) => Partial<GuestOptions>);
  /** Done before the guest is started; gives disks instead of `disks`, if any. */
  readonly prepare?: (name: string) => Promise<readonly GuestDisk[] | undefined>;
  /** Done while the guest runs; gives the guest, if it has become another. */
  readonly arrange?: (guest: QuiesceGuest) => Promise<QuiesceGuest | undefined>;
  /** Looked at when it is preserved. */
  readonly judge?: (guest: QuiesceGuest) => Promise<void>;
  /** Its storage cannot be made to fail here, so it is preserved as it runs. */
  readonly fails?: false;
}

const raw =
  (more: Partial<GuestDisk> = {}) =>
  (name: string) => [{ path: `/shared/${name}.img`, ...more }];
const qcow2 =
  (more: Partial<GuestDisk> = {}) =>
  (name: string) => [{ path: `/shared/${name}.qcow2`, format: 'qcow2' as const, ...more }];
const both =
  (more: Partial<GuestDisk> = {}) =>
  (name: string) => [...raw(more)(name), ...qcow2(more)(name)];
const isoOn =
  (bus: GuestDisk['bus'], target: string) =>
  (name: string): GuestDisk[] => [
    { path: `/shared/${name}.iso`, bus: bus ?? 'ide', device: 'cdrom', target },
  ];

/** What virt-install adds to a guest on Debian 12 by default, as far as it is installed here. */
function withAllDevices(xml: string): string {
  return xml
    .replace("<controller type='usb' model='none'/>", "<controller type='usb' model='qemu-xhci' ports='15'/>")
    .replace("<memballoon model='none'/>", "<memballoon model='virtio'/>")
    .replace(
      '</devices>',
      `<controller type='pci' model='pcie-root'/>
      <controller type='virtio-serial'/>
      <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
      <input type='tablet' bus='usb'/>
      <graphics type='vnc' port='-1'/>
      <video><model type='virtio'/></video>
      <sound model='ich9'/>
      <watchdog model='i6300esb' action='reset'/>
      <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
      <panic model='isa'/>
    </devices>`,
    );
}

const SECRET_UUID = '7c2b6a51-3b0e-4a7c-9a53-0a6f6f0d5c11';
const SECRET = `\
<secret ephemeral='no' private='yes'>
  <uuid>${SECRET_UUID}</uuid>
  <description>of encrypted disks</description>
</secret>
`;
const ENCRYPTION = `<encryption format='luks'><secret type='passphrase' uuid='${SECRET_UUID}'/></encryption>`;
const KEY = ['--object', 'secret,id=key,data=passphrase'] as const;
/** qemu-img fails when it measures no use of the processor while it chooses the iterations. */
const ENCRYPT = `
for attempt in $(seq 20); do
  qemu-img convert ${KEY.join(' ')} -f raw -O "$1" -o "$2" "$0.plain" "$0" && exit
done
exit 1`;

/** Encrypted in both ways, and on a bus on which nothing flushes by itself. */
const encrypted = (name: string): GuestDisk[] => [
  { path: `/shared/${name}.luks`, bus: 'ide', elements: ENCRYPTION },
  { path: `/shared/${name}-encrypted.qcow2`, bus: 'ide', format: 'qcow2', elements: ENCRYPTION },
];

async function makeEncrypted(name: string): Promise<undefined> {
  node.write('/shared/secret.xml', SECRET);
  await node.check(['virsh', 'secret-define', '/shared/secret.xml']);
  await node.check(['virsh', 'secret-set-value', SECRET_UUID, Buffer.from('passphrase').toString('base64')]);
  for (const { path = '', format } of encrypted(name)) {
    await createDisk(`${path}.plain`, { node, content: 'data' });
    const how =
      format === 'qcow2'
        ? ['qcow2', 'encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10']
        : ['luks', 'key-secret=key,iter-time=10'];
    await node.check(['sh', '-c', ENCRYPT, path, ...how]);
  }
}

/** The last tick is on the encrypted disks, too. */
async function hasEncrypted(guest: QuiesceGuest): Promise<void> {
  const { ticks } = await guest.witness();
  for (const { path, format } of encrypted(guest.name)) {
    const how = format === 'qcow2' ? 'qcow2,encrypt.format=luks,encrypt.' : 'luks,';
    const image = `driver=${how}key-secret=key,file.driver=file,file.filename=${path}`;
    const printed = await node.check([
      'qemu-io',
      '-r',
      ...KEY,
      '-c',
      'read -v 8192 16',
      '--image-opts',
      image,
    ]);
    const bytes = /^[0-9a-f]{8}: {2}((?:[0-9a-f]{2} ){16})/m.exec(printed)?.[1] ?? '';
    assert.equal(Buffer.from(bytes.replaceAll(' ', ''), 'hex').readUInt32LE(8), ticks, path);
  }
}

const KINDS: Record<string, Kind> = {
  'one raw disk': { disks: raw() },
  'one qcow2 disk': { disks: qcow2() },
  'disks on IDE': { disks: both({ bus: 'ide' }) },
  'an empty CD drive': { disks: (name) => [...raw()(name), { bus: 'ide', device: 'cdrom' }] },
  'no QMP socket for us': { disks: both(), options: { withoutSockets: true } },
  'disks and CD drives on virtio-scsi': {
    disks: (name) => [
      ...both({ bus: 'scsi' })(name),
      ...isoOn('scsi', 'sdf')(name),
      { bus: 'scsi', device: 'cdrom', target: 'sdg' },
    ],
  },
  'disks on virtio-scsi in an iothread': {
    disks: both({ bus: 'scsi' }),
    options: {
      elements: '<iothreads>1</iothreads>',
      devices: "<controller type='scsi' model='virtio-scsi' index='0'><driver iothread='1'/></controller>",
    },
  },
  'disks in iothreads': {
    disks: (name) => [
      ...raw({ driver: "iothread='1'" })(name),
      ...qcow2({ driver: "iothread='2'" })(name),
      { path: `/shared/${name}-third.img`, driver: "iothread='1'" },
    ],
    options: { elements: '<iothreads>2</iothreads>' },
  },
  'disks and CD drives on SATA': {
    disks: (name) => [
      ...both({ bus: 'sata' })(name),
      ...isoOn('sata', 'sdf')(name),
      { bus: 'sata', device: 'cdrom', target: 'sde' },
    ],
    options: { machine: 'q35' },
  },
  'disks on an LSI adapter': {
    disks: both({ bus: 'scsi' }),
    options: { devices: "<controller type='scsi' model='lsilogic' index='0'/>" },
  },
  'a backing chain': {
    disks: qcow2(),
    prepare: async (name) => {
      await createDisk(`/shared/${name}-base.img`, { node });
      const middle = { path: `/shared/${name}-base.img`, format: 'raw' } as const;
      await createOverlay(`/shared/${name}-middle.qcow2`, middle, { node });
      const top = { path: `/shared/${name}-middle.qcow2`, format: 'qcow2' } as const;
      await createOverlay(`/shared/${name}.qcow2`, top, { node });
      return undefined;
    },
  },
  'lazy refcounts, while clusters are allocated': {
    disks: qcow2(),
    prepare: async (name) => {
      await createDisk(`/shared/${name}-base.img`, { node });
      const base = ['-b', `/shared/${name}-base.img`, '-F', 'raw', '-o', 'lazy_refcounts=on'];
      await node.check(['qemu-img', 'create', '-q', '-f', 'qcow2', ...base, `/shared/${name}.qcow2`]);
      return undefined;
    },
  },
  'a snapshot inside its image, taken while it ran': {
    disks: qcow2(),
    arrange: async (guest) => {
      await guest.virsh('snapshot-create-as', guest.name, 'one');
      await guest.ticks();
      return undefined;
    },
  },
  'an external snapshot that was taken and committed': {
    disks: raw(),
    arrange: async (guest) => {
      await guest.virsh('snapshot-create-as', guest.name, 'one', '--disk-only', '--no-metadata');
      await guest.virsh('blockcommit', guest.name, 'vda', '--active', '--wait', '--pivot');
      await guest.ticks();
      return undefined;
    },
  },
  'a host cache that is written through': { disks: both({ cache: 'writethrough' }) },
  'a host cache that is written back': { disks: both({ cache: 'writeback' }) },
  'neither host nor guest cache (directsync)': { disks: both({ cache: 'directsync' }) },
  'asynchronous I/O of the kernel': { disks: both({ driver: "io='native'" }), fails: false },
  'discarding and detection of zeroes': {
    disks: both({ driver: "discard='unmap' detect_zeroes='unmap'" }),
  },
  'a block device': {
    disks: () => [],
    prepare: async (name) => {
      await createDisk(`/shared/${name}.img`, { node });
      const device = (await node.check(['losetup', '-f', '--show', `/shared/${name}.img`])).trim();
      return [{ path: device, type: 'block' }];
    },
    fails: false,
  },
  'encrypted disks (LUKS, by itself and in qcow2)': {
    disks: (name) => [...raw()(name), ...encrypted(name)],
    prepare: makeEncrypted,
    judge: hasEncrypted,
  },
  'eight disks': {
    disks: (name) => Array.from({ length: 8 }, (_, each) => qcow2()(`${name}-${each}`)).flat(),
  },
  'a read-only disk beside': {
    disks: (name) => [...raw()(name), { path: `/shared/${name}-ro.img`, readonly: true }],
  },
  'a CD whose medium was changed': {
    disks: (name) => [...raw()(name), ...isoOn('ide', 'hdc')(name)],
    arrange: async (guest) => {
      const iso = `/shared/${guest.name}-other.iso`;
      await createDisk(iso, { node, content: 'blank' });
      await guest.virsh('change-media', guest.name, 'hdc', iso, '--update', '--live');
      return undefined;
    },
  },
  'throttled disks': {
    disks: both({ elements: '<iotune><total_iops_sec>30</total_iops_sec></iotune>' }),
    arrange: async (guest) => {
      await guest.virsh('blkdeviotune', guest.name, 'vdb', '--total-bytes-sec', '20000');
      return undefined;
    },
  },
  'a shareable disk': { disks: raw({ shareable: true }) },
  'memory that it shares with nobody (memfd)': {
    disks: raw(),
    options: { elements: "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>" },
  },
  'private memory in a file': {
    disks: raw(),
    options: { elements: "<memoryBacking><source type='file'/></memoryBacking>" },
  },
  'a serial port that is logged to a file': { disks: raw(), options: { serial: '/shared/kind-serial.log' } },
  'a variable store of its firmware': {
    disks: raw(),
    prepare: async (name) => {
      await node.check(['truncate', '-s', '64K', `/shared/${name}.fd`]);
      return undefined;
    },
    options: (name) => ({
      elements: `<os>
        <loader readonly='yes' type='pflash'>/usr/share/seabios/bios-256k.bin</loader>
        <nvram>/shared/${name}.fd</nvram>
      </os>`,
    }),
  },
  'a past on another node, from which it came by live migration': {
    disks: both(),
    prepare: async () => {
      await lab.node(2).check(['sh', '-c', MAKE_SOCKET_FOLDERS]);
      return undefined;
    },
    arrange: async (guest) => {
      await guest.virsh('migrate', '--live', '--unsafe', guest.name, 'qemu+tcp://node2/system');
      const there = guest.on(lab.node(2));
      await there.ticks();
      return there;
    },
  },
  'a past in a file, from which it was restored': {
    disks: both(),
    arrange: async (guest) => {
      await guest.virsh('save', guest.name, `/shared/${guest.name}.saved`);
      await guest.virsh('restore', `/shared/${guest.name}.saved`);
      await guest.ticks();
      return undefined;
    },
  },
  'all that virt-install gives it': {
    disks: (name) => [...both()(name), ...isoOn('sata', 'sdd')(name)],
    options: { machine: 'q35', bridges: ['br0'], memory: 64, vcpus: 2, edit: withAllDevices },
  },
  'asynchronous I/O by io_uring': {
    disks: both({ driver: "io='io_uring'" }),
    fails: false,
  },
  'KVM and two vCPUs': { disks: both(), options: { type: 'kvm', vcpus: 2 } },
};

for (const [index, { name: qemu, emulator, skip }] of (await qemus()).entries()) {
  describe(`${qemu}: preserved, or given back if that fails, is a guest with`, {
    skip,
    concurrency: 2,
  }, () => {
    for (const [number, [what, kind]] of Object.entries(KINDS).entries()) {
      test(what, async () => {
        const name = `kind-${index}-${number}`;
        const disks = (await kind.prepare?.(name)) ?? kind.disks(name);
        const options = typeof kind.options === 'function' ? kind.options(name) : kind.options;
        const begun = await QuiesceGuest.running(node, name, { ...options, emulator, disks });
        const guest = (await kind.arrange?.(begun)) ?? begun;
        const pid = await guest.pid();

        const { step, undone, reason } = failure(await guest.quiesce({ before: { 'delete-nodes': 'fail' } }));
        assert.deepEqual([step, undone], ['delete-nodes', true], reason);
        await guest.goesOn();

        if (kind.fails !== false) {
          await guest.failing();
        }
        await guest.preserve();
        await kind.judge?.(guest);
        await assert.rejects(guest.qmp('cont'), /Could not open '[^']*kvmha-sentinel/);
        await guest.qmp('system_reset');
        await assert.rejects(guest.qmp('cont'), /Could not open '[^']*kvmha-sentinel/);
        assert.equal(await guest.pid(), pid, 'its qemu is gone');
        await guest.runsElsewhere();
        await guest.assertProved('another guest ran from its images');
        await guest.end();
      });
    }
  });

  describe(`${qemu}: preserved, and run elsewhere, is a guest that`, { skip, concurrency: 2 }, () => {
    const FAULTS = {
      'met an internal error': { type: 'kvm', key: 'KEY_I', runstate: 'internal-error' },
      'was stopped by its watchdog': { watchdog: 'pause', key: 'KEY_H', runstate: 'watchdog' },
      'panicked and was kept': {
        pvpanic: true,
        onCrash: 'preserve',
        key: 'KEY_P',
        runstate: 'guest-panicked',
      },
    } as const;
    for (const [number, [what, { key, runstate, ...options }]] of Object.entries(FAULTS).entries()) {
      const noKvm = 'type' in options && !existsSync('/dev/kvm') && 'there is no /dev/kvm';
      test(what, { skip: noKvm }, async () => {
        const name = `fault-${index}-${number}`;
        const disks = [{ path: `/shared/${name}.img` }];
        await createDisk(`/shared/${name}.img`, { node, settings: { watchdog: runstate === 'watchdog' } });
        const guest = await QuiesceGuest.running(node, name, { ...options, emulator, disks });
        await guest.virsh('send-key', name, key);
        await guest.runstate(runstate);
        await guest.preserve();
        await guest.qmp('system_reset');
        await assert.rejects(guest.qmp('cont'), /Could not open '[^']*kvmha-sentinel/);
        await guest.runsElsewhere();
        await guest.assertProved('another guest ran from its images');
        await guest.end();
      });
    }

    const firmware = '/usr/share/OVMF/OVMF_CODE_4M.fd';
    test('has written to its UEFI variables', { skip: !existsSync(firmware) && 'no OVMF' }, async () => {
      const name = `fault-${index}-uefi`;
      const variables = `/shared/${name}.fd`;
      await node.check(['cp', firmware.replace('CODE', 'VARS'), variables]);
      const guest = await QuiesceGuest.started(node, name, {
        emulator,
        machine: 'q35',
        memory: 128,
        disks: [{ path: `/shared/${name}.img` }],
        elements: `<os>
          <loader readonly='yes' type='pflash'>${firmware}</loader><nvram>${variables}</nvram>
        </os>`,
      });
      const content = async () => node.check(['md5sum', variables]);
      const pristine = await content();
      await guest.until(async () => (await content()) !== pristine);
      await guest.preserve();
      const left = await content();
      await assert.rejects(guest.qmp('cont'), /Could not open '[^']*kvmha-sentinel/);
      // Another qemu can take it, which it could not while it was locked.
      await node.check(['qemu-io', '-f', 'raw', '-c', 'write -P 0 0 0', variables]);
      assert.equal(await content(), left);
      await guest.assertProved('its variables were taken by another');
      await guest.end();
    });
  });
}

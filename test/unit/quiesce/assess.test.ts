import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { parseCommandLine } from '../../../lib/qemu/command-line.ts';
import { DEVICES, NET_BACKENDS, OBJECTS, OPTIONS } from '../../../lib/quiesce/allow-list.ts';
import { assess, type Plan } from '../../../lib/quiesce/assess.ts';
import type { BlockNode, Edge, Inspection } from '../../../lib/quiesce/inspection.ts';

const TMPFS = 0x01021994;
const EXT4 = 0xef53;
const onDisk = () => EXT4;

/** `-blockdev` options of a disk as libvirt gives them. */
function blockdevs(id: number, options: { format?: string; file?: object; top?: object } = {}) {
  const cache = { direct: true, 'no-flush': false };
  return [
    {
      driver: 'file',
      filename: `/images/${id}.img`,
      'node-name': `libvirt-${id}-storage`,
      cache,
      'auto-read-only': true,
      discard: 'unmap',
      ...options.file,
    },
    {
      'node-name': `libvirt-${id}-format`,
      'read-only': false,
      cache,
      driver: options.format ?? 'raw',
      file: `libvirt-${id}-storage`,
      ...options.top,
    },
  ];
}

function node(name: string, more: Partial<BlockNode> = {}): BlockNode {
  const isFile = name.endsWith('storage');
  return {
    name,
    driver: isFile ? 'file' : 'raw',
    readOnly: false,
    active: undefined,
    filename: `/images/${/\d+/.exec(name)?.[0]}.img`,
    noFlush: false,
    direct: true,
    ...more,
  };
}

function edge(parent: string, child: string, role: string, writes = true): Edge {
  return {
    parentType: role === 'root' ? 'block-backend' : 'block-driver',
    parent,
    node: child,
    role,
    writes,
  };
}

const QDEV = '/machine/peripheral/virtio-disk0/virtio-backend';

/** As `inspection`, with its disk served over NBD. */
function onNbd(options: object, filename = 'nbd://10.0.0.1:10809/e', noFlush = false): Inspection {
  const [, format] = blockdevs(1);
  const storage = { driver: 'nbd', 'node-name': 'libvirt-1-storage', export: 'e', ...options };
  return inspection({
    blockdevs: [{ ...storage, cache: { direct: true, 'no-flush': noFlush } }, format ?? {}],
    nodes: [node('libvirt-1-format'), node('libvirt-1-storage', { driver: 'nbd', filename, noFlush })],
  });
}

/** A guest with one raw disk, in every respect as it can be proved safe; `differences` replace what differs. */
function inspection(differences: Partial<Inspection> & { blockdevs?: object[]; options?: string[] } = {}) {
  const { blockdevs: given = blockdevs(1), options = [], ...rest } = differences;
  const argv = [
    ...['qemu', '-name', 'guest=g', '-nodefaults'],
    ...given.flatMap((each) => ['-blockdev', JSON.stringify(each)]),
    ...options,
  ];
  const whole: Inspection = {
    commandLine: parseCommandLine(argv),
    commands: new Set(['xen-save-devices-state', 'x-blockdev-set-iothread']),
    blockDevices: [
      { qdev: QDEV, type: 'virtio-blk-device', adapter: undefined, node: 'libvirt-1-format' },
      { qdev: 'ide0-0-1', type: 'ide-cd', adapter: undefined, node: undefined },
    ],
    nodes: [node('libvirt-1-format'), node('libvirt-1-storage')],
    graph: [edge(QDEV, 'libvirt-1-format', 'root'), edge('libvirt-1-format', 'libvirt-1-storage', 'file')],
    jobs: [],
    exports: [],
    migration: undefined,
    peripherals: [{ id: 'virtio-disk0', type: 'virtio-blk-pci' }],
    objects: [{ id: 'masterKey0', type: 'secret' }],
    network: [
      { name: 'net0', type: 'nic' },
      { name: 'hostnet0', type: 'tap' },
    ],
    memoryFiles: [],
    ...rest,
  };
  return whole;
}

function plan(whole: Inspection): Plan {
  const assessment = assess(whole, onDisk);
  assert.equal(assessment.kind, 'plan', JSON.stringify(assessment));
  return (assessment as { plan: Plan }).plan;
}

function refuses(whole: Inspection, why: RegExp, fileSystemOf: (path: string) => number = onDisk): void {
  const assessment = assess(whole, fileSystemOf);
  assert.equal(assessment.kind, 'refused');
  const { reasons } = assessment as { reasons: readonly string[] };
  assert.ok(
    reasons.some((reason) => why.test(reason)),
    `${why} is not among: ${reasons.join('; ')}`,
  );
}

/** Two disks' nodes, of which the second is the backing file of the first. */
function backingChain(more: { graph?: Edge[]; nodes?: BlockNode[]; top?: object } = {}): Inspection {
  return inspection({
    blockdevs: [
      ...blockdevs(2, { top: { 'read-only': true } }),
      ...blockdevs(1, { format: 'qcow2', top: { backing: 'libvirt-2-format', ...more.top } }),
    ],
    nodes: more.nodes ?? [
      node('libvirt-1-format', { driver: 'qcow2' }),
      node('libvirt-1-storage'),
      node('libvirt-2-format', { readOnly: true }),
      node('libvirt-2-storage'),
    ],
    graph: more.graph ?? [
      edge(QDEV, 'libvirt-1-format', 'root'),
      edge('libvirt-1-format', 'libvirt-2-format', 'backing', false),
      edge('libvirt-1-format', 'libvirt-1-storage', 'file'),
      edge('libvirt-2-format', 'libvirt-2-storage', 'file', false),
    ],
  });
}

describe('a guest whose every part is known', () => {
  test('is planned: its medium, its interfaces, and how its nodes are made inactive', () => {
    const { media, interfaces, inactivate } = plan(inspection());
    assert.deepEqual(interfaces, ['net0']);
    assert.equal(inactivate, 'xen-save-devices-state');
    assert.deepEqual(
      media.map(({ options, nodeOptions, ...rest }) => ({
        ...rest,
        options: options?.['node-name'],
        nodeOptions: nodeOptions.map((each) => each?.['node-name']),
      })),
      [
        {
          nodeOptions: ['libvirt-1-format', 'libvirt-1-storage'],
          qdev: QDEV,
          nodes: ['libvirt-1-format', 'libvirt-1-storage'],
          files: ['/images/1.img'],
          readOnly: false,
          direct: true,
          iothread: undefined,
          options: 'libvirt-1-format',
        },
      ],
    );
  });

  test('is made inactive by the command that is made for it, where there is one', () => {
    const commands = new Set(['xen-save-devices-state', 'blockdev-set-active']);
    assert.equal(plan(inspection({ commands })).inactivate, 'blockdev-set-active');
  });

  test('lets each node of a backing chain go before those that it uses', () => {
    assert.deepEqual(plan(backingChain()).media[0]?.nodes, [
      'libvirt-1-format',
      'libvirt-1-storage',
      'libvirt-2-format',
      'libvirt-2-storage',
    ]);
  });

  test('may have a read-only medium whose options nobody knows', () => {
    const cd = inspection({
      blockDevices: [
        ...inspection().blockDevices.slice(0, 1),
        { qdev: 'ide0-0-1', type: 'ide-cd', adapter: undefined, node: 'libvirt-9-format' },
      ],
      nodes: [...inspection().nodes, node('libvirt-9-format', { readOnly: true }), node('libvirt-9-storage')],
      graph: [
        ...(inspection().graph ?? []),
        edge('ide0-0-1', 'libvirt-9-format', 'root', false),
        edge('libvirt-9-format', 'libvirt-9-storage', 'file', false),
      ],
    });
    const medium = plan(cd).media[1];
    assert.equal(medium?.readOnly, true);
    assert.equal(medium?.options, undefined);
  });

  test('may share its memory on a memory file system', () => {
    const memoryFiles = [{ path: '/dev/hugepages/g', shared: true }];
    assert.equal(assess(inspection({ memoryFiles }), () => TMPFS).kind, 'plan');
  });
});

describe('a guest is refused by name', () => {
  const anyName = fc.stringMatching(/^[a-z][a-z0-9-]{0,20}$/);

  test('for any device, object, option and network backend that is not on the list', () => {
    fc.assert(
      fc.property(anyName, (name) => {
        if (!DEVICES.has(name)) {
          refuses(inspection({ peripherals: [{ id: 'x0', type: name }] }), new RegExp(`x0 is a ${name},`));
        }
        if (!OBJECTS.has(name)) {
          refuses(inspection({ objects: [{ id: 'x0', type: name }] }), new RegExp(`x0 is a ${name},`));
        }
        if (!OPTIONS.has(name)) {
          refuses(inspection({ options: [`-${name}`, 'x'] }), new RegExp(`started with -${name},`));
        }
        if (!NET_BACKENDS.has(name) && name !== 'nic') {
          refuses(inspection({ network: [{ name: 'x0', type: name }] }), new RegExp(`x0 is a ${name},`));
        }
      }),
    );
  });

  test('for what is known to write, to share memory or to move data by itself', () => {
    const types = [
      'nvdimm',
      'virtio-pmem-pci',
      'vfio-pci',
      'vhost-user-fs-pci',
      'virtio-9p-pci',
      'ivshmem-plain',
    ];
    for (const type of [
      ...types,
      'scsi-block',
      'scsi-generic',
      'usb-storage',
      'usb-host',
      'nvme',
      'tpm-crb',
    ]) {
      refuses(inspection({ peripherals: [{ id: 'x0', type }] }), new RegExp(`x0 is a ${type},`));
    }
    for (const type of ['pr-manager-helper', 'memory-backend-epc', 'sev-guest', 'throttle-group']) {
      refuses(inspection({ objects: [{ id: 'x0', type }] }), new RegExp(`x0 is a ${type},`));
    }
    for (const type of ['vhost-user', 'vhost-vdpa', 'socket', 'dgram']) {
      refuses(inspection({ network: [{ name: 'x0', type }] }), new RegExp(`x0 is a ${type},`));
    }
    for (const option of [
      '-drive',
      '-hda',
      '-cdrom',
      '-pflash',
      '-fsdev',
      '-virtfs',
      '-tpmdev',
      '-snapshot',
    ]) {
      refuses(inspection({ options: [option, 'x'] }), new RegExp(`started with ${option},`));
    }
  });

  test('for a disk of a kind or on an adapter that is not on the list', () => {
    const [disk] = inspection().blockDevices;
    assert.ok(disk);
    refuses(inspection({ blockDevices: [{ ...disk, type: 'floppy' }] }), /is a floppy/);
    const adapter = { type: 'megasas', iothread: undefined };
    refuses(inspection({ blockDevices: [{ ...disk, type: 'scsi-hd', adapter }] }), /is on a megasas/);
    refuses(inspection({ blockDevices: [{ ...disk, qdev: '' }] }), /belongs to no device/);
  });

  test('for an iothread that its media cannot be moved to', () => {
    const [disk] = inspection().blockDevices;
    assert.ok(disk);
    const adapter = { type: 'virtio-scsi-device', iothread: 'iothread1' };
    const blockDevices = [{ ...disk, type: 'scsi-hd', adapter }];
    assert.equal(plan(inspection({ blockDevices })).media[0]?.iothread, 'iothread1');
    refuses(inspection({ blockDevices, commands: new Set(['blockdev-set-active']) }), /works in an iothread/);
    const mapping = '{"driver":"virtio-blk-pci","iothread-vq-mapping":[{"iothread":"iothread1"}]}';
    refuses(inspection({ options: ['-device', mapping] }), /iothread-vq-mapping/);
  });

  test('for block drivers and options of nodes that are not on the list', () => {
    for (const driver of ['rbd', 'iscsi', 'quorum', 'blkdebug', 'copy-on-read', 'throttle', 'vmdk']) {
      const nodes = [node('libvirt-1-format', { driver }), node('libvirt-1-storage')];
      refuses(inspection({ nodes }), new RegExp(`block driver ${driver} `));
    }
    const encrypt = { format: 'aes', 'key-secret': 's' };
    refuses(inspection({ blockdevs: blockdevs(1, { top: { encrypt } }) }), /is encrypted by "aes"/);
    const slice = { offset: 512, size: 512 };
    refuses(inspection({ blockdevs: blockdevs(1, { top: slice }) }), /the option "offset"/);
    refuses(
      inspection({ blockdevs: blockdevs(1, { file: { 'pr-manager': 'p' } }) }),
      /the option "pr-manager"/,
    );
  });

  test('for a server of a disk that is reached in another way than was examined, or is another than was given', () => {
    const server = { type: 'inet', host: '10.0.0.1', port: '10809' };
    assert.deepEqual(plan(onNbd({ server })).media[0]?.servers, [
      { transport: 'tcp', host: '10.0.0.1', port: 10809 },
    ]);
    const unix = onNbd({ server: { type: 'unix', path: '/run/n' } }, 'nbd+unix:///e?socket=/run/n');
    assert.deepEqual(plan(unix).media[0]?.servers, [{ transport: 'unix', path: '/run/n' }]);
    refuses(onNbd({ server: { ...server, port: 'nbd' } }), /now has filename nbd:/);
    refuses(onNbd({ server: { ...server, mptcp: true } }), /now has filename nbd:/);
    refuses(onNbd({ server: { type: 'vsock', cid: '2', port: '10809' } }), /now has filename nbd:/);
    refuses(onNbd({ server: { ...server, host: '10.0.0.2' } }), /now has filename nbd:\/\/10.0.0.1:10809\/e/);
    refuses(onNbd({ server, 'tls-creds': 'tls' }), /the option "tls-creds"/);
    refuses(onNbd({ server }, undefined, true), /cache=unsafe/);
  });

  test('for every way in which the live graph differs from the command line', () => {
    const [format, storage] = inspection().nodes;
    const [root, file] = inspection().graph ?? [];
    assert.ok(format && storage && root && file);
    refuses(inspection({ blockdevs: blockdevs(2) }), /libvirt-1-format is not on qemu's command line/);
    refuses(inspection({ nodes: [format, { ...storage, filename: '/other' }] }), /now has filename \/other/);
    refuses(inspection({ nodes: [{ ...format, driver: 'qcow2' }, storage] }), /now has driver qcow2/);
    refuses(inspection({ nodes: [format, { ...storage, direct: false }] }), /now has cache.direct false/);
    refuses(inspection({ nodes: [format] }), /libvirt-1-storage is not among the named ones/);
    refuses(inspection({ nodes: [format, storage, node('libvirt-7-storage')] }), /would stay open in qemu/);
    refuses(inspection({ graph: undefined }), /no command that shows how its block nodes hang together/);
    const users = [root, file, edge('another', 'libvirt-1-format', 'root')];
    refuses(inspection({ graph: users }), /libvirt-1-format has 2 users/);
    const job: Edge = { ...root, parentType: 'block-job', parent: 'job0' };
    refuses(inspection({ graph: [job, file] }), /used by block-job job0/);
    const other: Edge = { ...root, parent: '/machine/peripheral/other' };
    refuses(inspection({ graph: [other, file] }), /used by block-backend \/machine\/peripheral\/other/);
    refuses(
      inspection({ graph: [root] }),
      /lowest block node libvirt-1-format is not a file, nor on the network/,
    );
    const data = [root, file, edge('libvirt-1-format', 'libvirt-2-storage', 'data-file')];
    const nodes = [format, storage, node('libvirt-2-storage')];
    refuses(inspection({ graph: data, nodes }), /has a "data-file" beside its file/);
  });

  test('for a backing chain that is written to, or is another than was given', () => {
    const chain = backingChain();
    const graph = (chain.graph ?? []).map((each) => ({ ...each, writes: true }));
    refuses(backingChain({ graph }), /of its backing chain is written to/);
    refuses(backingChain({ top: { backing: null } }), /now has backing libvirt-2-format/);
    const implicit = (chain.graph ?? []).map((each) => ({
      ...each,
      node: each.node.replace('libvirt-2-format', '#block12'),
      parent: each.parent.replace('libvirt-2-format', '#block12'),
    }));
    const nodes = chain.nodes.map((each) => ({
      ...each,
      name: each.name.replace('libvirt-2-format', '#block12'),
    }));
    refuses(
      backingChain({ graph: implicit, nodes, top: { backing: null } }),
      /without a name for its block node|now has backing/,
    );
  });

  test('for flushes that are dropped, and a descriptor that was passed in', () => {
    const unsafe = inspection().nodes.map((each) => ({ ...each, noFlush: true }));
    refuses(inspection({ nodes: unsafe }), /cache=unsafe/);
    const passed = { filename: '/dev/fdset/3' };
    refuses(
      inspection({
        blockdevs: blockdevs(1, { file: passed }),
        nodes: [node('libvirt-1-format'), node('libvirt-1-storage', passed)],
      }),
      /was passed to qemu as a descriptor/,
    );
  });

  test('for jobs, exports, and a migration that is not over', () => {
    refuses(inspection({ jobs: ['copy (mirror)'] }), /the job copy \(mirror\) is not finished/);
    refuses(inspection({ exports: ['nbd0'] }), /the block export nbd0 is served/);
    for (const migration of [
      'setup',
      'active',
      'pre-switchover',
      'device',
      'postcopy-active',
      'cancelling',
    ]) {
      refuses(inspection({ migration }), /a migration is under way/);
    }
    for (const migration of ['completed', 'failed', 'cancelled']) {
      assert.equal(assess(inspection({ migration }), onDisk).kind, 'plan');
    }
  });

  test('for memory shared through a file on a disk, but not for private memory', () => {
    refuses(
      inspection({ memoryFiles: [{ path: '/mem', shared: true }] }),
      /memory is shared through .*\/mem/,
    );
    assert.equal(assess(inspection({ memoryFiles: [{ path: '/mem', shared: false }] }), onDisk).kind, 'plan');
  });

  test('for having nothing writable that could carry a sentinel, or a QEMU that makes nothing inactive', () => {
    refuses(inspection({ blockDevices: [], nodes: [], graph: [] }), /no writable disk/);
    const readOnly = inspection().nodes.map((each) => ({ ...each, readOnly: true }));
    const graph = (inspection().graph ?? []).map((each) => ({ ...each, writes: false }));
    refuses(inspection({ nodes: readOnly, graph }), /no writable disk/);
    refuses(inspection({ commands: new Set() }), /no command that makes block nodes inactive/);
  });
});

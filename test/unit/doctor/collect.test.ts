import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { settingsOf } from '../../../lib/doctor/collect/host.ts';
import { parseHypervisor } from '../../../lib/doctor/collect/hypervisor.ts';
import { parseDefinition } from '../../../lib/doctor/definition.ts';
import { isShared, mountOf, parseMounts } from '../../../lib/doctor/mounts.ts';
import { compareVersions } from '../../../lib/doctor/versions.ts';
import { isKvmhaError } from '../../../lib/error.ts';
import { HEALTHY_XML } from './healthy.ts';

describe('parseHypervisor', () => {
  // As virsh 9.0.0 prints them, shortened.
  const capabilities = `<capabilities>

  <host>
    <uuid>6B766D68-610a-4c61-8000-000000000001</uuid>
    <cpu>
      <arch>x86_64</arch>
      <model>Broadwell</model>
      <vendor>Intel</vendor>
      <feature name='vme'/>
      <feature name='ss'/>
    </cpu>
    <secmodel>
      <model>apparmor</model>
      <doi>0</doi>
    </secmodel>
    <secmodel>
      <model>dac</model>
      <doi>0</doi>
    </secmodel>
  </host>

  <guest>
    <arch name='x86_64'>
      <machine maxCpus='255'>pc-i440fx-7.2</machine>
      <machine canonical='pc-i440fx-7.2' maxCpus='255'>pc</machine>
    </arch>
  </guest>
</capabilities>`;
  const versions = `Compiled against library: libvirt 9.1.0
Using library: libvirt 9.1.0
Using API: QEMU 9.1.0
Running hypervisor: QEMU 7.2.22
Running against daemon: 9.0.0
`;

  it('reads what libvirt says of a host', () => {
    assert.deepEqual(parseHypervisor(capabilities, versions), {
      uuid: '6b766d68-610a-4c61-8000-000000000001',
      libvirtVersion: '9.0.0',
      qemuVersion: '7.2.22',
      cpu: 'Intel Broadwell ss vme',
      machineAliases: new Map([['pc', 'pc-i440fx-7.2']]),
      confinement: ['apparmor'],
    });
  });

  it('refuses what is none', () => {
    assert.throws(
      () => parseHypervisor('<capabilities/>', ''),
      (error) => isKvmhaError(error, 'protocol'),
    );
  });
});

describe('parseMounts', () => {
  const mounts = parseMounts(`\
117 65 0:43 / / rw,relatime - overlay node1 rw,lowerdir=/,upperdir=upper
140 117 0:41 /images /srv/my\\040images rw,relatime shared:7 - nfs4 nas:/images rw,vers=4.2,hard,local_lock=none
141 117 0:42 / /srv rw - ext4 /dev/sda1 rw
142 117 0:44 / /srv rw - xfs /dev/sdb1 rw
`);

  it('reads points, types and the options of the file system', () => {
    assert.deepEqual(mounts[1], {
      point: '/srv/my images',
      type: 'nfs4',
      source: 'nas:/images',
      options: ['rw', 'vers=4.2', 'hard', 'local_lock=none'],
    });
  });

  it('finds the deepest mount of a path, and of several at one place the last', () => {
    const typeAt = (path: string) => mountOf(path, mounts)?.type;
    assert.equal(typeAt('/srv/my images/web.img'), 'nfs4');
    assert.equal(typeAt('/srv/other'), 'xfs');
    assert.equal(typeAt('/srvother'), 'overlay');
  });

  it('takes file systems of one host for what they are', () => {
    assert.deepEqual(mounts.map(isShared), [false, true, false, false]);
  });
});

describe('parseDefinition', () => {
  async function unprovable(from: string, to: string): Promise<readonly string[]> {
    assert.ok(HEALTHY_XML.includes(from));
    return (await parseDefinition(HEALTHY_XML.replace(from, to), 'web.xml')).unprovable;
  }
  const disk = (more: string) => unprovable('<interface', `${more}<interface`);

  it('finds nothing to refuse in an ordinary guest', async () => {
    const { unprovable: refused, machine, cpuMode, bridges } = await parseDefinition(HEALTHY_XML, 'web.xml');
    assert.deepEqual(
      { refused, machine, cpuMode, bridges },
      {
        refused: [],
        machine: 'pc-q35-7.2',
        cpuMode: 'custom',
        bridges: ['br0'],
      },
    );
  });

  for (const [what, xml, pattern] of [
    ['a folder of the host', "<filesystem type='mount'/>", /^<filesystem> is/],
    ['a TPM', "<tpm model='tpm-crb'/>", /^<tpm> is/],
    ['an NVDIMM', "<memory model='nvdimm'/>", /nvdimm/],
    ['a vhost-user interface', "<interface type='vhostuser'/>", /vhostuser/],
    ['an unknown SCSI adapter', "<controller type='scsi' model='vmpvscsi'/>", /vmpvscsi/],
    [
      'a passed-through LUN',
      "<disk type='block' device='lun'><target dev='sda' bus='scsi'/></disk>",
      /sda is a LUN/,
    ],
    ['a USB disk', "<disk type='file'><target dev='sda' bus='usb'/></disk>", /sda is a usb-storage/],
    ['a floppy', "<disk type='file' device='floppy'><target dev='fda' bus='fdc'/></disk>", /fda is a floppy/],
    [
      'a disk of Ceph',
      "<disk type='network'><source protocol='rbd' name='p/i'/><target dev='vdb' bus='virtio'/></disk>",
      /vdb is on the network \(rbd\)/,
    ],
    [
      'dropped flushes',
      "<disk type='file'><driver cache='unsafe'/><target dev='vdb' bus='virtio'/></disk>",
      /vdb is used with cache=unsafe/,
    ],
    [
      'an encrypted disk',
      "<disk type='file'><source file='/x'><encryption format='qcow'/></source><target dev='vdb' bus='virtio'/></disk>",
      /vdb is encrypted/,
    ],
  ] as const) {
    it(`refuses ${what}`, async () => {
      const refused = await disk(xml);
      assert.equal(refused.length, 1, JSON.stringify(refused));
      assert.match(refused[0] ?? '', pattern);
    });
  }

  it('refuses a guest without a writable disk', async () => {
    const refused = await unprovable(
      "<target dev='vda' bus='virtio'/>",
      "<target dev='vda' bus='virtio'/><readonly/>",
    );
    assert.match(refused[0] ?? '', /no writable disk/);
  });
});

describe('settingsOf', () => {
  it('takes the last of a name, without quotes and comments', () => {
    const settings = settingsOf('#user = "a"\nuser = "root"\n ON_BOOT=ignore\nuser = "+107"  # why\n');
    assert.deepEqual(
      [...settings],
      [
        ['user', '+107'],
        ['ON_BOOT', 'ignore'],
      ],
    );
  });
});

describe('compareVersions', () => {
  it('compares by numbers', () => {
    assert.ok(compareVersions('10.0.2', '9.9') > 0);
    assert.ok(compareVersions('7.2', '7.2.1') < 0);
    assert.equal(compareVersions('7.2', '7.2.0'), 0);
  });
});

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import fc from 'fast-check';
import { isKvmhaError } from '../../lib/error.ts';
import {
  parseDomainXml,
  prepareDomainXml,
  readDomainXml,
  withoutAdditions,
} from '../../lib/libvirt/domain-xml.ts';

const SOCKETS = { agentSocket: '/run/kvmha/web/agent.sock', watcherSocket: '/run/kvmha/web/watcher.sock' };
const ALL = { ...SOCKETS, setErrorPolicy: true };

const WEB = `<?xml version="1.0" encoding="UTF-8"?>
<!-- the web server -->
<domain type='kvm'>
  <name>web</name>
  <uuid>C7A5FDBD-EDAF-9455-926A-D65C16DB1809</uuid>
  <memory unit='MiB'>512</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64'>hvm</type></os>
  <on_reboot>restart</on_reboot>
  <on_crash>preserve</on_crash>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' cache='none'/>
      <source file='/images/web.qcow2'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <disk type='block'>
      <source dev='/dev/vg/data'/>
      <target dev='sda' bus='scsi'/>
      <shareable/>
    </disk>
    <disk type='file' device='cdrom'>
      <target dev='hda' bus='ide'/>
      <readonly/>
    </disk>
    <disk type='network' device='disk'>
      <driver name='qemu' type='raw' error_policy='report'/>
      <source protocol='rbd' name='pool/image'><host name='ceph'/></source>
      <target dev='vdb' bus='virtio'/>
    </disk>
    <disk type='volume' device='disk'>
      <driver name='qemu' type='raw' rerror_policy='ignore'/>
      <source pool='default' volume='web'/>
      <target dev='vdc' bus='virtio'/>
    </disk>
  </devices>
</domain>
`;

/** A domain with `inside` between its name and its end. */
function domain(inside: string, attributes = "type='kvm'"): string {
  return `<domain ${attributes}><name>web</name>${inside}</domain>`;
}

async function policiesIn(xml: string): Promise<string[]> {
  const { disks } = await parseDomainXml(xml, 'test');
  return disks.map(
    ({ target, driver }) =>
      `${target.dev} ${driver.error_policy ?? 'open'} ${driver.rerror_policy ?? 'open'}`,
  );
}

function malformed(message: RegExp) {
  return (error: unknown) => isKvmhaError(error, 'malformed') && message.test(error.message);
}

describe('parseDomainXml', () => {
  it('tells what the XML says of the guest', async () => {
    const xml = await parseDomainXml(WEB, 'web.xml');
    assert.equal(xml.name, 'web');
    assert.equal(xml.uuid, 'c7a5fdbd-edaf-9455-926a-d65c16db1809');
    assert.equal(xml.type, 'kvm');
    assert.equal(xml.emulator, '/usr/bin/qemu-system-x86_64');
    assert.equal(xml.on_crash, 'preserve');
    assert.equal(xml.on_reboot, 'restart');
    assert.deepEqual(xml.qemuArguments, []);
    assert.equal(xml.disks.length, 5);
    const [first, second, third, fourth, fifth] = xml.disks;
    assert.equal(first?.source.file, '/images/web.qcow2');
    assert.deepEqual(
      { ...first?.driver },
      {
        name: 'qemu',
        type: 'qcow2',
        cache: 'none',
        error_policy: undefined,
        rerror_policy: undefined,
      },
    );
    assert.deepEqual({ ...first?.target }, { dev: 'vda', bus: 'virtio' });
    assert.equal(second?.device, 'disk');
    assert.equal(second?.source.dev, '/dev/vg/data');
    assert.equal(second?.shareable, true);
    assert.equal(second?.readonly, false);
    assert.equal(third?.device, 'cdrom');
    assert.equal(third?.readonly, true);
    assert.equal(fourth?.source.protocol, 'rbd');
    assert.equal(fourth?.source.name, 'pool/image');
    assert.equal(fifth?.source.pool, 'default');
    assert.equal(fifth?.source.volume, 'web');
  });

  it('takes names literally, whatever characters and markup they are made of', async () => {
    for (const [markup, name] of [
      ['web.*[1]$', 'web.*[1]$'],
      ['a &amp; b', 'a & b'],
      ['&#x77;e&#98;', 'web'],
      ['<!-- not/me -->web', 'web'],
      ['<![CDATA[a<b&c]]>', 'a<b&c'],
      ['grün-サーバ-🖥', 'grün-サーバ-🖥'],
      ['web 1', 'web 1'],
    ] as const) {
      const xml = await parseDomainXml(`<domain type="qemu"><name>${markup}</name></domain>`, 'test');
      assert.equal(xml.name, name);
    }
  });

  it('finds the name of the domain only, not those of other elements', async () => {
    const xml = await parseDomainXml(
      domain('<metadata><name>other</name></metadata><x:name xmlns:x="urn:x">third</x:name>'),
      'test',
    );
    assert.equal(xml.name, 'web');
  });

  it('refuses what is not the XML of one named domain of this hypervisor', async () => {
    for (const [xml, message] of [
      ["<network type='kvm'><name>web</name></network>", /not <domain>/],
      ["<domain xmlns='urn:x' type='kvm'><name>web</name></domain>", /not <domain>/],
      ["<domain type='xen'><name>web</name></domain>", /"xen", not kvm or qemu/],
      ['<domain><name>web</name></domain>', /not kvm or qemu/],
      ["<domain type='kvm'/>", /no <name>/],
      ["<domain type='kvm'><name> </name></domain>", /no <name>/],
      [domain('<name>db</name>'), /more than one <name>/],
      ["<domain type='kvm'><name>a/b</name></domain>", /slash/],
      ["<domain type='kvm'><name>a\nb</name></domain>", /control character/],
      ["<domain type='kvm'><name>a&#10;b</name></domain>", /control character/],
      [domain('<uuid>nonsense</uuid>'), /no UUID/],
    ] as const) {
      await assert.rejects(parseDomainXml(xml, 'test'), malformed(message), xml);
    }
  });

  it('refuses document types, so that there are no entities to expand or to fetch', async () => {
    for (const xml of [
      `<!DOCTYPE domain [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>${domain('')}`,
      `<!DOCTYPE domain SYSTEM "file:///etc/passwd">${domain('')}`,
      `<!DOCTYPE domain [<!ENTITY x SYSTEM "http://127.0.0.1/">]>${domain('<title>&x;</title>')}`,
      `<!doctype domain>${domain('')}`,
    ]) {
      await assert.rejects(parseDomainXml(xml, 'test'), malformed(/document type/), xml);
    }
    assert.equal((await parseDomainXml(`<!-- <!DOCTYPE x> -->${domain('')}`, 'test')).name, 'web');
  });

  it('refuses what is not well-formed, naming where it is from', async () => {
    for (const xml of [
      '',
      'hello',
      '<domain type="kvm"><name>web</name>',
      '<domain type="kvm"><name>web</domain></name>',
      '<domain type=kvm><name>web</name></domain>',
      '<domain type="kvm" type="qemu"><name>web</name></domain>',
      `${domain('')}${domain('')}`,
      `${domain('')}rest`,
      domain('<title>a & b</title>'),
      domain('<title>&nbsp;</title>'),
      domain('<title>\u0001</title>'),
      domain('<qemu:commandline/>'),
      domain('<!-- never ends'),
      ` <?xml version="1.0"?>${domain('')}`,
    ]) {
      await assert.rejects(
        parseDomainXml(xml, '/etc/guests/web.xml'),
        malformed(/^\/etc\/guests\/web.xml: ./),
      );
    }
  });

  it('refuses another encoding than UTF-8', async () => {
    for (const encoding of ['ISO-8859-1', 'UTF-16', 'utf-7']) {
      const xml = `<?xml version="1.0" encoding="${encoding}"?>${domain('')}`;
      await assert.rejects(parseDomainXml(xml, 'test'), malformed(/not UTF-8/));
    }
    assert.equal(
      (await parseDomainXml(`<?xml version='1.0' encoding='utf-8'?>${domain('')}`, '')).name,
      'web',
    );
  });

  it('answers on hostile text', { timeout: 120_000 }, async () => {
    const size = 100_000;
    for (const xml of [
      '<!--'.repeat(size),
      '<?'.repeat(size),
      '<![CDATA['.repeat(size),
      '<'.repeat(size),
      '<a '.repeat(size),
      '&'.repeat(size),
      domain('<a>'.repeat(size) + '</a>'.repeat(size)),
      domain('<a/>'.repeat(size)),
    ]) {
      await prepareDomainXml(xml, ALL).catch((error: unknown) =>
        assert.ok(isKvmhaError(error), String(error)),
      );
    }
  });

  it('throws nothing but the typed error, whatever it is given', async () => {
    const pieces = fc.constantFrom(
      "<domain type='kvm'>",
      '</domain>',
      '<name>',
      '</name>',
      'web',
      '<devices><disk>',
      '</disk></devices>',
      '<driver',
      '/>',
      ' name="',
      '"',
      "xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'",
      '<qemu:commandline>',
      '<!--',
      '-->',
      '<![CDATA[',
      ']]>',
      '<!DOCTYPE',
      '&amp;',
      '&#0;',
      '&',
      '\u0000',
      '\ud800',
    );
    const text = fc.oneof(
      fc.string({ unit: 'binary' }),
      fc.array(fc.oneof(pieces, fc.string()), { maxLength: 30 }).map((parts) => parts.join('')),
      fc.nat(WEB.length).map((end) => WEB.slice(0, end)),
      fc.tuple(fc.nat(WEB.length), fc.string({ unit: 'binary' })).map(([at, noise]) => {
        return WEB.slice(0, at) + noise + WEB.slice(at + noise.length);
      }),
    );
    await fc.assert(
      fc.asyncProperty(text, async (sample) => {
        for (const work of [
          () => parseDomainXml(sample, 'test'),
          () => prepareDomainXml(sample, ALL),
          () => withoutAdditions(sample, sample),
        ]) {
          await work().catch((error: unknown) => assert.ok(isKvmhaError(error, 'malformed'), String(error)));
        }
      }),
      { numRuns: 500 },
    );
  });
});

describe('readDomainXml', () => {
  let directory: string;
  before(async () => {
    directory = await mkdtemp(join(tmpdir(), 'kvmha-domain-xml-'));
  });
  after(() => rm(directory, { recursive: true }));

  async function file(content: string | Uint8Array): Promise<string> {
    const path = join(directory, 'guest.xml');
    await writeFile(path, content);
    return path;
  }

  it('reads the file, with or without a byte order mark', async () => {
    assert.equal((await readDomainXml(await file(WEB))).name, 'web');
    assert.equal((await readDomainXml(await file(`\uFEFF${WEB}`))).name, 'web');
  });

  it('tells a file that is not there from one that makes no sense', async () => {
    await assert.rejects(readDomainXml(join(directory, 'none')), (error) => isKvmhaError(error, 'file'));
    for (const content of [
      Uint8Array.from({ length: 4096 }, (_, index) => (index * 37) % 256),
      Buffer.from(WEB, 'utf16le'),
      Buffer.from(domain('<title>grün</title>'), 'latin1'),
      `${WEB}${' '.repeat(1024 * 1024)}`,
    ]) {
      await assert.rejects(readDomainXml(await file(content)), malformed(/./));
    }
  });

  it('does not wait for what is no regular file', { timeout: 5000 }, async () => {
    const fifo = join(directory, 'fifo');
    execFileSync('mkfifo', [fifo]);
    for (const path of [fifo, directory, '/dev/zero']) {
      await assert.rejects(readDomainXml(path), malformed(/not a regular file/));
    }
  });
});

describe('prepareDomainXml', () => {
  it('adds a QMP monitor for the agent and one for the watcher', async () => {
    const { qemuArguments } = await parseDomainXml(await prepareDomainXml(WEB, ALL), 'test');
    assert.deepEqual(qemuArguments, [
      '-chardev',
      'socket,id=charkvmhaagent,path=/run/kvmha/web/agent.sock,server=on,wait=off',
      '-mon',
      'chardev=charkvmhaagent,id=kvmhaagent,mode=control',
      '-chardev',
      'socket,id=charkvmhawatcher,path=/run/kvmha/web/watcher.sock,server=on,wait=off',
      '-mon',
      'chardev=charkvmhawatcher,id=kvmhawatcher,mode=control',
    ]);
  });

  it('doubles commas in paths, and refuses paths that are no address of a socket', async () => {
    const prepared = await prepareDomainXml(WEB, { ...ALL, agentSocket: `/run/a,b & "c"` });
    const { qemuArguments } = await parseDomainXml(prepared, 'test');
    assert.equal(qemuArguments[1], `socket,id=charkvmhaagent,path=/run/a,,b & "c",server=on,wait=off`);
    for (const agentSocket of ['relative', `/${'x'.repeat(107)}`, '/run/\n']) {
      await assert.rejects(prepareDomainXml(WEB, { ...ALL, agentSocket }), malformed(/for a socket/));
    }
  });

  it('merges with the arguments that are there, before the environment, under any prefix', async () => {
    const namespace = 'http://libvirt.org/schemas/domain/qemu/1.0';
    for (const xml of [
      domain(
        `<q:commandline><q:arg value='-S'/><q:env name='A' value='b'/></q:commandline>`,
        `type='kvm' xmlns:q='${namespace}' xmlns:qemu='urn:other'`,
      ),
      domain(`<commandline xmlns='${namespace}'><arg value='-S'/><env name='A' value='b'/></commandline>`),
    ]) {
      const prepared = await prepareDomainXml(xml, ALL);
      const { qemuArguments } = await parseDomainXml(prepared, 'test');
      assert.equal(qemuArguments[0], '-S');
      assert.equal(qemuArguments.length, 9);
      assert.equal(prepared.match(/commandline[ >]/g)?.length, 2, 'one commandline');
      assert.ok(prepared.indexOf('kvmhawatcher') < prepared.indexOf('env'));
    }
  });

  it('does not take a prefix that means something else', async () => {
    const prepared = await prepareDomainXml(domain('', "type='kvm' xmlns:qemu='urn:other'"), ALL);
    assert.equal((await parseDomainXml(prepared, 'test')).qemuArguments.length, 8);
    assert.match(prepared, /xmlns:qemu="urn:other"/);
  });

  it('changes nothing when applied again, and follows a changed socket path', async () => {
    const once = await prepareDomainXml(WEB, ALL);
    assert.equal(await prepareDomainXml(once, ALL), once);
    const moved = await prepareDomainXml(once, { ...ALL, agentSocket: '/run/other' });
    const { qemuArguments } = await parseDomainXml(moved, 'test');
    assert.equal(qemuArguments.length, 8);
    assert.match(qemuArguments[1] ?? '', /path=\/run\/other,/);
  });

  it('stops the guest on errors of disks that leave it open, and overrides nothing', async () => {
    assert.deepEqual(await policiesIn(await prepareDomainXml(WEB, ALL)), [
      'vda stop stop',
      'sda stop stop',
      'hda open open',
      'vdb report open',
      'vdc stop ignore',
    ]);
    assert.deepEqual(await policiesIn(await prepareDomainXml(WEB, { ...ALL, setErrorPolicy: false })), [
      'vda open open',
      'sda open open',
      'hda open open',
      'vdb report open',
      'vdc open ignore',
    ]);
  });

  it('keeps the format of a disk without a driver element: none is named, which means raw', async () => {
    const { disks } = await parseDomainXml(await prepareDomainXml(WEB, ALL), 'test');
    assert.equal(disks[1]?.driver.name, 'qemu');
    assert.equal(disks[1]?.driver.type, undefined);
  });

  it('leaves disks alone whose device has no error policy', async () => {
    for (const disk of [
      "<disk type='vhostuser' device='disk'><target dev='vda' bus='virtio'/></disk>",
      "<disk type='block' device='lun'><target dev='sda' bus='scsi'/></disk>",
      "<disk type='file' device='floppy'><target dev='fda' bus='fdc'/></disk>",
      "<disk type='file'><target dev='sda' bus='sd'/></disk>",
    ]) {
      const prepared = await prepareDomainXml(domain(`<devices>${disk}</devices>`), ALL);
      assert.match((await policiesIn(prepared)).join(), /open open$/);
    }
  });

  it('gives the domain the UUID only if it has none', async () => {
    const uuid = '11111111-2222-3333-4444-555555555555';
    const given = await parseDomainXml(await prepareDomainXml(domain(''), { ...ALL, uuid }), 'test');
    assert.equal(given.uuid, uuid);
    const kept = await parseDomainXml(await prepareDomainXml(WEB, { ...ALL, uuid }), 'test');
    assert.equal(kept.uuid, 'c7a5fdbd-edaf-9455-926a-d65c16db1809');
  });

  it('keeps everything else of the operator’s file', async () => {
    const prepared = await prepareDomainXml(domain(`<title>a &lt; &amp; b</title><!-- note -->`), ALL);
    assert.match(prepared, /<title>a &lt; &amp; b<\/title><!-- note -->/);
  });

  it('makes XML that libvirt’s schema accepts', {
    skip: existsSync('/usr/bin/virt-xml-validate') ? false : 'virt-xml-validate is not installed',
  }, async () => {
    const directory = await mkdtemp(join(tmpdir(), 'kvmha-validate-'));
    try {
      for (const [index, xml] of [
        await prepareDomainXml(WEB, ALL),
        await prepareDomainXml(WEB.replace(/<uuid>.*<\/uuid>/, ''), {
          ...ALL,
          uuid: '11111111-2222-3333-4444-555555555555',
        }),
      ].entries()) {
        const path = join(directory, `${index}.xml`);
        await writeFile(path, xml);
        execFileSync('virt-xml-validate', [path, 'domain'], { stdio: 'pipe' });
      }
    } finally {
      await rm(directory, { recursive: true });
    }
  });
});

describe('withoutAdditions', () => {
  it('removes what prepareDomainXml added', async () => {
    const saved = await withoutAdditions(await prepareDomainXml(WEB, ALL), WEB);
    assert.doesNotMatch(saved, /kvmha|qemu:|xmlns/);
    assert.deepEqual(await policiesIn(saved), await policiesIn(WEB));
  });

  it('returns XML without additions unchanged, to the byte', async () => {
    assert.equal(await withoutAdditions(WEB, WEB), WEB);
    assert.equal(await withoutAdditions(WEB, undefined), WEB);
  });

  it('keeps the operator’s own arguments and policies', async () => {
    const own = domain(
      `<devices><disk type='file'><driver name='qemu' error_policy='stop' rerror_policy='stop'/><target dev='vda'/></disk></devices>` +
        `<qemu:commandline><qemu:arg value='-chardev'/><qemu:arg value='socket,id=mine,path=/x'/></qemu:commandline>`,
      "type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'",
    );
    const saved = await withoutAdditions(await prepareDomainXml(own, ALL), own);
    assert.deepEqual((await parseDomainXml(saved, 'test')).qemuArguments, [
      '-chardev',
      'socket,id=mine,path=/x',
    ]);
    assert.deepEqual(await policiesIn(saved), ['vda stop stop']);
  });
});

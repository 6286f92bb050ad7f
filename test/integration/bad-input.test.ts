import assert from 'node:assert/strict';
import { existsSync, readdirSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { socketsOf } from '../../lib/guest/sockets.ts';
import { domainXml } from '../guest/domain.ts';
import { createDisk } from '../guest/witness.ts';
import { AGENT, type Answer } from '../support/agent.ts';
import { answers, Host, TestGuest } from '../support/host.ts';

let host: Host;
before(async () => {
  host = await Host.up();
});
after(() => host[Symbol.asyncDispose]());

/** Fails unless the agent exited with `code` and told the cluster one reason that matches. */
function refuses(answer: Answer, code: number, reason: RegExp): void {
  answers(answer, code, reason);
  assert.equal(answer.stderr.match(/^ocf-exit-reason:/gm)?.length, 1, answer.stderr);
  assert.doesNotMatch(answer.stderr, /defect of kvmha|undefined|\[object/);
}

/** The domain XML of a guest that could run, changed. */
function changed(change: (xml: string) => string): string {
  return change(domainXml({ name: 'changed', disks: [{ path: '/shared/changed.img' }] }));
}

const BOMB = `<!DOCTYPE domain [<!ENTITY a "aaaaaaaaaa">${Array.from('bcdefghij', (name, index) => {
  const before = 'abcdefghij'[index];
  return `<!ENTITY ${name} "${`&${before};`.repeat(10)}">`;
}).join('')}]>`;

describe('a configuration that cannot be used', { concurrency: 4 }, () => {
  const CONFIGS: readonly [what: string, content: string | Buffer, reason: RegExp][] = [
    ['is empty', '', /is empty|root element/],
    ['is no XML', 'name: guest\n', /root element|not well-formed|missing/i],
    ['ends in the middle', changed((xml) => xml.slice(0, 300)), /.+/],
    ['is binary', Buffer.from([0x7f, 0x45, 0x4c, 0x46, 0, 0xff, 0xfe]), /is not UTF-8 text/],
    ['is UTF-16', Buffer.from(changed(String), 'utf16le'), /.+/],
    [
      'says that it is ISO-8859-1',
      changed((xml) => `<?xml version="1.0" encoding="ISO-8859-1"?>${xml}`),
      /encoding/,
    ],
    [
      'is larger than a megabyte',
      changed((xml) => `${xml}<!-- ${'x'.repeat(1024 * 1024)} -->`),
      /has more than \d+ bytes/,
    ],
    [
      'has an entity bomb',
      changed((xml) => `${BOMB}${xml.replace('changed', '&j;')}`),
      /document type declaration/,
    ],
    [
      'has an external entity',
      changed(
        (xml) =>
          `<!DOCTYPE domain [<!ENTITY x SYSTEM "file:///etc/hostname">]>${xml.replace('changed', '&x;')}`,
      ),
      /document type declaration/,
    ],
    ['has an entity that nobody declared', changed((xml) => xml.replace('changed', '&x;')), /entity/],
    ['has no name', changed((xml) => xml.replace(/<name>.*<\/name>/, '')), /no <name>/],
    ['has an empty name', changed((xml) => xml.replace(/<name>.*<\/name>/, '<name> </name>')), /no <name>/],
    ['has two names', changed((xml) => xml.replace(/<name>.*<\/name>/, '$&$&')), /more than one <name>/],
    ['has a name with a slash', changed((xml) => xml.replace('changed', '../changed')), /slash/],
    [
      'has a name of two lines',
      changed((xml) => xml.replace('changed', 'a\nocf-exit-reason:b')),
      /control character/,
    ],
    ['has a uuid that is none', changed((xml) => xml.replace('</name>', '</name><uuid>1234</uuid>')), /UUID/],
    [
      'is of another hypervisor',
      changed((xml) => xml.replace("type='qemu'", "type='xen'")),
      /"xen", not kvm or qemu/,
    ],
    ['is of a network', '<network><name>default</name></network>', /root element is not <domain>/],
  ];
  for (const [index, [what, content, reason]] of CONFIGS.entries()) {
    test(`that ${what} is refused by a start, and no hindrance to a stop`, async () => {
      const guest = new TestGuest(host.node, { name: `config${index}` }, '');
      host.node.write(guest.resource.config, '');
      await host.node.check(['sh', '-c', `cat >${guest.resource.config}`], { input: content as string });
      refuses(await guest.call('start'), 2, reason);
      refuses(await guest.call('validate-all', { env: { OCF_CHECK_LEVEL: '10' } }), 2, reason);
      answers(await guest.call('validate-all'), 0);
      answers(await guest.probe(), 7);
      answers(await guest.monitorOfStopped(), 7);
      refuses(await guest.monitor(), 7, /./);
      answers(await guest.stop(), 0);
    });
  }

  test('that is nested beyond all measure is refused by libvirt, in few words', async () => {
    const guest = new TestGuest(host.node, { name: 'changed' }, '');
    const nest = `<devices>${'<a>'.repeat(100_000)}${'</a>'.repeat(100_000)}`;
    host.node.write(
      guest.resource.config,
      changed((xml) => xml.replace('<devices>', nest)),
    );
    const answer = await guest.call('start');
    refuses(answer, 1, /changed was not started: .*depth/);
    assert.ok((answer.reason?.length ?? 0) < 1000, 'nobody reads that');
    answers(await guest.probe(), 7);
    answers(await guest.stop(), 0);
  });

  const PATHS: readonly [what: string, path: string, code: number][] = [
    ['is not there', '/shared/nowhere.xml', 5],
    ['is in a folder that is not there', '/nowhere/guest.xml', 5],
    ['is a folder', '/shared', 5],
    ['is a device', '/dev/zero', 5],
    ['is a pipe', '/run/lab/config.fifo', 5],
    ['is a link to itself', '/run/lab/loop.xml', 5],
    ['has a path that is not absolute', 'guest.xml', 6],
    ['has a path with a line end', '/shared/a\nb.xml', 6],
  ];
  for (const [what, config, code] of PATHS) {
    test(`that ${what} is refused by a start, and no hindrance to a stop`, async () => {
      await host.node.exec(['mkfifo', '/run/lab/config.fifo']);
      await host.node.exec(['ln', '-s', 'loop.xml', '/run/lab/loop.xml']);
      const guest = new TestGuest(host.node, { name: 'path' }, '', { config });
      refuses(await guest.call('start'), code, /^config/);
      refuses(await guest.call('validate-all', { env: { OCF_CHECK_LEVEL: '10' } }), code, /^config/);
      answers(await guest.probe(), 7);
      refuses(await guest.monitor(), 7, /./);
      answers(await guest.stop(), 0);
    });
  }

  test('that is not set is refused by a start, and no hindrance to a stop', async () => {
    const guest = new TestGuest(host.node, { name: 'unset' }, '', { config: '' });
    refuses(await guest.call('start'), 6, /^config: required parameter not set/);
    refuses(await guest.call('validate-all'), 6, /^config: required parameter not set/);
    answers(await guest.probe(), 7);
    refuses(await guest.monitor(), 7, /^config: required parameter not set/);
    answers(await guest.stop(), 0);
  });

  test('that only its owner may read is refused', (t) => {
    t.skip('the agent runs as root, who may read every file of a local file system');
  });
});

describe('parameters that cannot be used', { concurrency: 4 }, () => {
  const PARAMETERS: readonly [parameters: Record<string, string>, reason: RegExp][] = [
    [{ migration_downtime: 'soon' }, /migration_downtime is not a whole number.*"soon"/],
    [{ migration_downtime: '-1' }, /migration_downtime is not a whole number/],
    [{ migration_speed: '1e3' }, /migration_speed is not a whole number/],
    [{ migrateport: '65536' }, /migrateport is not a whole number from 1 to 65535/],
    [{ force_stop: 'maybe' }, /force_stop is neither true nor false: "maybe"/],
    [{ hypervisor: 'xen:///system' }, /hypervisor is not a URI of the qemu driver/],
    [{ hypervisor: 'qemu+ssh://elsewhere/system' }, /hypervisor names a host/],
    [{ hypervisor: 'nonsense' }, /hypervisor is not a libvirt connection URI/],
    [{ operator_pause: 'sometimes' }, /operator_pause is none of healthy, failed/],
    [{ monitor_scripts: '"/bin/true' }, /monitor_scripts has an unclosed quote/],
    [{ force_stop: 'true', snapshot: '/shared' }, /force_stop and snapshot cannot be combined/],
    [{ force_stop: 'maybe', migrateport: 'x' }, /force_stop.*; migrateport/],
  ];
  test('are refused by a start, and do not fail a guest that runs or keep it from being stopped', async () => {
    const guest = await host.running('params');
    for (const [parameters, reason] of PARAMETERS) {
      refuses(await guest.call('start', { parameters }), 6, reason);
      answers(await guest.monitor({ parameters }), 0);
      answers(await guest.probe({ parameters }), 0);
    }
    answers(await guest.stop({ parameters: { hypervisor: 'nonsense', migrateport: 'x' } }), 0);
    assert.deepEqual(guest.pids(), []);
  });

  test('name what this node lacks', async () => {
    const guest = await host.guest('lacks');
    for (const [parameters, reason] of [
      [
        { monitor_scripts: '/nowhere/check' },
        /monitor_scripts: "\/nowhere\/check" is not an executable program/,
      ],
      [{ snapshot: '/nowhere' }, /snapshot: "\/nowhere" is not a directory/],
      [{ backingfile: '/nowhere.img' }, /backingfile: cannot read "\/nowhere\.img"/],
      [{ policy: '/nowhere.yaml' }, /policy: cannot read the file "\/nowhere\.yaml"/],
    ] as const) {
      refuses(await guest.call('start', { parameters }), 5, reason);
      assert.deepEqual(guest.pids(), []);
    }
  });

  test('of which the policy file cannot be used: a start is refused, a guest that runs is none the worse', async () => {
    const guest = await host.running('policy');
    for (const [content, reason] of [
      ['quiesce: [', /bad\.yaml:1: /],
      ['\nout-of-space: perhaps\n', /bad\.yaml:2: out-of-space is not hold or fail/],
      ['quiesce:\n  enabled: true\n  enbled: true\n', /bad\.yaml:3: quiesce\.enbled is not a known key/],
      ['a: &a [*a, *a]\n', /bad\.yaml:1: /],
    ] as const) {
      host.node.write('/etc/kvmha/bad.yaml', content);
      const parameters = { policy: '/etc/kvmha/bad.yaml' };
      refuses(await guest.call('start', { parameters }), 2, reason);
      refuses(await guest.call('validate-all', { parameters, env: { OCF_CHECK_LEVEL: '10' } }), 2, reason);
      answers(await guest.monitor({ parameters }), 0);
      answers(await guest.probe({ parameters }), 0);
    }
    answers(await guest.stop({ parameters: { policy: '/etc/kvmha/bad.yaml' } }), 0);
    assert.deepEqual(guest.pids(), []);
  });
});

describe('a configuration that is lost while the guest runs', { concurrency: 4 }, () => {
  const LOSSES: readonly [what: string, name: string, command: (config: string) => string[]][] = [
    ['is deleted', 'deleted', (config) => ['rm', config]],
    ['is emptied', 'emptied', (config) => ['truncate', '--size=0', config]],
    ['becomes a folder', 'folder', (config) => ['sh', '-c', `rm ${config}; mkdir ${config}`]],
  ];
  for (const [what, name, command] of LOSSES) {
    test(`because it ${what} does not keep it from being monitored and stopped`, async () => {
      await createDisk(`/shared/${name}.img`, { node: host.node });
      // Its file has another name than the guest.
      const config = `/shared/file-of-${name}.xml`;
      const guest = new TestGuest(
        host.node,
        { name, disks: [{ path: `/shared/${name}.img` }] },
        `/shared/${name}.img`,
        {
          config,
        },
      );
      host.node.write(config, domainXml(guest.resource.domain));
      answers(await guest.call('start'), 0);
      await guest.ticks();
      await host.node.check(command(config));
      answers(await guest.monitor(), 0);
      answers(await guest.probe(), 0);
      answers(await guest.monitorOfStopped(), 0);
      refuses(await guest.call('start'), what === 'is emptied' ? 2 : 5, /config|file-of/);
      answers(await guest.stop(), 0);
      assert.deepEqual(guest.pids(), []);
      answers(await guest.probe(), 7);
      answers(await guest.stop(), 0);
    });
  }
});

describe('what nobody would call a guest', { concurrency: 4 }, () => {
  for (const [index, name] of [
    '-n',
    'ü ñ',
    `q'"&<`,
    'a,b',
    '%s%n',
    '$(touch x);',
    '..',
    // The longest that fits into a socket's path, the shortest that does not, and far beyond, in bytes.
    'n'.repeat(71),
    'n'.repeat(72),
    'ü'.repeat(100),
  ].entries()) {
    test(`${JSON.stringify(name)} lives a whole life all the same`, async () => {
      const disk = `/shared/odd${index}.img`;
      await createDisk(disk, { node: host.node });
      const config = `/shared/odd${index}.xml`;
      const guest = new TestGuest(host.node, { name, disks: [{ path: disk }] }, disk, { config });
      host.node.write(config, domainXml(guest.resource.domain));
      answers(await guest.probe(), 7);
      answers(await guest.call('start'), 0);
      await guest.ticks();
      const sockets = Object.values(socketsOf(name)).map((path) => host.node.path(path));
      assert.deepEqual(sockets.map(existsSync), [true, true]);
      answers(await guest.monitor(), 0);
      answers(await guest.stop(), 0);
      assert.deepEqual(sockets.map(existsSync), [false, false]);
      answers(await guest.probe(), 7);
      assert.equal(await host.virsh('list', '--all', '--name').then((names) => names.includes(name)), false);
    });
  }
});

describe('a call that makes no sense', { concurrency: 4 }, () => {
  test('of an unknown action is not implemented, and shows what is', async () => {
    for (const args of [[], ['promote'], ['toString'], ['../start'], ['']]) {
      const answer = await host.node.exec([AGENT, ...args], { env: { OCF_ROOT: '/usr/lib/ocf' } });
      assert.equal(answer.exitCode, 3);
      assert.match(answer.stderr, /^usage: KvmGuest \{start\|stop/);
    }
  });

  test('that does not say which resource it is about has wrong arguments', async () => {
    const guest = await host.guest('noid');
    refuses(
      await guest.call('start', { env: { OCF_RESOURCE_INSTANCE: '' } }),
      2,
      /OCF_RESOURCE_INSTANCE is not set/,
    );
  });

  test('whose resource has the name of a path writes nowhere else', async () => {
    const guest = await host.guest('pathid');
    const env = { OCF_RESOURCE_INSTANCE: '../../../shared/../pathid' };
    answers(await guest.call('start', { env }), 0);
    answers(await guest.monitor({ env }), 0);
    answers(await guest.stop({ env }), 0);
    assert.ok(readdirSync(host.node.path('/run/kvmha/resources')).every((name) => name.endsWith('.json')));
    assert.ok(!readdirSync(host.node.path('/shared')).includes('pathid.json'));
  });

  test('to migrate nothing or to nowhere ends at once', async () => {
    const guest = await host.guest('moves');
    refuses(await guest.call('migrate_from'), 1, /moves does not run on this node/);
    refuses(await guest.call('migrate_to'), 2, /migrate_to was called without a target node/);
    refuses(
      await guest.call('migrate_to', { meta: { migrate_target: 'node2' } }),
      1,
      /moves does not run on this node/,
    );
  });

  test('with a timeout that is none uses a usual one', async () => {
    const guest = await host.guest('timeless');
    const output = await host.node.exec([AGENT, 'monitor'], {
      env: {
        OCF_ROOT: '/usr/lib/ocf',
        OCF_RA_VERSION_MAJOR: '1',
        OCF_RESOURCE_INSTANCE: 'timeless',
        OCF_RESKEY_config: guest.resource.config,
        OCF_RESKEY_CRM_meta_timeout: '1 minute',
        OCF_RESKEY_CRM_meta_interval: '-5',
      },
    });
    assert.equal(output.exitCode, 7);
  });
});

import assert from 'node:assert/strict';
import { chmod, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { DOMParser } from '@xmldom/xmldom';
import fc from 'fast-check';
import { findLocalProblems } from '../../lib/local-problems.ts';
import { OCF, OcfFailure } from '../../lib/ocf.ts';
import {
  DECLARATIONS,
  DEFAULT_POLICY_PATH,
  type ParameterName,
  problemsForAction,
  readParameters,
  refuseProblems,
} from '../../lib/parameters.ts';

const CONFIG = { OCF_RESKEY_config: '/etc/guests/web.xml' };

function read(values: Record<string, string>) {
  const env: Record<string, string> = { ...CONFIG };
  for (const [name, value] of Object.entries(values)) {
    env[`OCF_RESKEY_${name}`] = value;
  }
  return readParameters(env);
}

/** The parameters that `values` make problems of. */
function refused(values: Record<string, string>): readonly ParameterName[] {
  return read(values).problems.map(({ parameter }) => parameter);
}

describe('the table of parameters', () => {
  it('declares exactly the names, types, defaults and required flags of ocf-metadata.xml', async () => {
    const xml = await readFile(new URL('../../ocf-metadata.xml', import.meta.url), 'utf8');
    const declared: Record<string, unknown> = {};
    const document = new DOMParser().parseFromString(xml, 'text/xml');
    for (const parameter of Array.from(document.getElementsByTagName('parameter'))) {
      const content = parameter.getElementsByTagName('content').item(0);
      assert.ok(content);
      declared[parameter.getAttribute('name') ?? ''] = {
        type: content.getAttribute('type'),
        ...(content.hasAttribute('default') && { default: content.getAttribute('default') }),
        ...(parameter.getAttribute('required') === '1' && { required: true }),
      };
    }
    assert.deepEqual({ ...DECLARATIONS }, declared);
  });

  it('has a use for each parameter and no other', () => {
    assert.deepEqual(Object.keys(read({}).parameters).sort(), Object.keys(DECLARATIONS).sort());
  });

  it('knows every parameter of ocf:heartbeat:VirtualDomain', () => {
    for (const name of [
      'config hypervisor force_stop migration_transport migration_user migration_downtime migration_speed',
      'migration_network_suffix migrateuri migrate_options monitor_scripts autoset_utilization_cpu',
      'autoset_utilization_host_memory autoset_utilization_hv_memory unset_utilization_cpu',
      'unset_utilization_host_memory unset_utilization_hv_memory migrateport remoteuri save_config_on_stop',
      'sync_config_on_stop snapshot backingfile stateless copyindirs shutdown_mode start_resources',
    ].flatMap((line) => line.split(' '))) {
      assert.ok(name in DECLARATIONS, name);
    }
  });
});

describe('readParameters', () => {
  it('gives the defaults when only config is set, without a problem', () => {
    const { parameters, problems } = read({});
    assert.deepEqual(problems, []);
    assert.equal(parameters.config, '/etc/guests/web.xml');
    assert.equal(parameters.hypervisor, 'qemu:///system');
    assert.equal(parameters.force_stop, false);
    assert.equal(parameters.autoset_utilization_cpu, true);
    assert.equal(parameters.migration_speed, 0);
    assert.equal(parameters.migrateport, undefined);
    assert.equal(parameters.migrateuri, undefined);
    assert.equal(parameters.preserved_guest, 'keep');
    assert.equal(parameters.guest_panic, 'fence');
    assert.equal(parameters.policy, DEFAULT_POLICY_PATH);
    assert.equal(parameters.set_error_policy, true);
    assert.deepEqual(parameters.monitor_scripts, []);
  });

  it('takes a parameter set to the empty text as not set', () => {
    const { parameters, problems } = read({ autoset_utilization_cpu: '', snapshot: '', migrateport: '' });
    assert.deepEqual(problems, []);
    assert.equal(parameters.autoset_utilization_cpu, true);
    assert.equal(parameters.snapshot, undefined);
  });

  it('refuses a config that is missing, empty or relative as wrong on any node', () => {
    for (const env of [
      {},
      { OCF_RESKEY_config: '' },
      { OCF_RESKEY_config: 'guests/web.xml' },
      { OCF_RESKEY_config: '/etc/\n' },
    ]) {
      const { parameters, problems } = readParameters(env);
      assert.equal(parameters.config, '');
      assert.deepEqual(
        problems.map(({ parameter, code }) => ({ parameter, code })),
        [{ parameter: 'config', code: OCF.ERR_CONFIGURED }],
      );
    }
  });

  it('takes for true what ocf_is_true does, for false the opposites, and refuses other words', () => {
    for (const word of ['yes', 'true', '1', 'YES', 'TRUE', 'True', 'ja', 'on', 'ON']) {
      assert.equal(read({ force_stop: word }).parameters.force_stop, true, word);
    }
    for (const word of ['no', 'false', '0', 'NO', 'FALSE', 'False', 'nein', 'off', 'OFF']) {
      const { parameters, problems } = read({ set_error_policy: word });
      assert.equal(parameters.set_error_policy, false, word);
      assert.deepEqual(problems, []);
    }
    // ocf_is_true takes these for false, which surely nobody means.
    for (const word of ['Yes', 'On', 'tRUE', '2', ' true', 'enabled']) {
      assert.deepEqual(refused({ force_stop: word }), ['force_stop'], word);
    }
  });

  it('refuses numbers that are negative, fractional, out of range or no numbers', () => {
    for (const value of ['-1', '1.5', '2000001', 'fast', '0x10', '+3', ' 3', '99999999999999999999']) {
      assert.deepEqual(refused({ migration_downtime: value }), ['migration_downtime'], value);
    }
    assert.deepEqual(refused({ migration_speed: '-5' }), ['migration_speed']);
    assert.equal(read({ migration_speed: '0100' }).parameters.migration_speed, 100);
    for (const value of ['0', '65536', 'ssh']) {
      assert.deepEqual(refused({ migrateport: value }), ['migrateport'], value);
    }
    assert.equal(read({ migrateport: '49152' }).parameters.migrateport, 49_152);
  });

  it('refuses combinations that contradict each other', () => {
    assert.deepEqual(refused({ force_stop: '1', snapshot: '/var/lib/states' }), ['force_stop']);
    assert.deepEqual(refused({ stateless: 'true' }), ['stateless']);
    assert.deepEqual(refused({ stateless: 'true', backingfile: '/images/base.qcow2' }), []);
  });

  it('lets sync_config_on_stop imply save_config_on_stop', () => {
    assert.equal(read({ sync_config_on_stop: 'yes' }).parameters.save_config_on_stop, true);
  });

  it('accepts connections to the local qemu driver only', () => {
    for (const uri of [
      'qemu:///system',
      'qemu:///session',
      'qemu+unix:///system?socket=/run/other/libvirt-sock',
      'qemu+unix:///session?mode=direct',
      'qemu+ssh://root@localhost/system',
      'qemu+tcp://localhost:16509/system',
      'qemu+tls://[::1]:16514/system',
    ]) {
      assert.deepEqual(refused({ hypervisor: uri }), [], uri);
      assert.equal(read({ hypervisor: uri }).parameters.hypervisor, uri);
    }
    for (const uri of [
      'xen:///system',
      'lxc:///system',
      'test:///default',
      'qemu:///embed?root=/x',
      'qemu://node2/system',
      'qemu+ssh://root@node2/system',
      'qemu+pigeon:///system',
      'qemu:///',
      '--readonly',
      'qemu:///system --readonly',
    ]) {
      assert.deepEqual(refused({ hypervisor: uri }), ['hypervisor'], uri);
    }
  });

  it('refuses unknown words where only some are known', () => {
    for (const values of [
      { preserved_guest: 'sell' },
      { operator_pause: 'Healthy' },
      { guest_panic: 'ignore' },
      { migration_transport: 'pigeon' },
      { shutdown_mode: 'initctl' },
      { shutdown_mode: 'acpi,' },
    ]) {
      assert.deepEqual(refused(values), Object.keys(values));
    }
    assert.deepEqual(refused({ shutdown_mode: 'agent,acpi', migration_transport: 'ssh' }), []);
  });

  it('refuses values that virsh would take for an option or that cannot be part of a URI', () => {
    for (const values of [
      { migrateuri: '--postcopy' },
      { migrateuri: 'tcp://a b' },
      { remoteuri: 'xen://%n' },
      { migration_user: '-oProxyCommand=x' },
      { migration_user: 'root@host' },
      { migration_network_suffix: '.mig/system' },
    ]) {
      assert.deepEqual(refused(values), Object.keys(values), JSON.stringify(values));
    }
    assert.deepEqual(
      refused({
        migrateuri: 'tcp://%n-mig:49152',
        remoteuri: 'qemu+ssh://%n/system',
        migration_user: 'virt-mover',
        migration_network_suffix: '-mig',
      }),
      [],
    );
  });

  it('splits options and scripts into words without a shell', () => {
    const { parameters } = read({
      migrate_options: `--persistent --migrateuri=tcp://%n:1 --xml '/tmp/a b' "$(reboot)" ; a\\ b`,
      monitor_scripts: '/a/check-http\n  "/a/check dns"',
    });
    assert.deepEqual(parameters.migrate_options, [
      '--persistent',
      '--migrateuri=tcp://%n:1',
      '--xml',
      '/tmp/a b',
      '$(reboot)',
      ';',
      'a b',
    ]);
    assert.deepEqual(parameters.monitor_scripts, ['/a/check-http', '/a/check dns']);
    assert.deepEqual(refused({ migrate_options: `--xml 'x` }), ['migrate_options']);
    assert.deepEqual(refused({ monitor_scripts: `''` }), ['monitor_scripts']);
    assert.deepEqual(refused({ monitor_scripts: `'a\u0007b'` }), ['monitor_scripts']);
  });

  it('never throws, gives every problem a one-line reason and a code, and keeps usable types', () => {
    const values = fc.dictionary(
      fc.constantFrom(...Object.keys(DECLARATIONS).map((name) => `OCF_RESKEY_${name}`)),
      fc.oneof(fc.string({ unit: 'binary' }), fc.constantFrom('yes', '1', '/x', 'qemu:///session', 'keep')),
    );
    fc.assert(
      fc.property(values, (env) => {
        const { parameters, problems } = readParameters(env);
        for (const { code, reason } of problems) {
          assert.equal(code, OCF.ERR_CONFIGURED);
          assert.doesNotMatch(reason, /[\p{Cc}]/u);
        }
        assert.equal(typeof parameters.force_stop, 'boolean');
        assert.ok(parameters.config === '' || parameters.config.startsWith('/'));
        assert.ok(parameters.migrateport === undefined || Number.isInteger(parameters.migrateport));
      }),
    );
  });
});

describe('problemsForAction', () => {
  it('lets nothing but config and hypervisor keep a guest from being stopped or monitored', () => {
    const { problems } = read({ preserved_guest: 'sell', hypervisor: 'xen:///', migrateport: '0' });
    assert.equal(problems.length, 3);
    for (const action of ['stop', 'monitor', 'status']) {
      assert.deepEqual(
        problemsForAction(action, problems).map(({ parameter }) => parameter),
        ['hypervisor'],
      );
    }
    for (const action of ['start', 'migrate_to', 'migrate_from', 'reload', 'validate-all']) {
      assert.equal(problemsForAction(action, problems).length, 3);
    }
  });
});

describe('refuseProblems', () => {
  it('throws all reasons at once, as ERR_CONFIGURED when one is wrong on any node', () => {
    assert.doesNotThrow(() => refuseProblems([]));
    assert.throws(
      () =>
        refuseProblems([
          { parameter: 'snapshot', code: OCF.ERR_INSTALLED, reason: 'snapshot: missing' },
          { parameter: 'stateless', code: OCF.ERR_CONFIGURED, reason: 'stateless needs backingfile' },
        ]),
      (error) =>
        error instanceof OcfFailure &&
        error.code === OCF.ERR_CONFIGURED &&
        error.message === 'snapshot: missing; stateless needs backingfile',
    );
  });
});

describe('findLocalProblems', () => {
  let directory: string;
  before(async () => {
    directory = await mkdtemp(join(tmpdir(), 'kvmha-parameters-'));
  });
  after(() => rm(directory, { recursive: true }));

  it('names what is missing on this node, as ERR_INSTALLED', async () => {
    const { parameters } = read({
      config: join(directory, 'none.xml'),
      monitor_scripts: join(directory, 'none.sh'),
      snapshot: join(directory, 'none'),
      backingfile: join(directory, 'none.img'),
      policy: join(directory, 'none.yaml'),
    });
    const problems = await findLocalProblems(parameters);
    for (const name of ['config', 'monitor_scripts', 'snapshot', 'backingfile', 'policy']) {
      assert.ok(
        problems.some(({ parameter, code }) => parameter === name && code === OCF.ERR_INSTALLED),
        name,
      );
    }
  });

  it('finds nothing missing where everything is there', async () => {
    const config = join(directory, 'web.xml');
    const script = join(directory, 'check.sh');
    await writeFile(config, '<domain/>');
    await writeFile(script, '#!/bin/sh\n');
    await chmod(script, 0o755);
    await mkdir(join(directory, 'states'));
    const { parameters } = read({
      config,
      monitor_scripts: `${script} true`,
      snapshot: join(directory, 'states'),
    });
    assert.deepEqual(await findLocalProblems(parameters), []);
  });

  it('takes a directory or a file without permission for no program', async () => {
    const plain = join(directory, 'plain');
    await writeFile(plain, '');
    const { parameters } = read({ config: plain, monitor_scripts: `${directory} ${plain}` });
    assert.deepEqual(
      (await findLocalProblems(parameters)).map(({ parameter }) => parameter),
      ['monitor_scripts', 'monitor_scripts'],
    );
  });
});

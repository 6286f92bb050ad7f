import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import {
  type MigrationTarget,
  migrationTarget,
  type TargetParameters,
} from '../../lib/guest/migration-target.ts';

function target(given: Partial<TargetParameters> = {}, node = 'node2'): MigrationTarget {
  return migrationTarget(
    {
      hypervisor: 'qemu:///system',
      remoteuri: undefined,
      migrateuri: undefined,
      migration_transport: undefined,
      migration_user: undefined,
      migration_network_suffix: undefined,
      migrateport: undefined,
      migrate_options: [],
      ...given,
    },
    node,
  );
}

interface Case {
  readonly given: Partial<TargetParameters>;
  readonly node?: string;
  readonly remoteUri: string;
  readonly migrateUri?: string;
  readonly words?: readonly string[];
}

function check({ given, node, remoteUri, migrateUri, words = [] }: Case): void {
  assert.deepEqual(target(given, node), { remoteUri, migrateUri, words });
}

/**
 * What VirtualDomain (resource-agents, commit bf01ad08b) gives to virsh: printed by its own lines, run with these parameters. It
 * writes `tcp:HOST:PORT`, which libvirt takes for `tcp://HOST:PORT`, and where migrateport is not set it makes one up
 * from the range that libvirt chooses from.
 */
describe('the target is that of VirtualDomain', () => {
  const mig = { migration_network_suffix: '-mig' };
  const tcp = { migration_transport: 'tcp' };
  const cases: Record<string, Case> = {
    'by default': { given: {}, remoteUri: 'qemu://node2/system' },
    'with a transport': { given: tcp, remoteUri: 'qemu+tcp://node2/system' },
    'with a transport and a user': {
      given: { migration_transport: 'ssh', migration_user: 'virt' },
      remoteUri: 'qemu+ssh://virt@node2/system',
    },
    'with a local URI that names host and port': {
      given: { hypervisor: 'qemu+tcp://localhost:16509/system' },
      remoteUri: 'qemu+tcp://node2:16509/system',
    },
    'with a local URI that names a host': {
      given: { hypervisor: 'qemu://localhost/system', migration_transport: 'tls' },
      remoteUri: 'qemu+tls://node2/system',
    },
    'with a local URI that has parameters': {
      given: { hypervisor: 'qemu:///system?socket=/run/x', ...tcp },
      remoteUri: 'qemu+tcp://node2/system?socket=/run/x',
    },
    'on a migration network': {
      given: { ...mig, ...tcp, migrateport: 49160 },
      ...{ remoteUri: 'qemu+tcp://node2-mig/system', migrateUri: 'tcp://node2-mig:49160' },
    },
    'on a migration network, with libvirt choosing the port': {
      given: { ...mig, ...tcp },
      ...{ remoteUri: 'qemu+tcp://node2-mig/system', migrateUri: 'tcp://node2-mig' },
    },
    'on a migration network, of a node with a domain': {
      given: { ...mig, ...tcp },
      node: 'node2.example.com',
      remoteUri: 'qemu+tcp://node2-mig.example.com/system',
      migrateUri: 'tcp://node2-mig.example.com',
    },
    'on a migration network whose suffix is a domain': {
      given: { migration_network_suffix: '.mig', ...tcp, migrateport: 1 },
      node: 'node2.example.com',
      remoteUri: 'qemu+tcp://node2.mig.example.com/system',
      migrateUri: 'tcp://node2.mig.example.com:1',
    },
    'with a port, which without a migration network has no effect': {
      given: { migrateport: 49160 },
      remoteUri: 'qemu://node2/system',
    },
    'with remoteuri, which transport and user have no effect on': {
      given: { remoteuri: 'qemu+tcp://%n.lan/system', migration_transport: 'ssh', migration_user: 'virt' },
      remoteUri: 'qemu+tcp://node2.lan/system',
    },
    'with remoteuri on a migration network': {
      given: { remoteuri: 'qemu+tcp://%n/system', ...mig, migrateport: 49160 },
      ...{ remoteUri: 'qemu+tcp://node2/system', migrateUri: 'tcp://node2-mig:49160' },
    },
    'with migrateuri': {
      given: { migrateuri: 'tcp://%n:49152' },
      ...{ remoteUri: 'qemu://node2/system', migrateUri: 'tcp://node2:49152' },
    },
    'with migrateuri, whose %n is the host on the migration network': {
      given: { migrateuri: 'tcp://%n:49152', ...mig },
      ...{ remoteUri: 'qemu://node2-mig/system', migrateUri: 'tcp://node2-mig:49152' },
    },
    'with both URIs, whose %n is the node': {
      given: { remoteuri: 'qemu+tcp://%n/system', migrateuri: 'tcp://%n-mig', ...mig },
      ...{ remoteUri: 'qemu+tcp://node2/system', migrateUri: 'tcp://node2-mig' },
    },
    'with --migrateuri= among the options': {
      given: { migrate_options: ['--p2p', '--migrateuri=tcp://%n:1234', '--persistent'] },
      ...{ remoteUri: 'qemu://node2/system', migrateUri: 'tcp://node2:1234' },
      words: ['--p2p', '--persistent'],
    },
    'with --migrateuri= on a migration network': {
      given: { migrate_options: ['--migrateuri=tcp://%n'], ...mig },
      ...{ remoteUri: 'qemu://node2-mig/system', migrateUri: 'tcp://node2-mig' },
    },
    'with migrateuri before --migrateuri=': {
      given: { migrateuri: 'tcp://b', migrate_options: ['--migrateuri=tcp://a'] },
      ...{ remoteUri: 'qemu://node2/system', migrateUri: 'tcp://b' },
    },
  };
  for (const [name, expected] of Object.entries(cases)) {
    test(name, () => check(expected));
  }
});

describe('the target is another than that of VirtualDomain', () => {
  test('where that has two transports, of the local URI and of the parameter', () => {
    check({
      given: { hypervisor: 'qemu+unix:///system', migration_transport: 'tcp' },
      remoteUri: 'qemu+tcp://node2/system',
    });
  });

  test('where that stays here, because the local URI names the host by an IPv6 address', () => {
    check({
      given: { hypervisor: 'qemu://[::1]/system', migration_transport: 'tcp' },
      remoteUri: 'qemu+tcp://node2/system',
    });
  });

  test('where that drops a user with capitals, and has the user in the migration URI', () => {
    check({
      given: { migration_user: 'Virt', migrateuri: 'tcp://%n:49152' },
      ...{ remoteUri: 'qemu://Virt@node2/system', migrateUri: 'tcp://node2:49152' },
    });
  });

  test('where that overlooks --migrateuri as a word of its own, and one of two', () => {
    check({
      given: { migrate_options: ['--p2p', '--migrateuri', 'tcp://%n:1234'] },
      ...{ remoteUri: 'qemu://node2/system', migrateUri: 'tcp://node2:1234' },
      words: ['--p2p'],
    });
    check({
      given: { migrate_options: ['--migrateuri=tcp://a', '--migrateuri=tcp://b'] },
      ...{ remoteUri: 'qemu://node2/system', migrateUri: 'tcp://b' },
    });
  });

  test('where that leaves %n in another option', () => {
    const { words } = target({ migrate_options: ['--graphicsuri', 'spice://%n:5900'] });
    assert.deepEqual(words, ['--graphicsuri', 'spice://node2:5900']);
  });
});

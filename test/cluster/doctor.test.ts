import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import type { DoctorReport } from '../../agent/command/doctor-report.ts';
import type { Finding } from '../../lib/doctor/finding.ts';
import { FuseFile } from '../fault/fuse.ts';
import { createDisk } from '../guest/witness.ts';
import type { LabNode } from '../lab/client.ts';
import { processesNamed } from '../support/host.ts';
import { Cluster, type ClusterGuest } from './support.ts';

/** What is found of every guest and node of the lab, because the lab is as it is. */
const OF_THE_LAB = ['local-storage', 'libvirt-guests', 'clock-not-kept'];

describe('kvmha doctor on a node of a cluster', () => {
  let cluster: Cluster;
  let healthy: ClusterGuest;
  let node: LabNode;

  before(async () => {
    cluster = await Cluster.up({ nodes: 2 });
    await cluster.configure(
      'primitive kvm-watch ocf:kvmha:KvmWatch op monitor timeout=20s interval=30s\nclone kvm-watch-clone kvm-watch\n',
    );
    [healthy] = await cluster.startGuests([['vm1', { domain: { machine: 'pc-i440fx-7.2' } }]]);
    await cluster.settled();
    // libvirt examines every emulator when it is asked for the first time, for longer than doctor waits on a busy machine.
    await Promise.all(cluster.lab.nodes.map((each) => each.check(['virsh', 'capabilities'])));
    node = await healthy.runsOn();
  });
  after(() => cluster?.down());

  async function examine(
    on: LabNode,
    ...words: string[]
  ): Promise<{ code: number; findings: readonly Finding[] }> {
    const { exitCode, stdout, stderr } = await on.exec(['kvmha', 'doctor', '--json', ...words]);
    assert.equal(stderr, '');
    const report = JSON.parse(stdout) as DoctorReport;
    assert.equal(report.node, on.name);
    const findings = report.findings.filter(({ rule }) => !OF_THE_LAB.includes(rule));
    assert.ok(report.findings.length > findings.length, 'nothing was found of the lab itself');
    return { code: exitCode, findings };
  }

  const rules = (findings: readonly Finding[], subject: string) => [
    ...new Set(findings.filter((each) => each.subject === subject).map(({ rule }) => rule)),
  ];

  it('finds nothing wrong with a guest of the recommended configuration, beside what the lab lacks', async () => {
    assert.deepEqual((await examine(node)).findings, []);
    const other = cluster.lab.nodes.find(({ name }) => name !== node.name);
    assert.ok(other);
    assert.deepEqual((await examine(other, 'vm1')).findings, []);
  });

  it('finds every fault that was seeded, and each fix that is a command mends it', async () => {
    const bad = await cluster.makeGuest('bad', {
      domain: {
        disks: [{ path: '/shared/bad.img', cache: 'writeback', errorPolicy: 'report', shareable: true }],
        onCrash: 'restart',
        onPoweroff: 'restart',
        elements: "  <cpu mode='maximum'/>\n",
      },
    });
    await cluster.configure(`\
primitive bad ocf:kvmha:KvmGuest params config=${bad.config} policy=/etc/kvmha/bad.yaml migration_transport=tls \
op start timeout=90s interval=0 op stop timeout=90s interval=0 on-fail=ignore op monitor timeout=30s interval=5m \
op migrate_to timeout=120s interval=0 op migrate_from timeout=60s interval=0 meta target-role=Stopped
property no-quorum-policy=ignore
`);
    // crmsh does not let a timeout below the recommended one pass.
    await cluster.sh(
      `cibadmin --modify --scope resources --xml-text '<op id="bad-start-0" timeout="60s"/>' && crm_attribute --name stonith-enabled --update false`,
    );
    for (const each of cluster.lab.nodes) {
      each.write('/etc/kvmha/bad.yaml', 'quiese: {}\n');
    }
    await cluster.settled();
    await cluster.sh(
      `virsh define ${bad.config} && virsh start bad && virsh managedsave bad && virsh autostart bad`,
      node,
    );

    const { code, findings } = await examine(node);
    assert.equal(code, 3);
    assert.deepEqual(rules(findings, 'cluster'), ['stonith-disabled', 'quorum-ignored']);
    assert.deepEqual(rules(findings, node.name), ['other-node-silent']);
    assert.deepEqual(rules(findings, 'vm1'), []);
    assert.deepEqual(rules(findings, 'bad'), [
      'autostart',
      'error-policy',
      'failure-ignored',
      'managed-save',
      'no-preserved-rule',
      'on-poweroff',
      'policy-error',
      'allow-migrate',
      'cache-mode',
      'machine-alias',
      'migration-threshold',
      'multiple-active',
      'on-crash',
      'rare-monitor',
      'short-timeout',
      'persistent-definition',
    ]);
    assert.match(findings.find(({ rule }) => rule === 'policy-error')?.reason ?? '', /bad\.yaml:1: quiese/);

    const commands = findings.filter(({ fix }) => /^(crm_|cibadmin|crm |virsh [a-z])/.test(fix));
    assert.ok(commands.length >= 12, JSON.stringify(commands));
    for (const { fix } of commands) {
      await cluster.sh(fix, node);
    }
    const mended = new Set(commands.map(({ rule }) => rule));
    const left = (await examine(node)).findings.filter(({ rule }) => mended.has(rule));
    assert.deepEqual(left, []);
    assert.equal(await cluster.sh('crm_verify --live-check -V 2>&1'), '');
    await cluster.sh('crm --force configure delete bad');
  });

  it('shows findings to people without escape sequences, and asked about one guest nothing of others', async () => {
    const { exitCode, stdout } = await node.exec(['kvmha', 'doctor', 'vm1']);
    assert.equal(exitCode, 3);
    assert.match(stdout, /^error vm1: .*local file system.*\[local-storage\]\n {4}\S/m);
    assert.ok(!stdout.includes('\u001b') && !stdout.includes('bad'), stdout);
    const unknown = await node.exec(['kvmha', 'doctor', 'ghost']);
    assert.equal(unknown.exitCode, 3);
    assert.match(unknown.stderr, /nothing is known of a guest "ghost"/);
  });

  it('says that storage and libvirt hang, and judges the rest', async (t) => {
    const withFuse = FuseFile.isPossible;
    if (withFuse) {
      await createDisk('/shared/hung.img', { node });
    } else {
      t.diagnostic('without storage that hangs: the kernel has no FUSE');
    }
    await using file = withFuse ? await FuseFile.start(node, '/shared/hung.img', 'hung') : undefined;
    const hung = await cluster.makeGuest('hung', { domain: { disks: [{ path: file?.path ?? '/nothing' }] } });
    await cluster.configure(
      `primitive hung ocf:kvmha:KvmGuest params config=${hung.config} migration_transport=tcp meta target-role=Stopped\nproperty no-quorum-policy=ignore\n`,
    );
    await cluster.settled();
    const pids = processesNamed(node, 'libvirtd');
    assert.ok(pids.length > 0);
    for (const pid of pids) {
      process.kill(pid, 'SIGSTOP');
    }
    await file?.hang();
    try {
      const { findings } = await examine(node);
      assert.deepEqual(rules(findings, node.name), ['libvirt-silent']);
      assert.deepEqual(rules(findings, 'cluster'), ['quorum-ignored']);
      assert.deepEqual(rules(findings, 'vm1'), []);
      assert.ok(rules(findings, 'hung').includes('no-preserved-rule'));
      assert.match(
        findings.find(({ rule, subject }) => rule === 'image-unseen' && subject === 'hung')?.reason ?? '',
        withFuse ? /hung\.fuse of disk vda cannot be looked at .*did not end in time/ : /\/nothing/,
      );
    } finally {
      await file?.resume();
      for (const pid of pids) {
        process.kill(pid, 'SIGCONT');
      }
      await cluster.sh('crm --force configure delete hung && crm_attribute --name no-quorum-policy --delete');
    }
  });

  it('says that a node keeps a preserved copy, and that no cluster answers', async () => {
    healthy.fault(node).set('W', healthy.disk);
    const other = await healthy.runsOn(...cluster.lab.nodes.filter(({ name }) => name !== node.name));
    assert.deepEqual(rules((await examine(node)).findings, 'vm1'), ['preserved-here']);
    const { findings } = await examine(other);
    assert.deepEqual(rules(findings, 'vm1'), ['no-destination']);
    assert.match(
      findings.find(({ rule }) => rule === 'no-destination')?.reason ?? '',
      /no other node would start it/,
    );
    await node.check(['systemctl', 'stop', 'pacemaker']);
    const without = (await examine(node)).findings;
    assert.deepEqual(rules(without, node.name), ['no-cluster', 'no-watcher']);
    assert.deepEqual(rules(without, 'vm1'), ['preserved-here']);
  });
});

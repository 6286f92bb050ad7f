import assert from 'node:assert/strict';
import { after, before, beforeEach, describe, it } from 'node:test';
import type { LabNode } from '../lab/client.ts';
import { block, changed } from '../support/documentation.ts';
import { Cluster, type ClusterGuest } from './support.ts';

describe('the configurations in the documentation', () => {
  let cluster: Cluster;
  let guest: ClusterGuest;

  before(async () => {
    cluster = await Cluster.up();
  });
  after(() => cluster?.down());

  beforeEach(async () => {
    await cluster.sh('crm resource stop vm1; crm_resource --wait; crm --force configure delete vm1; true');
    await cluster.settled();
    for (const node of cluster.lab.nodes) {
      await node.exec(['kvmha', 'release', 'vm1']);
    }
    guest = await cluster.makeGuest('vm1');
    const xml = await cluster.anyNode.check(['cat', guest.config]);
    for (const node of cluster.lab.nodes) {
      node.write('/etc/kvmha/vm1.xml', xml);
    }
  });

  async function isValid(): Promise<void> {
    const { exitCode, stdout, stderr } = await cluster.anyNode.exec(['crm_verify', '--live-check', '-V']);
    assert.deepEqual({ exitCode, stdout, stderr }, { exitCode: 0, stdout: '', stderr: '' });
  }

  /** @returns the node that keeps the copy */
  async function failsOver(): Promise<LabNode> {
    const node = await guest.runsOn();
    guest.fault(node).set('W', guest.disk);
    const others = cluster.lab.nodes.filter(({ name }) => name !== node.name);
    await guest.runsOn(...others);
    guest.fault(node).clear();
    assert.equal((await guest.look(node)).state, 'quiesced-failover-safe');
    const { attributes } = await cluster.view('vm1');
    assert.equal(attributes.get(node.name)?.get('kvmha-preserved-vm1'), '1');
    assert.deepEqual(cluster.fenced(), []);
    await guest.judge();
    return node;
  }

  /** Runs each line of a block on a node. @param exitCodes for each line, those that it may end with */
  async function run(node: LabNode, page: string, beginning: string, exitCodes: (readonly number[])[]) {
    // A line of crontab(5) says when, and who, first.
    const lines = block(page, beginning)
      .split('\n')
      .map((line) => line.replace(/^(?:\* ){5}root /, ''));
    assert.equal(lines.length, exitCodes.length, lines.join('\n'));
    for (const [index, line] of lines.entries()) {
      const { exitCode, stdout, stderr } = await node.exec(['sh', '-c', line], { timeout: 120_000 });
      assert.ok(exitCodes[index]?.includes(exitCode), `${line} exited ${exitCode}:\n${stdout}${stderr}`);
    }
  }

  it('work as they are pasted into crm configure', async () => {
    const [, ...lines] = block('README.md', 'crm configure\n').split('\n');
    await cluster.anyNode.check(['crm', 'configure'], { input: `${lines.join('\n')}\n` });
    await isValid();
    await failsOver();
  });

  it('work as pcs commands, and the commands of the manual with a guest that is preserved then', async () => {
    await cluster.sh(block('README.md', 'pcs resource create vm1'));
    await cluster.sh(block('README.md', 'pcs resource create kvm-watch'));
    await cluster.settled();
    await isValid();
    const node = await failsOver();
    const done = [0];
    const attention = [1];
    const findings = [0, 1, 3];
    await run(node, 'README.md', 'crm configure property node-health-strategy', [done]);
    // The first is refused, because the resource is there already.
    await run(node, 'README.md', 'kvmha configure', [attention, done, done]);
    await run(node, 'README.md', 'kvmha doctor', [findings, findings]);
    await run(node, 'README.md', 'kvmha policy check', [done, done, done, done, done]);
    await run(node, 'README.md', 'kvmha host-health', [done, done]);
    await run(node, 'docs/runbook.md', 'kvmha status', [attention, done]);
    // No journald runs in the lab.
    await run(node, 'docs/runbook.md', 'kvmha proof', [done, [0, 1, 127], findings, done]);
    await run(node, 'docs/runbook.md', 'kvmha postmortem', [done]);
    await node.check(['cp', '/var/log/kvmha/events.jsonl', '/tmp/events.jsonl']);
    await run(node, 'docs/monitoring.md', 'kvmha timeline', [done, done, done]);
    await node.check(['mkdir', '-p', '/var/lib/prometheus/node-exporter']);
    await run(node, 'docs/monitoring.md', '* * * * * root kvmha metrics', [done]);
    // It is refused, because the guest runs elsewhere.
    await run(node, 'docs/runbook.md', 'crm resource unmanage', [done, attention, done]);
    // Once it is released, there is nothing here to be resumed or quiesced, and nothing to be released.
    const all = [attention, done, done, done, done, done, attention, attention];
    await run(node, 'README.md', 'kvmha status', all);
    await run(node, 'docs/runbook.md', 'kvmha release', [done]);
    await cluster.sh('pcs resource delete kvm-watch');
  });

  for (const way of ['crm configure show vm1', 'cibadmin --query']) {
    it(`adopt a running guest of VirtualDomain with ${way.split(' ')[0]}`, async () => {
      await cluster.configure(`\
primitive vm1 ocf:heartbeat:VirtualDomain params config=/etc/kvmha/vm1.xml migration_transport=tcp \
migrate_options=--unsafe op start timeout=90s interval=0 op stop timeout=90s interval=0 \
op monitor timeout=30s interval=2s op migrate_to timeout=120s interval=0 op migrate_from timeout=60s interval=0 \
meta allow-migrate=true
`);
      const node = await guest.runsOn();
      const boot = await guest.boot();
      const rule = way.startsWith('crm') ? 'crm configure location' : 'pcs constraint location';
      for (const beginning of [
        'crm_attribute --name maintenance-mode --update',
        way,
        'crm_resource --resource vm1 --meta',
        rule,
        'crm_resource --refresh',
        'crm_attribute --name maintenance-mode --delete',
      ]) {
        await cluster.sh(block('docs/adoption.md', beginning));
      }
      await cluster.settled();
      await isValid();
      assert.match(await cluster.shown(), /vm1\s+\(ocf:kvmha:KvmGuest\):\s+Started/);
      assert.deepEqual(await guest.places(), [node.name]);
      assert.deepEqual(await guest.boot(), boot);
      await failsOver();
    });
  }

  it('give a running guest back to VirtualDomain with the types exchanged', async () => {
    await cluster.configure(guest.configuration());
    const node = await guest.runsOn();
    const boot = await guest.boot();
    const back = changed(block('docs/adoption.md', 'crm configure show vm1'), [
      ['ocf:kvmha:KvmGuest', 'ocf:heartbeat:VirtualDomain'],
      ['[^ ]*VirtualDomain', 'ocf:kvmha:KvmGuest'],
    ]);
    await cluster.sh(block('docs/adoption.md', 'crm_attribute --name maintenance-mode --update'));
    await cluster.sh(back);
    await cluster.sh(block('docs/adoption.md', 'crm_resource --refresh'));
    await cluster.sh(block('docs/adoption.md', 'crm_attribute --name maintenance-mode --delete'));
    await cluster.settled();
    assert.match(await cluster.shown(), /vm1\s+\(ocf:heartbeat:VirtualDomain\):\s+Started/);
    assert.deepEqual(await guest.places(), [node.name]);
    assert.deepEqual(await guest.boot(), boot);
    const history = await cluster.history('vm1', node.name);
    assert.ok(history.includes('monitor 0'), history.join());
    assert.deepEqual(
      history.filter((operation) => !/^(probe|monitor) 0$/.test(operation)),
      [],
    );
    assert.equal((await guest.judge()).length, 1);
  });
});

import assert from 'node:assert/strict';
import { after, before, beforeEach, describe, it } from 'node:test';
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

  async function failsOver(): Promise<void> {
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
  }

  it('work as they are pasted into crm configure', async () => {
    const [, ...lines] = block('README.md', 'crm configure\n').split('\n');
    await cluster.anyNode.check(['crm', 'configure'], { input: `${lines.join('\n')}\n` });
    await isValid();
    await failsOver();
  });

  it('work as pcs commands', async () => {
    await cluster.sh(block('README.md', 'pcs resource create vm1'));
    await isValid();
    await failsOver();
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

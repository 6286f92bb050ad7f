import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import type { LabNode } from '../lab/client.ts';
import { Cluster, type ClusterGuest } from './support.ts';

describe('kvmha resume in a cluster', () => {
  let cluster: Cluster;
  let node1: LabNode;
  let alarm: ClusterGuest;
  let moved: ClusterGuest;

  before(async () => {
    cluster = await Cluster.up({ nodes: 2 });
    node1 = cluster.node(1);
    cluster.observer = cluster.node(2);
    [alarm, moved] = await cluster.startGuests([
      ['alarm', { prefers: ['node1'] }],
      ['moved', { prefers: ['node1'] }],
    ]);
  });
  after(() => cluster?.down());

  const manage = (guest: ClusterGuest, word: 'manage' | 'unmanage') =>
    node1.check(['crm', 'resource', word, guest.name]);

  /** Why a guest is not resumed; it must be preserved as before. */
  async function refusal(guest: ClusterGuest): Promise<string> {
    const { exitCode, stdout, stderr } = await node1.exec(['kvmha', 'resume', guest.name, '--json']);
    assert.equal(exitCode, 1, `${stdout}${stderr}`);
    const report = JSON.parse(stdout);
    assert.equal(report.outcome, 'refused', stdout);
    assert.equal((await guest.look(node1)).state, 'quiesced-failover-safe');
    return report.reasons.join('; ');
  }

  it('lets a guest go on that the cluster is kept from starting elsewhere, and gives it back', async () => {
    const before = await alarm.boot();
    const pids = await alarm.pids(node1);
    await manage(alarm, 'unmanage');
    await node1.check(['kvmha', 'quiesce', 'alarm']);
    await cluster.until(
      'a monitor has seen it',
      async () => (await cluster.history('alarm', 'node1')).includes('monitor 7') || undefined,
    );
    const said = await node1.check(['kvmha', 'resume', 'alarm']);
    assert.match(said, /^alarm runs again, where it stopped\.$/m);
    assert.match(said, /^alarm may run on this node again\.$/m);
    assert.match(said, /^The failures of alarm on node1 are cleaned up\.$/m);
    assert.match(said, /give it back to the cluster: "crm resource manage alarm"/);
    await alarm.runsOn('node1');
    await manage(alarm, 'manage');
    await cluster.settled();
    await alarm.runsOn('node1');
    assert.deepEqual(await alarm.pids(node1), pids);
    assert.deepEqual(await alarm.boot(), before);
    const shown = await cluster.shown();
    assert.doesNotMatch(shown, /kvmha-(preserved|fault)-alarm/);
    assert.doesNotMatch(shown, /alarm: .*fail-count/);
    await alarm.judge();
  });

  it('refuses one that runs elsewhere, and one that ran there, whatever is forgotten of it', async () => {
    await node1.check(['kvmha', 'quiesce', 'moved']);
    await moved.runsOn('node2');
    assert.match(await refusal(moved), /the cluster has moved on node2/);
    await node1.check(['crm', 'resource', 'stop', 'moved']);
    await cluster.settled();
    assert.match(await refusal(moved), /the cluster may start moved on another node at any moment/);
    await manage(moved, 'unmanage');
    const both = await refusal(moved);
    assert.match(both, /the cluster has called (start|monitor) of moved on node2 at 20/);
    assert.match(both, /moved\.img is not as this qemu left it, so another host may have run the guest/);
    await node1.check(['crm_resource', '--refresh', '--resource', 'moved', '--node', 'node2']);
    await cluster.settled();
    const storage = await refusal(moved);
    assert.doesNotMatch(storage, /has called/);
    assert.match(storage, /moved\.img is not as this qemu left it, so another host may have run the guest/);
    await moved.release(node1);
    await manage(moved, 'manage');
    await node1.check(['crm', 'resource', 'start', 'moved']);
    await moved.runsOn('node1', 'node2');
    await moved.judge();
    assert.deepEqual(cluster.fenced(), []);
  });
});

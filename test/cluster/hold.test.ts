import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import type { LabNode } from '../lab/client.ts';
import { Cluster, type ClusterGuest } from './support.ts';

describe('a fault that the cluster must not act on', () => {
  let cluster: Cluster;
  let node1: LabNode;
  let unmanaged: ClusterGuest;
  let maintained: ClusterGuest;
  let many: readonly ClusterGuest[];

  before(async () => {
    cluster = await Cluster.up();
    node1 = cluster.node(1);
    cluster.observer = cluster.node(2);
    node1.write('/shared/storm.yaml', 'quiesce:\n  storm:\n    guests: 2\n    seconds: 86400\n');
    const storm = { prefers: ['node1'], parameters: 'policy=/shared/storm.yaml' };
    [unmanaged, maintained, ...many] = await cluster.startGuests([
      ['unmanaged', { prefers: ['node2'] }],
      ['maintained', { prefers: ['node3'] }],
      ...[1, 2, 3, 4, 5].map((number) => [`many${number}`, storm] as const),
    ]);
  });
  after(() => cluster?.down());

  it('leaves an unmanaged guest as it is until it is managed again', async () => {
    const node = cluster.node(2);
    const pids = await unmanaged.pids(node);
    await cluster.sh('crm_resource --resource unmanaged --meta -p is-managed -v false');
    unmanaged.fault(node).set('W', unmanaged.disk);
    await cluster.until(
      'a monitor has seen it',
      async () => (await cluster.history('unmanaged', 'node2')).includes('monitor 1') || undefined,
    );
    assert.equal((await unmanaged.look(node)).state, 'faulted');
    await cluster.sh('crm_resource --resource unmanaged --meta -d is-managed');
    await unmanaged.runsOn('node1', 'node3');
    assert.deepEqual(await unmanaged.pids(node), pids);
    await unmanaged.judge();
  });

  it('leaves a guest as it is in maintenance mode, and quiesces it afterwards', async () => {
    const node = cluster.node(3);
    const pids = await maintained.pids(node);
    await cluster.sh('crm_attribute -n maintenance-mode -v true');
    maintained.fault(node).set('W', maintained.disk);
    await cluster.until(
      'it stands still',
      async () => (await maintained.state(node)).startsWith('paused') || undefined,
    );
    assert.equal((await maintained.look(node)).state, 'faulted');
    await cluster.sh('crm_attribute -n maintenance-mode -D');
    await maintained.runsOn('node1', 'node2');
    assert.deepEqual(await maintained.pids(node), pids);
    await maintained.judge();
  });

  it('holds all but a few guests of a node whose whole storage fails', async () => {
    const boots = await Promise.all(many.map((guest) => guest.boot()));
    for (const guest of many) {
      guest.fault(node1).set('W', guest.disk);
    }
    const held = await cluster.until('two have gone and three are held', async () => {
      const histories = await Promise.all(many.map(({ name }) => cluster.history(name, 'node1')));
      const left = many.filter((_, index) => histories[index]?.includes('monitor 190'));
      return left.length === 3 ? left : undefined;
    });
    for (const guest of held) {
      assert.match(await guest.state(node1), /^paused/);
      assert.equal((await guest.look(node1)).state, 'faulted');
    }
    await cluster.until(
      'the health of the node is told',
      async () => (await cluster.attribute('#health-kvmha', node1)) === 'yellow' || undefined,
    );
    const reason = await cluster.attribute('kvmha-health-reason', node1);
    assert.match(String(reason), /^2 other guests .* quiesced/);
    for (const guest of many) {
      guest.fault(node1).clear();
    }
    for (const guest of held) {
      await node1.check(['virsh', 'resume', guest.name]);
      assert.deepEqual(await guest.boot(), boots[many.indexOf(guest)]);
    }
    await Promise.all(many.map((guest) => guest.judge()));
    assert.deepEqual(cluster.fenced(), []);
  });
});

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import type { LabNode } from '../lab/client.ts';
import { Cluster, type ClusterGuest } from './support.ts';

/** A monitor script that tells of each monitor by a line. */
const COUNTER = '/usr/local/bin/count-monitor';

describe('a guest that dies, or whose libvirtd or node does', () => {
  let cluster: Cluster;
  let node1: LabNode;
  let node2: LabNode;
  let node3: LabNode;
  let panicking: ClusterGuest;
  let preservedOnCrash: ClusterGuest;
  let killed: ClusterGuest;
  let healthy: ClusterGuest;

  before(async () => {
    cluster = await Cluster.up();
    [node1, node2, node3] = [cluster.node(1), cluster.node(2), cluster.node(3)];
    // The second node survives every test, so it is asked.
    cluster.observer = node2;
    for (const node of cluster.lab.nodes) {
      node.write(COUNTER, '#!/bin/sh\necho monitor >>/shared/monitors\n');
      await cluster.sh(`chmod 755 ${COUNTER}`, node);
    }
    const pvpanic = { pvpanic: true };
    [panicking, preservedOnCrash, killed, healthy] = await cluster.startGuests([
      ['panicking', { domain: pvpanic, prefers: ['node1'], meta: '' }],
      ['preserved-on-crash', { domain: { ...pvpanic, onCrash: 'preserve' }, prefers: ['node2'], meta: '' }],
      ['killed', { prefers: ['node3'], meta: '' }],
      ['healthy', { prefers: ['node1'], parameters: `monitor_scripts=${COUNTER}` }],
    ]);
  });
  after(() => cluster?.down());

  it('is made sure to be dead and started again where it was, for its own death is no fault of the host', async () => {
    const ends: [ClusterGuest, LabNode, (pid: number) => Promise<unknown>][] = [
      [panicking, node1, () => panicking.press(node1, 'p')],
      [preservedOnCrash, node2, () => preservedOnCrash.press(node2, 'p')],
      [killed, node3, (pid) => cluster.sh(`kill -9 ${pid}`, node3)],
    ];
    await Promise.all(
      ends.map(async ([guest, node, end]) => {
        const [pid] = await guest.pids(node);
        assert.ok(pid);
        await end(pid);
        await cluster.until(
          `${guest.name} boots again`,
          async () => (await guest.boot()).boots === 2 || undefined,
        );
        await guest.runsOn(node);
        const pids = await guest.pids(node);
        assert.equal(pids.length, 1);
        assert.notEqual(pids[0], pid);
        assert.equal((await guest.judge()).length, 2);
      }),
    );
    assert.deepEqual(cluster.fenced(), []);
  });

  const monitors = async () => Number(await cluster.sh('wc -l </shared/monitors'));
  const monitored = async (more: number) => {
    const before = await monitors();
    await cluster.until('monitors', async () => (await monitors()) >= before + more || undefined);
  };

  it('goes on when its libvirtd is dead or hangs', async () => {
    const boot = await healthy.boot();
    await cluster.sh('kill -9 $(pidof libvirtd)', node1);
    await monitored(4);
    await cluster.sh('systemctl start libvirtd', node1);
    await cluster.sh('kill -STOP $(pidof libvirtd)', node1);
    await monitored(4);
    assert.deepEqual(await healthy.boot(), boot);
    assert.deepEqual(await healthy.places(), ['node1']);
    assert.deepEqual(await cluster.history('healthy', 'node1'), ['start 0', 'monitor 0']);
  });

  it('is quiesced though its libvirtd hangs', async () => {
    healthy.fault(node1).set('W', healthy.disk);
    await healthy.runsOn('node2', 'node3');
    await cluster.sh('kill -CONT $(pidof libvirtd)', node1);
    assert.equal((await healthy.look(node1)).state, 'quiesced-failover-safe');
    assert.equal((await healthy.judge()).length, 2);
    assert.deepEqual(cluster.fenced(), []);
    healthy.fault(node1).clear();
    await healthy.release(node1);
    await healthy.runsOn('node1');
  });

  const losses: [how: string, lose: (node: LabNode) => Promise<unknown>][] = [
    ['loses its power', (node) => node.powerOff()],
    ['is cut off', (node) => node.cut()],
    ['has its corosync frozen', (node) => cluster.sh('kill -STOP $(pidof corosync)', node)],
  ];
  for (const [how, lose] of losses) {
    it(`is started elsewhere after its node ${how} and is fenced`, async () => {
      await cluster.settled();
      const guests = [panicking, healthy];
      await Promise.all(guests.map((guest) => guest.runsOn('node1')));
      const fencedBefore = cluster.fenced().length;
      const boots = await Promise.all(guests.map(async (guest) => (await guest.boot()).boots));
      const bystander = await preservedOnCrash.boot();
      await lose(node1);
      await Promise.all(
        guests.map((guest, index) =>
          cluster.until(
            `${guest.name} boots elsewhere`,
            async () => (await guest.witness()).tickBoot > (boots[index] ?? 0) || undefined,
          ),
        ),
      );
      assert.deepEqual(cluster.fenced().slice(fencedBefore), ['node1']);
      assert.deepEqual(await preservedOnCrash.boot(), bystander);
      await node1.heal();
      await cluster.lab.waitForCluster();
      await Promise.all(guests.map((guest) => guest.judge()));
    });
  }

  it('is started once when it is quiesced and its node is lost at the same time', async () => {
    await cluster.settled();
    await healthy.runsOn('node1');
    const { boots } = await healthy.boot();
    healthy.fault(node1).set('W', healthy.disk);
    await cluster.until('the quiesce is under way', async () =>
      (await healthy.state(node1)).startsWith('paused') ? true : undefined,
    );
    await node1.powerOff();
    await cluster.until(
      'it boots elsewhere',
      async () => (await healthy.witness()).tickBoot > boots || undefined,
    );
    await cluster.lab.waitForCluster();
    await healthy.runsOn();
    await healthy.judge();
  });
});

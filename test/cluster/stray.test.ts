import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import type { LabNode } from '../lab/client.ts';
import { Cluster, type ClusterGuest } from './support.ts';

describe('a node that is left by a quiesced guest', () => {
  let cluster: Cluster;
  let node1: LabNode;
  /** Quiesced by hand. */
  let sent: ClusterGuest;
  /** With a monitor for role Stopped. */
  let watched: ClusterGuest;
  /** Defined persistently, to be started by libvirt at boot. */
  let autostarted: ClusterGuest;

  before(async () => {
    cluster = await Cluster.up();
    node1 = cluster.node(1);
    cluster.observer = cluster.node(2);
    // So that nothing but the agent keeps a guest away from the first node, or there.
    await cluster.configure('rsc_defaults resource-stickiness=1000\n');
    const uuid = '6b766d68-0000-4000-8000-0000000000a1';
    [sent, watched, autostarted] = await cluster.startGuests([
      ['sent', { prefers: ['node1'] }],
      ['watched', { prefers: ['node1'], moreOperations: 'op monitor role=Stopped timeout=30s interval=1s' }],
      ['autostarted', { prefers: ['node1'], domain: { uuid } }],
    ]);
  });
  after(() => cluster?.down());

  it('is left without a migration when an operator quiesces the guest', async () => {
    await node1.check(['kvmha', 'quiesce', 'sent']);
    await sent.runsOn('node2', 'node3');
    assert.deepEqual(await cluster.history('sent', 'node1'), ['monitor 0', 'asyncmon 1', 'stop 0']);
    assert.equal((await sent.look(node1)).state, 'quiesced-failover-safe');
    const { attributes } = await cluster.view('sent');
    assert.equal(attributes.get('node1')?.get('kvmha-preserved-sent'), '1');
    assert.equal((await sent.judge()).length, 2);
  });

  it('ends a stray copy there, and never the healthy guest elsewhere', async () => {
    watched.fault(node1).set('W', watched.disk);
    await watched.runsOn('node2', 'node3');
    watched.fault(node1).clear();
    const [boot, places] = [await watched.boot(), await watched.places()];
    // On an image of its own, so that the witness goes on telling of the healthy guest alone.
    const xml = `sed 's,${watched.disk},/tmp/stray.img,; s,/var/log/witness/watched,/tmp/stray.log,' ${watched.config}`;
    await cluster.sh(
      `virsh destroy watched; cp ${watched.disk} /tmp/stray.img; ${xml} >/tmp/stray.xml`,
      node1,
    );
    await node1.check(['virsh', 'create', '/tmp/stray.xml']);
    assert.equal((await watched.pids(node1)).length, 1);
    await cluster.until(
      'the stray copy has ended',
      async () => (await watched.pids(node1)).length === 0 || undefined,
    );
    await cluster.settled();
    assert.deepEqual(await watched.places(), places);
    assert.deepEqual(await watched.boot(), boot);
    assert.equal((await watched.judge()).length, 2);
    assert.deepEqual(cluster.fenced(), []);
  });

  it('does not start the guest by itself when it boots', async () => {
    await node1.check(['virsh', 'define', autostarted.config]);
    await node1.check(['virsh', 'autostart', 'autostarted']);
    autostarted.fault(node1).set('W', autostarted.disk);
    await autostarted.runsOn('node2', 'node3');
    const boot = await autostarted.boot();
    await node1.powerOff();
    await cluster.until('it is fenced', () => cluster.fenced().length > 0 || undefined);
    await cluster.lab.waitForCluster();
    await cluster.settled();
    assert.match(await node1.check(['virsh', 'dominfo', 'autostarted']), /^Autostart: +disable/m);
    assert.deepEqual(await autostarted.boot(), boot);
    assert.equal((await autostarted.judge()).length, 2);
  });
});

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

  /**
   * Ends the preserved qemu of a guest past the agent, and starts the guest there. On an image of its own, so that the
   * witness goes on telling of the healthy guest alone.
   */
  async function comesAlive({ name, disk, config }: ClusterGuest): Promise<void> {
    const xml = `sed 's,${disk},/tmp/${name}.img,; s,/var/log/witness/${name},/tmp/${name}.log,' ${config}`;
    await cluster.sh(`virsh destroy ${name}; cp ${disk} /tmp/${name}.img; ${xml} >/tmp/${name}.xml`, node1);
    await node1.check(['virsh', 'create', `/tmp/${name}.xml`]);
  }

  for (const [how, choose, notice] of [
    ['by a monitor for role Stopped', () => watched, 'true'],
    ['by a refresh', () => sent, 'crm_resource --refresh --resource sent'],
  ] as const) {
    it(`ends a copy that came alive there and is noticed ${how}, and never the healthy one`, async () => {
      const guest = choose();
      if ((await guest.places()).includes('node1')) {
        guest.fault(node1).set('W', guest.disk);
        await guest.runsOn('node2', 'node3');
        guest.fault(node1).clear();
      }
      const [boot, places] = [await guest.boot(), await guest.places()];
      await comesAlive(guest);
      assert.equal((await guest.pids(node1)).length, 1);
      await cluster.sh(notice);
      await cluster.until(
        'the stray copy has ended',
        async () => (await guest.pids(node1)).length === 0 || undefined,
      );
      await cluster.settled();
      assert.deepEqual(await guest.places(), places);
      assert.deepEqual(await guest.boot(), boot);
      assert.equal((await guest.judge()).length, 2);
      assert.deepEqual(cluster.fenced(), []);
    });
  }

  it('does not start the guest by itself when it boots, with autostart and libvirt-guests', async () => {
    const LIBVIRT_GUESTS = '/usr/lib/libvirt/libvirt-guests.sh';
    await node1.check(['virsh', 'define', autostarted.config]);
    await node1.check(['virsh', 'autostart', 'autostarted']);
    autostarted.fault(node1).set('W', autostarted.disk);
    await autostarted.runsOn('node2', 'node3');
    assert.equal((await autostarted.look(node1)).state, 'quiesced-failover-safe');
    const boot = await autostarted.boot();
    // What it saves it would restore at boot.
    node1.write('/etc/default/libvirt-guests', 'ON_SHUTDOWN=suspend\n');
    await cluster.sh('systemctl stop corosync', node1);
    const saving = await node1.exec([LIBVIRT_GUESTS, 'stop']);
    assert.match(saving.stdout, /Suspending autostarted/);
    assert.equal(saving.exitCode, 1, saving.stdout);
    assert.equal((await autostarted.pids(node1)).length, 1, 'and its qemu outlives the attempt');
    await node1.reboot();
    await node1.check([LIBVIRT_GUESTS, 'start']);
    await cluster.lab.waitForCluster();
    await cluster.settled();
    const information = await node1.check(['virsh', 'dominfo', 'autostarted']);
    assert.match(information, /^State: +shut off$/m);
    assert.match(information, /^Autostart: +disable\nManaged save: +no$/m);
    assert.deepEqual(await autostarted.pids(node1), []);
    assert.deepEqual(await autostarted.boot(), boot);
    assert.equal((await autostarted.judge()).length, 2);
    assert.deepEqual(cluster.fenced(), []);
  });
});

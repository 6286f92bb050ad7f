import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { OCF } from '../../lib/ocf.ts';
import type { LabNode } from '../lab/client.ts';
import { AGENT, Resource } from '../support/agent.ts';
import { Cluster, type ClusterGuest } from './support.ts';

describe('a guest that the cluster moves', () => {
  let cluster: Cluster;
  let guest: ClusterGuest;
  /** With a monitor for role Stopped on the nodes where it is not. */
  let watched: ClusterGuest;

  before(async () => {
    cluster = await Cluster.up();
    // The second node survives every test, so it is asked.
    cluster.observer = cluster.node(2);
    await cluster.configure('rsc_defaults resource-stickiness=1000\n');
    [guest, watched] = await cluster.startGuests([
      ['guest', { prefers: ['node1'] }],
      ['watched', { prefers: ['node2'], moreOperations: 'op monitor role=Stopped timeout=30s interval=1s' }],
    ]);
  });
  after(() => cluster?.down());

  for (const [how, command, undo] of [
    ['by crm resource move', 'crm resource move guest node2', 'crm resource clear guest'],
    ['by standby of its node', 'crm node standby node2', 'crm node online node2'],
    ['by pcs resource move', 'pcs resource move guest node2', 'true'],
  ] as const) {
    it(`is migrated live ${how}`, async () => {
      const from = await guest.runsOn();
      const boot = await guest.boot();
      await cluster.sh(command);
      await guest.runsOn(...cluster.lab.nodes.filter(({ name }) => name !== from.name));
      assert.deepEqual(await guest.boot(), boot);
      // Another guest of the node may still be on its way, and the cluster would stop it if that ended now.
      await cluster.settled();
      await cluster.sh(undo);
      await cluster.settled();
      assert.equal((await guest.judge()).length, 1);
    });
  }

  it('is no stray copy to the monitor for role Stopped on the node that it comes to', async () => {
    const boot = await watched.boot();
    const from = await watched.runsOn();
    const to = cluster.node(from.name === 'node1' ? 'node2' : 'node1');
    // Pacemaker may or may not cancel that monitor before the migration, so it is also called here, while the guest
    // runs on the target and the migration is not over for the cluster.
    const slow = '[ "$1" = migrate_from ] && while [ -e /run/wait ]; do sleep 0.1; done';
    to.write(`${AGENT}.slow`, `#!/bin/sh\n${slow}\nexec /usr/local/bin/KvmGuest "$@"\n`);
    await cluster.sh('ln -s /usr/sbin/kvmha /usr/local/bin/KvmGuest; touch /run/wait', to);
    // In one step: the cluster's own monitor, which comes every second, must never miss the agent.
    await cluster.sh(`chmod 755 ${AGENT}.slow; mv --force ${AGENT}.slow ${AGENT}`, to);
    const monitor = async () => {
      const meta = { interval: '1000', role: 'Stopped', on_node: to.name };
      const env = { OCF_RESKEY_crm_feature_set: '3.16.1' };
      return (await new Resource({ name: 'watched' }).call(to, 'monitor', { meta, env })).exitCode;
    };
    await cluster.sh(`crm resource move watched ${to.name}`);
    await cluster.until(
      'it has arrived',
      async () => (await watched.state(to)).startsWith('running') || undefined,
    );
    await cluster.until(
      'its migration is over on its first node',
      async () => (await watched.state(from)) === '' || undefined,
    );
    assert.equal((await cluster.view('watched')).resource?.role, 'Migrating');
    assert.equal(await monitor(), OCF.NOT_RUNNING);
    await cluster.sh('rm /run/wait', to);
    await watched.runsOn(to);
    await cluster.settled();
    assert.equal(await monitor(), OCF.SUCCESS, 'a guest that is not on its way is seen');
    assert.deepEqual(await watched.boot(), boot);
    assert.deepEqual(await watched.places(), [to.name]);
    assert.equal((await watched.judge()).length, 1);
  });

  describe('and whose migration fails half-way, runs on exactly one node', () => {
    let mover: ClusterGuest;
    let visitor: ClusterGuest;
    let mortal: ClusterGuest;
    let stayer: ClusterGuest;
    let stricken: ClusterGuest;

    before(async () => {
      // They dirty their memory faster than their migration may go.
      const settings = { dirty: true };
      const parameters = 'migration_speed=1 migration_downtime=1';
      const restless = (node: string) => ({ settings, parameters, prefers: [node] });
      [mover, visitor, mortal, stayer, stricken] = await cluster.startGuests([
        ['mover', restless('node1')],
        ['visitor', restless('node3')],
        ['mortal', restless('node1')],
        ['stayer', restless('node1')],
        ['stricken', restless('node1')],
      ]);
    });

    /** Begins migrations that never end, all in one change: the next one would wait for those under way. */
    async function migrate(...moves: [ClusterGuest, from: LabNode, to: LabNode][]): Promise<void> {
      const constraints = moves.map(([{ name }, , to]) => `location move-${name} ${name} inf: ${to.name}\n`);
      await cluster.configure(constraints.join(''));
      await Promise.all(
        moves.map(async ([{ name }, from]) => {
          await cluster.until(`${name} is being migrated`, async () => {
            const { stdout } = await from.exec(['virsh', 'domjobinfo', name]);
            return /^Memory remaining/m.test(stdout) || undefined;
          });
          // On a busy machine the guest may be too slow to keep its migration from ending.
          await setSpeed(name, from, 1000);
        }),
      );
    }

    /** @param speed of a migration that is under way, in bytes per second */
    async function setSpeed(name: string, node: LabNode, speed: number): Promise<void> {
      const command = { execute: 'migrate-set-parameters', arguments: { 'max-bandwidth': speed } };
      await node.check(['virsh', 'qemu-monitor-command', name, JSON.stringify(command)]);
    }

    /** Waits until the guest has booted for a second time, and runs once. */
    async function recovers(restless: ClusterGuest): Promise<void> {
      const { name } = restless;
      await cluster.until(`${name} boots again`, async () => (await restless.boot()).boots > 1 || undefined);
      await cluster.sh(`crm --force configure delete move-${name}`);
      await restless.runsOn();
      assert.equal((await restless.judge()).length, 2);
      const on = cluster.lab.nodes.filter((node) => node.isOn);
      assert.equal((await Promise.all(on.map((node) => restless.pids(node)))).flat().length, 1);
    }

    it('without a boot after its storage failed on the way: the failed request is repeated on the target', async () => {
      const [node1, node3] = [cluster.node(1), cluster.node(3)];
      const boot = await stricken.boot();
      await migrate([stricken, node1, node3]);
      stricken.fault(node1).set('W', stricken.disk);
      await cluster.until('it stands still', async () =>
        (await stricken.state(node1)) === 'paused (I/O error)' ? true : undefined,
      );
      await setSpeed('stricken', node1, 1_000_000_000);
      await stricken.runsOn(node3);
      assert.deepEqual(await stricken.boot(), boot);
      assert.equal((await stricken.judge()).length, 1);
      assert.deepEqual(await stricken.pids(node1), []);
      await cluster.sh('crm resource stop stricken');
      await cluster.settled();
    });

    it('after a cut of the network between its nodes', async () => {
      const [node1, node3] = [cluster.node(1), cluster.node(3)];
      // One whose target is cut off, and one whose own node is.
      await migrate([mover, node1, node3], [visitor, node3, node1]);
      await node3.cut();
      await Promise.all([recovers(mover), recovers(visitor)]);
      await node3.heal();
      assert.deepEqual(cluster.fenced(), ['node3']);
      await cluster.lab.waitForCluster();
    });

    it('after the death of its qemu', async () => {
      const [node1, node3] = [cluster.node(1), cluster.node(3)];
      await migrate([mortal, node1, node3]);
      await cluster.sh(`kill -9 ${await mortal.pids(node1)}`, node1);
      await recovers(mortal);
      assert.deepEqual(cluster.fenced(), ['node3']);
    });

    it('after the loss of its target', async () => {
      const [node1, node3] = [cluster.node(1), cluster.node(3)];
      await migrate([stayer, node1, node3]);
      await node3.powerOff();
      await recovers(stayer);
      assert.deepEqual(cluster.fenced(), ['node3', 'node3']);
    });
  });
});

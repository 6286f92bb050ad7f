import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import type { LabNode } from '../lab/client.ts';
import { journal } from '../support/watch.ts';
import { Cluster, type ClusterGuest, WATCHERS } from './support.ts';

/** What rasdaemon gives a trigger about an uncorrected error of memory. */
const UNCORRECTED = {
  TYPE: 'Uncorrected',
  COUNT: '1',
  MESSAGE: 'memory read error',
  LABEL: 'DIMM_A1',
  MC_INDEX: '0',
  ADDRESS: '1e2b6a000',
};

describe('an error of the host', () => {
  let cluster: Cluster;
  let node1: LabNode;
  let guest: ClusterGuest;

  before(async () => {
    cluster = await Cluster.up();
    node1 = cluster.node(1);
    cluster.observer = cluster.node(2);
    for (const node of cluster.lab.nodes) {
      node.write('/etc/kvmha/policy.yaml', 'host: { interval: 1 }\n');
    }
    await cluster.configure(`property node-health-strategy=migrate-on-red\n${WATCHERS}`);
    [guest] = await cluster.startGuests([['guest', { prefers: ['node1'] }]]);
  });
  after(() => cluster?.down());

  /** As rasdaemon calls its trigger. */
  async function fails(node: LabNode): Promise<void> {
    await node.check(['kvmha', 'host-error'], { env: UNCORRECTED });
  }

  function health(node: LabNode): Promise<string | undefined> {
    return cluster.attribute('#health-kvmha', node);
  }

  async function watcherRuns(node: LabNode): Promise<boolean> {
    return (await cluster.view('kvm-watch')).resource?.activeOn.includes(node.name) === true;
  }

  it('moves a guest that it has not hit to another node while it runs, and green lets it return', async () => {
    const boot = await guest.boot();
    await fails(node1);
    await guest.runsOn('node2', 'node3');
    assert.deepEqual(await guest.boot(), boot);
    assert.equal(await health(node1), 'red');
    assert.match(await cluster.shown(), /kvmha-health-reason\s*: mc0 DIMM_A1: uncorrected error/);
    await cluster.settled();
    assert.ok(await watcherRuns(node1), 'the watcher was stopped');

    await node1.check(['kvmha', 'host-health', 'green', '--reason', 'DIMM replaced']);
    await guest.runsOn('node1');
    assert.deepEqual(await guest.boot(), boot);
    assert.doesNotMatch(await cluster.shown(), /kvmha-health-reason/);
  });

  it('is only recorded in maintenance, and told to the cluster by the watcher afterwards', async () => {
    const boot = await guest.boot();
    await cluster.sh('crm_attribute -n maintenance-mode -v true');
    await fails(node1);
    const told = () => journal(node1).findLast(({ action }) => action === 'node-health');
    assert.equal(told()?.['outcome'], 'not-told');
    assert.match(String(told()?.['why']), /maintenance mode/);
    assert.notEqual(await health(node1), 'red');
    await cluster.sh('crm_attribute -n maintenance-mode -D');
    await guest.runsOn('node2', 'node3');
    assert.deepEqual(await guest.boot(), boot);
    assert.equal(told()?.['outcome'], 'told');
    assert.equal(told()?.by, 'watcher');
  });

  it('is not forgotten when the cluster software of its node is restarted', async () => {
    assert.equal(await health(node1), 'red');
    await node1.check(['systemctl', 'restart', 'pacemaker'], { timeout: 90_000 });
    await cluster.until('the watcher runs again', async () => (await watcherRuns(node1)) || undefined);
    await cluster.until('it has told', async () => (await health(node1)) === 'red' || undefined);
    assert.equal((await guest.judge()).length, 1);
    assert.deepEqual(cluster.fenced(), []);
  });
});

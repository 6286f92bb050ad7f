import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { ClusterView, RunningCluster } from '../../../lib/cluster/cluster-view.ts';
import { hindrance, noHelpElsewhere } from '../../../lib/cluster/hindrance.ts';
import { recordedView } from './recorded.ts';

const NONE: ClusterView = { kind: 'none', why: 'Pacemaker does not run on this node' };
const SILENT: ClusterView = { kind: 'silent', why: 'crm_mon did not end in time' };

describe('hindrance', () => {
  it('is nothing in a healthy cluster, and where there is none', async () => {
    assert.equal(hindrance(await recordedView('healthy')), undefined);
    assert.equal(hindrance(await recordedView('no-such-resource', 'nope')), undefined);
    assert.equal(hindrance(NONE), undefined);
  });

  it('is what an operator does to the cluster, the resource or this node', async () => {
    const cases: [recording: string, why: RegExp][] = [
      ['cluster-maintenance', /^the cluster is in maintenance mode$/],
      ['node-maintenance', /^node1 is in maintenance$/],
      ['unmanaged', /^the resource g1 is unmanaged$/],
      ['resource-maintenance', /^the resource g1 is unmanaged$/],
      ['orphaned', /^the resource g1 is unmanaged$/],
      ['blocked', /^the cluster leaves the resource g1 alone after a failure/],
      ['standby', /^node1 is in standby$/],
      ['shutting-down', /^node1 is shutting down$/],
    ];
    for (const [recording, why] of cases) {
      assert.match(hindrance(await recordedView(recording)) ?? '', why, recording);
    }
    const view = await recordedView('healthy');
    const resource = view.resource && { ...view.resource, managed: false, maintenance: true };
    assert.match(hindrance({ ...view, resource }) ?? '', /^the resource g1 is in maintenance$/);
  });

  it('is not what happens to other nodes', async () => {
    for (const recording of ['others-in-standby', 'node-offline', 'node-unclean', 'no-quorum']) {
      assert.equal(hindrance(await recordedView(recording)), undefined, recording);
    }
    assert.equal(hindrance(await recordedView('standby', 'g1', 'node2')), undefined);
  });

  it('is not knowing', async () => {
    assert.match(hindrance(SILENT) ?? '', /does not answer \(crm_mon did not end in time\)/);
    assert.match(
      hindrance(await recordedView('healthy', 'g1', 'elsewhere')) ?? '',
      /not know a node elsewhere/,
    );
  });
});

describe('noHelpElsewhere', () => {
  it('is nothing while another node could start the guest', async () => {
    for (const recording of ['healthy', 'node-offline', 'node-unclean', 'standby', 'preserved-on-node2']) {
      assert.equal(noHelpElsewhere(await recordedView(recording)), undefined, recording);
    }
  });

  it('is what keeps the cluster from starting it on any node', async () => {
    const cases: [recording: string, why: RegExp][] = [
      ['others-in-standby', /^no other node can start it: node2 is in standby, node3 is in standby$/],
      ['no-quorum', /^this partition of the cluster has no quorum$/],
      ['no-controller', /^the cluster has no controller/],
      ['stopped', /^the resource g1 is to be stopped/],
      ['blocked', /alone after a failure/],
      ['orphaned', /^no resource g1 is configured/],
    ];
    for (const [recording, why] of cases) {
      assert.match(noHelpElsewhere(await recordedView(recording)) ?? '', why, recording);
    }
    assert.match(noHelpElsewhere(await recordedView('no-such-resource', 'nope')) ?? '', /^no resource nope /);
    assert.match(noHelpElsewhere(NONE) ?? '', /^no cluster/);
    assert.match(noHelpElsewhere(SILENT) ?? '', /not known/);
  });

  it('names what is wrong with each other node', async () => {
    const view = await recordedView('healthy');
    const without = (changes: Partial<RunningCluster['nodes'][number]>) => ({
      ...view,
      nodes: view.nodes.map((node) => (node.name === 'node2' ? { ...node, ...changes } : node)).slice(0, 2),
    });
    const cases: [Partial<RunningCluster['nodes'][number]>, RegExp][] = [
      [{ online: false }, /node2 is offline/],
      [{ online: false, unclean: true }, /node2 is unclean/],
      [{ pending: true }, /node2 is joining/],
      [{ shutdown: true }, /node2 is shutting down/],
      [{ maintenance: true }, /node2 is in maintenance/],
      [{ standby: true }, /node2 is in standby/],
    ];
    for (const [changes, why] of cases) {
      assert.match(noHelpElsewhere(without(changes)) ?? '', why);
    }
    assert.equal(noHelpElsewhere(without({})), undefined);
    const attributes = new Map([['node2', new Map([['kvmha-preserved-g1', '1']])]]);
    assert.match(noHelpElsewhere({ ...without({}), attributes }) ?? '', /node2 keeps a preserved copy/);
    assert.match(noHelpElsewhere({ ...view, nodes: view.nodes.slice(0, 1) }) ?? '', /no other node$/);
  });

  it('lets a cluster that ignores quorum help', async () => {
    const view = { ...(await recordedView('healthy')), quorum: false };
    assert.match(noHelpElsewhere(view) ?? '', /no quorum/);
    assert.equal(noHelpElsewhere({ ...view, noQuorumPolicy: 'ignore' }), undefined);
    assert.match(noHelpElsewhere({ ...view, quorum: true, stopAllResources: true }) ?? '', /stop all/);
  });

  it("counts the scheduler's word, but not its silence", async () => {
    const view = await recordedView('healthy');
    assert.equal(noHelpElsewhere(view, { kind: 'nowhere', why: 'no room' }), 'no room');
    assert.equal(noHelpElsewhere(view, { kind: 'unknown', why: 'late' }), undefined);
    assert.equal(noHelpElsewhere(view, { kind: 'node', node: 'node2' }), undefined);
  });
});

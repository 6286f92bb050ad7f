import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { nodesWithPreserved, parseClusterView, readCluster } from '../../../lib/cluster/cluster-view.ts';
import { Deadline } from '../../../lib/deadline.ts';
import { recorded, recordedAnswer, recordedView } from './recorded.ts';
import { HEALTHY_NODE, STARTED_RESOURCE } from './views.ts';

describe('parseClusterView', () => {
  it('reads a healthy cluster', async () => {
    assert.deepEqual(await recordedAnswer('healthy'), {
      kind: 'cluster',
      localNode: 'node1',
      hasController: true,
      quorum: true,
      noQuorumPolicy: 'stop',
      stonithEnabled: false,
      maintenanceMode: false,
      stopAllResources: false,
      nodes: ['node1', 'node2', 'node3'].map((name) => ({ name, ...HEALTHY_NODE })),
      resourceId: 'g1',
      resource: STARTED_RESOURCE,
      attributes: new Map(),
    });
  });

  it('reads what is wrong with the nodes', async () => {
    const flags = async (recording: string, name: string) => {
      const node = (await recordedView(recording)).nodes.find((each) => each.name === name);
      return Object.entries(node ?? {}).flatMap(([key, value]) =>
        value === (key !== 'online') && key !== 'name' ? [key] : [],
      );
    };
    assert.deepEqual(await flags('standby', 'node1'), ['standby']);
    assert.deepEqual(await flags('others-in-standby', 'node3'), ['standby']);
    assert.deepEqual(await flags('node-maintenance', 'node1'), ['maintenance']);
    assert.deepEqual(await flags('shutting-down', 'node1'), ['shutdown']);
    assert.deepEqual(await flags('node-offline', 'node2'), ['online']);
    assert.deepEqual(await flags('node-unclean', 'node2'), ['online', 'unclean']);
  });

  it('reads what is wrong with the cluster', async () => {
    const maintained = await recordedView('cluster-maintenance');
    assert.equal(maintained.maintenanceMode, true);
    assert.equal(maintained.resource?.managed, false);
    const minority = await recordedView('no-quorum');
    assert.equal(minority.hasController, true);
    assert.equal(minority.quorum, false);
    const electing = await recordedView('no-controller');
    assert.equal(electing.hasController, false);
    assert.equal(electing.quorum, false);
  });

  it('reads the state of the resource', async () => {
    const resource = async (recording: string) => (await recordedView(recording)).resource;
    assert.equal((await resource('unmanaged'))?.managed, false);
    assert.equal((await resource('resource-maintenance'))?.managed, false);
    assert.equal((await resource('orphaned'))?.orphaned, true);
    assert.equal((await resource('blocked'))?.blocked, true);
    const stopped = await resource('stopped');
    assert.deepEqual(stopped?.activeOn, []);
    assert.equal(stopped?.targetRole, 'Stopped');
  });

  it('finds the resource in groups and clones, and none that is not there', async () => {
    const member = (await recordedView('group-member', 'ip2')).resource;
    assert.deepEqual(member?.collective, { kind: 'group', id: 'grp2' });
    assert.deepEqual(member?.activeOn, ['node1']);
    const anonymous = (await recordedView('clone', 'c1')).resource;
    assert.deepEqual(anonymous?.collective, { kind: 'clone', id: 'cl1' });
    assert.deepEqual([...(anonymous?.activeOn ?? [])].sort(), ['node1', 'node2', 'node3']);
    assert.equal((await recordedView('clone', 'c1:0')).resource?.role, 'Started');
    const unique = (await recordedView('unique-clone', 'u1:1')).resource;
    assert.deepEqual(unique?.collective, { kind: 'clone', id: 'clu1' });
    assert.equal(unique?.activeOn.length, 1);
    assert.equal((await recordedView('no-such-resource', 'nope')).resource, undefined);
  });

  it('finds it in a bundle, and in a group of a clone', async () => {
    const resources = `
      <bundle id="b"><replica id="0"><resource id="b-ip" managed="true"/>
        <resource id="g" managed="true"><node name="n"/></resource></replica></bundle>
      <clone id="c"><group id="grp"><resource id="h" managed="true"><node name="m"/></resource></group></clone>`;
    const xml = recorded('healthy').replace('<resources>', `<resources>${resources}`);
    const find = async (id: string) => {
      const view = await parseClusterView(xml, id, 'n');
      return view.kind === 'cluster' ? view.resource?.collective : view;
    };
    assert.deepEqual(await find('g'), { kind: 'bundle', id: 'b' });
    assert.deepEqual(await find('h'), { kind: 'clone', id: 'c' });
  });

  it('reads the attributes of the nodes', async () => {
    const view = await recordedView('preserved-on-node2');
    const attributes = view.attributes.get('node2');
    assert.equal(attributes?.get('kvmha-preserved-g1'), '1');
    assert.equal(attributes?.get('kvmha-fault-g1'), "I/O error <vda> & 'more'");
    assert.deepEqual(nodesWithPreserved(view), ['node2']);
    assert.deepEqual(nodesWithPreserved(await recordedView('healthy')), []);
  });

  it('takes anything else for silence', async () => {
    for (const text of [
      '',
      'crm_mon: what?',
      '<html/>',
      recorded('healthy').slice(0, 900),
      recorded('no-cluster'),
    ]) {
      const view = await parseClusterView(text, 'g1', 'node1');
      assert.equal(view.kind, 'silent', text);
    }
  });
});

describe('readCluster', () => {
  it('does not throw where no cluster runs, or no time is left', async () => {
    // Where the tests run there is no cluster, or not even its software.
    assert.equal((await readCluster('g1', Deadline.in(5_000))).kind, 'none');
    assert.equal((await readCluster('g1', Deadline.in(0))).kind, 'silent');
  });
});

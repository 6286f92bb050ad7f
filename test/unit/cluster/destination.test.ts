import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { bannedId, parseDestination, withBans } from '../../../lib/cluster/destination.ts';
import { recorded, recordedView } from './recorded.ts';

const place = (xml: string) => /<node name="(node\d)"/.exec(xml.slice(xml.indexOf('<resources>')))?.[1];

async function destination(recording: string, resource = 'g1', node = 'node1') {
  const view = await recordedView(recording, resource, node);
  return parseDestination(recorded(`${recording}.what-if`), view);
}

describe('parseDestination', () => {
  it('is the node to which the scheduler would move the resource', async () => {
    assert.deepEqual(await destination('healthy'), { kind: 'node', node: 'node2' });
    assert.deepEqual(await destination('group-member', 'ip2'), { kind: 'node', node: 'node2' });
    assert.deepEqual(await destination('node-offline'), { kind: 'node', node: 'node3' });
    assert.deepEqual(await destination('preserved-on-node2'), { kind: 'node', node: 'node3' });
  });

  it('is known while another node is to be fenced', async () => {
    assert.deepEqual(await destination('node-unclean'), { kind: 'node', node: 'node3' });
  });

  it('follows an instance of a globally unique clone', async () => {
    const here = place(recorded('unique-clone')) ?? '';
    const found = await destination('unique-clone', 'u1:1', here);
    assert.ok(found.kind === 'node' && found.node !== here, JSON.stringify(found));
  });

  it('is nowhere when no node is left', async () => {
    for (const recording of ['banned-elsewhere', 'others-in-standby']) {
      assert.deepEqual(await destination(recording), {
        kind: 'nowhere',
        why: 'the cluster would run g1 on no other node (node availability)',
      });
    }
    assert.match(JSON.stringify(await destination('clone', 'c1')), /run c1 on no other node/);
  });

  it('is nowhere when the scheduler would do nothing', async () => {
    assert.deepEqual(await destination('unmanaged'), {
      kind: 'nowhere',
      why: 'the cluster would not move g1',
    });
    assert.equal((await destination('no-quorum')).kind, 'nowhere');
    const view = await recordedView('healthy', 'g1', 'node2');
    const idle = '<pacemaker-result><actions/></pacemaker-result>';
    assert.match(JSON.stringify(await parseDestination(idle, view)), /leave g1 where it is, on node1/);
  });

  it('is nowhere when the start is blocked', async () => {
    const view = await recordedView('healthy');
    const action =
      '<rsc_action action="move" resource="g1" source="node1" dest="node2" reason="no quorum" blocked="true"/>';
    const xml = `<pacemaker-result><actions>${action}</actions></pacemaker-result>`;
    assert.deepEqual(await parseDestination(xml, view), {
      kind: 'nowhere',
      why: 'a start of g1 on node2 is blocked (no quorum)',
    });
  });

  it('is the node of a start when the resource runs nowhere', async () => {
    const view = await recordedView('stopped');
    const xml =
      '<pacemaker-result><actions><rsc_action action="start" resource="g1" node="node3"/></actions></pacemaker-result>';
    assert.deepEqual(await parseDestination(xml, view), { kind: 'node', node: 'node3' });
  });

  it('is the node of a recovery when the cluster takes the resource for active on both of its nodes', async () => {
    const view = await recordedView('healthy');
    const recovery = (node: string) =>
      `<pacemaker-result><actions><rsc_action action="recover" resource="g1" node="${node}" reason="being multiply active"/></actions></pacemaker-result>`;
    assert.deepEqual(await parseDestination(recovery('node3'), view), { kind: 'node', node: 'node3' });
    assert.equal((await parseDestination(recovery('node1'), view)).kind, 'nowhere');
  });

  it('refuses what crm_simulate does not print', async () => {
    const view = await recordedView('healthy');
    await assert.rejects(parseDestination('<cib/>', view), { code: 'malformed' });
    await assert.rejects(parseDestination('', view), { code: 'malformed' });
  });
});

describe('bannedId', () => {
  it('is the clone as a whole, but the member of a group', async () => {
    assert.equal(bannedId(await recordedView('healthy')), 'g1');
    assert.equal(bannedId(await recordedView('group-member', 'ip2')), 'ip2');
    assert.equal(bannedId(await recordedView('clone', 'c1')), 'cl1');
    assert.equal(bannedId(await recordedView('unique-clone', 'u1:1')), 'clu1');
  });
});

describe('withBans', () => {
  const ban = '<rsc_location id="kvmha-what-if-0" rsc="g1" node="a&#38;b&#34;" score="-INFINITY"/>';

  it('adds constraints where there are some and where there are none', () => {
    assert.equal(
      withBans('<c><constraints>\n<x/></constraints></c>', 'g1', ['a&b"']),
      `<c><constraints>\n<x/>${ban}</constraints></c>`,
    );
    assert.equal(
      withBans('<c><constraints/></c>', 'g1', ['a&b"']),
      `<c><constraints>${ban}</constraints></c>`,
    );
  });

  it('refuses a configuration without a place for them', () => {
    assert.throws(() => withBans('<cib/>', 'g1', ['n']), { code: 'malformed' });
  });
});

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { elsewhereInView, startedElsewhere } from '../../../lib/cluster/elsewhere.ts';
import { parseXml } from '../../../lib/cluster/xml.ts';
import { recordedView } from './recorded.ts';

describe('elsewhereInView', () => {
  it('is nothing only while the cluster can start nothing and everything about it is known', async () => {
    assert.equal(elsewhereInView(await recordedView('unmanaged')), undefined);
    assert.equal(elsewhereInView(await recordedView('cluster-maintenance')), undefined);
  });

  it('is whatever leaves it open where the guest runs or will run', async () => {
    const cases: [recording: string, why: RegExp][] = [
      ['healthy', /may start g1 on another node at any moment.*crm resource unmanage g1/],
      ['stopped', /may start g1 on another node at any moment/],
      ['no-quorum', /no quorum/],
      ['no-controller', /no controller/],
      ['node-unclean', /is unclean/],
    ];
    for (const [recording, why] of cases) {
      assert.match(elsewhereInView(await recordedView(recording)) ?? '', why, recording);
    }
    const view = await recordedView('unmanaged');
    const { resource } = view;
    assert.ok(resource);
    const on = (more: Partial<typeof resource>) => ({ ...view, resource: { ...resource, ...more } });
    assert.match(elsewhereInView(on({ activeOn: ['node1', 'node2'] })) ?? '', /has g1 on node2/);
    assert.match(elsewhereInView(on({ role: 'Starting' })) ?? '', /about to change g1 \(Starting\)/);
    const nodes = view.nodes.map((node) => ({ ...node, pending: node.name === 'node2' }));
    assert.match(elsewhereInView({ ...view, nodes }) ?? '', /node2 is joining/);
    assert.match(elsewhereInView({ ...view, resource: undefined }) ?? '', /no resource g1/);
  });
});

describe('startedElsewhere', () => {
  const SINCE = new Date('2026-11-25T12:00:00Z');

  /** As cibadmin prints the history of one operation on a node. */
  async function story(
    node: string,
    operation: string,
    more: Record<string, string> = {},
    resource = 'g1',
  ): Promise<string | undefined> {
    const attributes = { 'rc-code': '0', 'op-status': '0', 'last-rc-change': secondsAt(60), ...more };
    const words = Object.entries(attributes).map(([name, value]) => `${name}="${value}"`);
    const text = `<xpath-query><node_state uname="${node}"><lrm><lrm_resources><lrm_resource id="${resource}">
      <lrm_rsc_op id="x" operation="${operation}" ${words.join(' ')}/>
    </lrm_resource></lrm_resources></lrm></node_state></xpath-query>`;
    return startedElsewhere(await parseXml(text), await recordedView('unmanaged'), SINCE);
  }

  function secondsAt(after: number): string {
    return String(SINCE.getTime() / 1000 + after);
  }

  it('is every start, migration and running guest on another node since, however it ended', async () => {
    for (const operation of ['start', 'migrate_from', 'migrate_to', 'monitor']) {
      assert.match((await story('node2', operation)) ?? '', /of g1 on node2 at 2026-11-25T12:01:00.000Z/);
    }
    assert.ok(await story('node2', 'start', { 'rc-code': '1' }));
    assert.ok(await story('node2', 'start', { 'rc-code': '193', 'op-status': '-1' }));
    assert.ok(await story('node2', 'monitor', { 'rc-code': '190' }));
    assert.ok(await story('node2', 'start', {}, 'g1:1'));
    assert.ok(await story('node2', 'start', { 'last-rc-change': '' }));
    assert.ok(await story('node2', 'start', { 'last-rc-change': secondsAt(-59) }), 'clocks differ');
  });

  it('is not what was before, what found nothing, what is here, and what is of another resource', async () => {
    assert.equal(await story('node2', 'start', { 'last-rc-change': secondsAt(-3600) }), undefined);
    assert.equal(await story('node2', 'monitor', { 'rc-code': '7' }), undefined);
    assert.equal(await story('node2', 'stop'), undefined);
    assert.equal(await story('node1', 'start'), undefined);
    assert.equal(await story('node2', 'start', {}, 'g11'), undefined);
  });
});

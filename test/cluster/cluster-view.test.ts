import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, describe, it, type TestContext } from 'node:test';
import { Deadline } from '../../lib/deadline.ts';
import { Lab, type LabNode } from '../lab/client.ts';

const CONFIGURATION = `\
property stonith-enabled=false
rsc_defaults resource-stickiness=10
primitive guest ocf:heartbeat:Dummy op monitor interval=10s meta migration-threshold=1
primitive member ocf:heartbeat:Dummy
primitive follower ocf:heartbeat:Dummy
group together member follower
primitive twin ocf:heartbeat:Dummy
clone twins twin meta globally-unique=true clone-max=2
primitive slow ocf:pacemaker:Dummy params op_sleep=5 op monitor interval=60s meta migration-threshold=1
location prefer guest 50: node1
location placement guest rule -inf: kvmha-preserved-guest eq 1
`;

describe('a cluster of three nodes', () => {
  let lab: Lab;
  let node1: LabNode;
  let node2: LabNode;

  before(async () => {
    lab = await Lab.up({ nodes: 3, cluster: true });
    [node1, node2] = [lab.node(1), lab.node(2)];
    await node1.check(['crm', 'configure', 'load', 'update', '-'], { input: CONFIGURATION });
    await settled();
  });
  after(() => lab?.down());

  /** Calls a function of lib/cluster on a node. */
  async function call(node: LabNode, name: string, ...args: unknown[]) {
    return (await timed(node, 10_000, name, ...args)).result;
  }

  async function timed(node: LabNode, milliseconds: number, name: string, ...args: unknown[]) {
    const script = join(import.meta.dirname, 'call.ts');
    const json = args.map((each) => JSON.stringify(each));
    return JSON.parse(await node.check([process.execPath, script, name, String(milliseconds), ...json]));
  }

  const settled = () => node1.check(['crm_resource', '--wait']);

  async function placeOf(resource: string): Promise<string> {
    const said = await node1.check(['crm_resource', '--resource', resource, '--locate']);
    return /is running on: (\S+)/.exec(said)?.[1] ?? said;
  }

  async function epoch(): Promise<string | undefined> {
    return /epoch="(\d+)"/.exec(await node1.check(['cibadmin', '--query']))?.[1];
  }

  const crm = (...args: string[]) => node1.check(['crm', ...args]);

  it('tells of itself and the resource, and which node this is', async (t) => {
    const view = await call(node1, 'readCluster', 'guest');
    assert.equal(view.kind, 'cluster');
    assert.equal(view.localNode, 'node1');
    assert.equal(view.quorum, true);
    assert.deepEqual(view.resource.activeOn, ['node1']);
    assert.equal(view.nodes.length, 3);
    const elsewhere = await call(node2, 'readCluster', 'guest');
    assert.equal(elsewhere.localNode, 'node2');
    const { milliseconds } = await timed(node1, 10_000, 'readCluster', 'guest', 'node1');
    t.diagnostic(`readCluster took ${milliseconds} ms, the libraries' loading included`);
  });

  it('finds where the resource would go, and changes nothing for it', async (t) => {
    const before = await epoch();
    const { result, milliseconds } = await timed(node1, 10_000, 'judge', 'guest');
    assert.equal(result.hindrance, undefined);
    assert.equal(result.noHelp, undefined);
    assert.equal(result.destination.kind, 'node');
    assert.notEqual(result.destination.node, 'node1');
    t.diagnostic(`the whole judgement took ${milliseconds} ms`);
    assert.equal(await epoch(), before);
    for (const directory of ['/var/lib/pacemaker/cib', '/run/kvmha']) {
      assert.doesNotMatch(await node1.check(['ls', directory]), /shadow/);
    }
  });

  it('moves a group with its member, and an instance of a globally unique clone', async () => {
    for (const resource of ['member', 'follower', 'twin:0', 'twin:1']) {
      const place = await placeOf(resource);
      const { destination } = await call(lab.node(place), 'judge', resource);
      assert.equal(destination.kind, 'node', JSON.stringify({ resource, place, destination }));
      assert.notEqual(destination.node, place);
    }
  });

  it('finds no place when constraints, capacity or a preserved copy leave none', async (t: TestContext) => {
    const nowhere = async (message: string) => {
      const { destination, noHelp } = await call(node1, 'judge', 'guest');
      assert.equal(destination.kind, 'nowhere', message);
      assert.equal(noHelp, destination.why);
    };
    await crm('configure', 'location', 'never2', 'guest', '-inf:', 'node2');
    const { destination } = await call(node1, 'judge', 'guest');
    assert.deepEqual(destination, { kind: 'node', node: 'node3' });
    await crm('configure', 'location', 'never3', 'guest', '-inf:', 'node3');
    await nowhere('banned from every other node');
    await crm('configure', 'delete', 'never3');
    // Its location rule would keep it away; where none is configured, the start would be refused.
    await crm('configure', 'delete', 'placement');
    assert.equal((await call(lab.node(3), 'markPreserved', 'guest', 'test')).kind, 'done');
    const marked = await call(node1, 'judge', 'guest');
    assert.equal(marked.destination.kind, 'nowhere', 'the other node keeps a preserved copy');
    t.diagnostic(marked.noHelp);
    await call(lab.node(3), 'clearPreserved', 'guest');
    await crm('configure', 'delete', 'never2');
    await crm(
      'configure',
      'location',
      'placement',
      'guest',
      'rule',
      '-inf:',
      'kvmha-preserved-guest',
      'eq',
      '1',
    );

    await node1.check(['crm_resource', '-r', 'guest', '--utilization', '-p', 'cpu', '-v', '4']);
    for (const [name, cpus] of [
      ['node1', 8],
      ['node2', 2],
      ['node3', 2],
    ] as const) {
      await node1.check(['crm_attribute', '-N', name, '--utilization', '-n', 'cpu', '-v', String(cpus)]);
    }
    await crm('configure', 'property', 'placement-strategy=utilization');
    await nowhere('too small');
    await crm('configure', 'property', 'placement-strategy=default');
    await node1.check(['crm_resource', '-r', 'guest', '--utilization', '-d', 'cpu']);

    await crm('configure', 'property', 'symmetric-cluster=false');
    await nowhere('an opt-in cluster');
    await crm('configure', 'property', 'symmetric-cluster=true');
    assert.equal((await call(node1, 'judge', 'guest')).destination.kind, 'node');
  });

  it('marks a node, which keeps the resource away until the mark is cleared', async () => {
    assert.equal(await placeOf('guest'), 'node1');
    assert.deepEqual(await call(node1, 'isMarked', 'guest', 'node1'), { kind: 'not-marked' });
    const fault = `I/O error: <"vda" & 'vdb'> gestört\n`;
    assert.deepEqual(await call(node1, 'markPreserved', 'guest', fault), { kind: 'done' });
    await Deadline.in(10_000).poll(100, async () => (await placeOf('guest')) !== 'node1' || undefined);
    await settled();
    assert.notEqual(await placeOf('guest'), 'node1');
    assert.deepEqual(await call(node1, 'isMarked', 'guest', 'node1'), { kind: 'marked' });
    assert.deepEqual(await call(node1, 'isMarked', 'guest', 'node2'), { kind: 'not-marked' });
    const shown = await node1.check(['crm_mon', '--one-shot', '--show-node-attributes']);
    assert.match(shown, /kvmha-fault-guest\s+: I\/O error: <"vda" & 'vdb'> gest\?rt/);

    assert.deepEqual(await call(node1, 'clearPreserved', 'guest', 'node1'), { kind: 'done' });
    assert.deepEqual(await call(node1, 'clearPreserved', 'guest', 'node1'), { kind: 'done' });
    await Deadline.in(10_000).poll(100, async () => (await placeOf('guest')) === 'node1' || undefined);
    await settled();
    assert.equal(await placeOf('guest'), 'node1');
    assert.deepEqual(await call(node1, 'isMarked', 'guest', 'node1'), { kind: 'not-marked' });
    assert.doesNotMatch(await node1.check(['crm_mon', '-1', '-A']), /kvmha/);
  });

  it('fails the resource over on request, but only where it runs', async () => {
    const refused = await call(node1, 'requestFailover', 'guest', 'node2');
    assert.equal(refused.kind, 'failed');
    assert.doesNotMatch(await node1.check(['crm_mon', '-1', '--failcounts']), /fail-count=/);
    assert.deepEqual(await call(node2, 'requestFailover', 'guest', 'node1'), { kind: 'done' });
    await Deadline.in(10_000).poll(100, async () => (await placeOf('guest')) !== 'node1' || undefined);
    await settled();
    assert.notEqual(await placeOf('guest'), 'node1');
    await node1.check(['crm_resource', '--cleanup', '-r', 'guest']);
    await settled();
  });

  it('knows where the resource would go while it is being stopped, too', async () => {
    const place = await placeOf('slow');
    await call(node1, 'requestFailover', 'slow', place);
    const view = await Deadline.in(10_000).poll(50, async () => {
      const seen = await call(lab.node(place), 'readCluster', 'slow', place);
      return seen.resource.role === 'Stopping' ? seen : undefined;
    });
    assert.ok(view, 'it never was seen stopping');
    const { destination, hindrance, noHelp } = await call(lab.node(place), 'judge', 'slow');
    assert.equal(destination.kind, 'node', JSON.stringify(destination));
    assert.equal(noHelp, undefined);
    assert.equal(hindrance, undefined);
    await settled();
    assert.equal(await placeOf('slow'), destination.node);
  });

  it('sets utilization once, of the primitive of a clone, too', async () => {
    const cache = (resource: string) => `/run/utilization-${resource}`;
    const query = async (resource: string, name: string) =>
      (await node1.check(['crm_resource', '-r', resource, '--utilization', '-g', name])).trim();
    for (const resource of ['guest', 'member', 'twin:0']) {
      const wanted = { cpu: 3, host_memory: 640, hv_memory: null };
      assert.equal((await call(node1, 'setUtilization', resource, wanted, cache(resource))).kind, 'done');
      assert.equal(await query(resource, 'cpu'), '3');
      assert.equal(await query(resource, 'host_memory'), '640');
      const before = await epoch();
      assert.deepEqual(await call(node1, 'setUtilization', resource, wanted, cache(resource)), {
        kind: 'done',
        changed: [],
      });
      assert.equal(await epoch(), before);
      const less = { cpu: null, host_memory: null };
      assert.deepEqual(await call(node1, 'setUtilization', resource, less, cache(resource)), {
        kind: 'done',
        changed: ['cpu', 'host_memory'],
      });
      assert.equal(await query(resource, 'cpu'), '');
    }
    assert.equal((await call(node1, 'setUtilization', 'nothing', { cpu: 1 }, '/run/u')).kind, 'failed');
  });

  it('is silent while its daemons hang', async () => {
    await node2.check(['pkill', '-STOP', '-f', 'pacemaker-based']);
    try {
      const { result } = await timed(node2, 1_000, 'readCluster', 'guest', 'node2');
      assert.equal(result.kind, 'silent');
    } finally {
      await node2.check(['pkill', '-CONT', '-f', 'pacemaker-based']);
    }
    await node2.check(['pkill', '-STOP', '-f', 'pacemaker-attrd']);
    try {
      const { result } = await timed(node2, 1_000, 'isMarked', 'guest', 'node2');
      assert.equal(result.kind, 'silent');
    } finally {
      await node2.check(['pkill', '-CONT', '-f', 'pacemaker-attrd']);
    }
  });

  it('is none where its software does not run', async () => {
    await node2.check(['systemctl', 'stop', 'pacemaker']);
    assert.equal((await call(node2, 'readCluster', 'guest')).kind, 'none');
    assert.equal((await call(node2, 'markPreserved', 'guest', 'x')).kind, 'none');
    assert.equal((await call(node2, 'clearPreserved', 'guest')).kind, 'none');
    assert.equal((await call(node2, 'isMarked', 'guest', 'node2')).kind, 'none');
    assert.equal((await call(node2, 'requestFailover', 'guest', 'node1')).kind, 'none');
    assert.equal((await call(node2, 'setUtilization', 'guest', { cpu: 1 }, '/run/u')).kind, 'none');
    const { hindrance, noHelp } = await call(node2, 'judge', 'guest');
    assert.equal(hindrance, undefined);
    assert.match(noHelp, /^no cluster would start it elsewhere/);
    // A mark does not outlive the cluster software on its node, so that a probe must set it again.
    await node2.check(['systemctl', 'start', 'pacemaker']);
    await lab.waitForCluster();
    assert.equal((await call(node2, 'markPreserved', 'guest', 'x')).kind, 'done');
    await node2.check(['systemctl', 'stop', 'pacemaker']);
    await node2.check(['systemctl', 'start', 'pacemaker']);
    await lab.waitForCluster();
    assert.deepEqual(await call(node2, 'isMarked', 'guest', 'node2'), { kind: 'not-marked' });
  });
});

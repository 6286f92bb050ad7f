import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { after, before, describe, it, type TestContext } from 'node:test';
import { isComplete } from '../../lib/quiesce/proof.ts';
import type { LabNode } from '../lab/client.ts';
import { block, changed } from '../support/documentation.ts';
import { journal, Watch } from '../support/watch.ts';
import { scriptedAgent } from './scripted-agent.ts';
import { Cluster, type ClusterGuest } from './support.ts';

/** No monitor comes within the test but the one that follows a start: what is noticed later, the watcher has heard. */
const monitor = '600s';

/** For the memory's monitors: an error in data that was just to be used (SRAR, Intel SDM, volume 3). */
const ACTION_REQUIRED = 'mce 0 9 0xbd80000000000134 0x7 0x1000 0x8c';

/** An agent whose stop takes as long as a file is there. */
const GATE = '/usr/lib/ocf/resource.d/kvmhatest/Gate';
const GATE_AGENT = scriptedAgent('Gate', 'while [ -e /run/gate ]; do sleep 0.1; done');

describe('a cluster with a watcher on every node', () => {
  let cluster: Cluster;

  before(async () => {
    cluster = await Cluster.up();
    for (const node of cluster.lab.nodes) {
      node.write('/etc/kvmha/policy.yaml', 'quiesce: { storm: { guests: 100, seconds: 60 } }\n');
    }
    await cluster.sh(
      changed(block('README.md', 'crm configure primitive kvm-watch'), [['interval=30s', 'interval=2s']]),
    );
  });
  after(() => cluster?.down());

  async function hmp(node: LabNode, guest: ClusterGuest, command: string): Promise<void> {
    await node.check(['virsh', 'qemu-monitor-command', '--hmp', guest.name, command]);
  }

  const others = (node: LabNode) => cluster.lab.nodes.filter(({ name }) => name !== node.name);

  /** Raises a fault, and waits until the guest runs elsewhere, for the watcher's sake. */
  async function failsOver(
    t: TestContext,
    guest: ClusterGuest,
    fault: RegExp,
    raise: (node: LabNode) => Promise<unknown>,
  ) {
    const { name } = guest;
    const node = await guest.runsOn();
    const pids = await guest.pids(node);
    await new Watch(node).follows(name);
    await raise(node);
    const raised = Date.now();
    await guest.runsOn(...others(node));
    assert.deepEqual(await guest.pids(node), pids, 'the first qemu is there, and only it');
    const seen = await guest.look(node);
    assert.equal(seen.state, 'quiesced-failover-safe', JSON.stringify(seen));
    assert.ok(isComplete(seen.proof), JSON.stringify(seen.proof));
    const proofs = journal(node, name).filter(({ what }) => what === 'proved');
    assert.deepEqual(
      proofs.map(({ by }) => by),
      ['watcher'],
    );
    assert.deepEqual(await cluster.history(name, node.name), ['monitor 0', 'asyncmon 1', 'stop 0']);
    const attributes = (await cluster.view(name)).attributes.get(node.name);
    assert.equal(attributes?.get(`kvmha-preserved-${name}`), '1');
    const reason = attributes?.get(`kvmha-fault-${name}`) ?? '';
    assert.match(reason, fault);
    assert.ok((await cluster.shown()).replace(/\s+:/g, ':').includes(`kvmha-fault-${name}: ${reason}`));
    const writers = await guest.judge();
    assert.equal(writers.length, 2);
    t.diagnostic(`${name}: first write elsewhere ${(writers[1]?.since ?? 0) - raised} ms after the fault`);
    // One call of crm_resource --fail: Pacemaker 2.1.5 counts it twice, as it finds it in two entries of its history.
    assert.ok([1, 2].includes(await cluster.failCount(name, node.name)));
  }

  it('has a guest started elsewhere as soon as its QEMU tells of a fault, before any monitor', async (t) => {
    const [io, dog, memory] = await cluster.startGuests([
      ['io', { prefers: ['node1'], monitor }],
      ['dog', { prefers: ['node2'], monitor, domain: { watchdog: 'pause' }, settings: { watchdog: true } }],
      ['memory', { prefers: ['node3'], monitor }],
    ]);
    const faults: [ClusterGuest, fault: RegExp, raise: (node: LabNode) => Promise<unknown>][] = [
      [io, /^io-error$/, async (node) => io.fault(node).set('W', io.disk)],
      [dog, /^watchdog$/, (node) => dog.press(node, 'h')],
      [
        memory,
        /^memory failure/,
        async (node) => {
          await memory.press(node, 'm');
          await memory.ticks();
          await hmp(node, memory, ACTION_REQUIRED);
        },
      ],
    ];
    await Promise.all(faults.map(([guest, fault, raise]) => failsOver(t, guest, fault, raise)));
    assert.deepEqual(cluster.fenced(), []);
  });

  const noKvm = !existsSync('/dev/kvm') && 'there is no /dev/kvm';
  it('has a guest that KVM cannot go on with started elsewhere, of which QEMU has no event', {
    skip: noKvm,
  }, async (t) => {
    const [erring] = await cluster.startGuests([
      ['erring', { prefers: ['node1'], monitor, domain: { type: 'kvm' } }],
    ]);
    await failsOver(t, erring, /^internal-error$/, (node) => erring.press(node, 'i'));
    assert.deepEqual(cluster.fenced(), []);
  });

  /** Lets a fault hit a guest, kills the watcher as soon as `when` is there, and waits until the guest runs elsewhere. */
  async function survivesItsWatcher(
    guest: ClusterGuest,
    raise: (node: LabNode) => unknown,
    when: (node: LabNode) => Promise<boolean>,
    proceed: (node: LabNode) => Promise<unknown>,
  ): Promise<readonly { readonly proved: boolean; readonly byFirst: boolean }[]> {
    const { name } = guest;
    const node = await guest.runsOn();
    const watch = new Watch(node);
    await watch.follows(name);
    const first = await watch.tryStatus();
    assert.ok(first);
    await raise(node);
    await cluster.until('the moment has come', async () => (await when(node)) || undefined);
    await cluster.sh(`kill -9 ${first.watcher.pid}`, node);
    await proceed(node);
    await guest.runsOn(...others(node));
    assert.equal((await guest.look(node)).state, 'quiesced-failover-safe');
    assert.equal((await guest.judge()).length, 2);
    assert.deepEqual(cluster.fenced(), []);
    return journal(node, name)
      .filter(({ what, action }) => what === 'proved' || action === 'fail-over')
      .map(({ what, by, pid }) => {
        assert.equal(by, 'watcher');
        return { proved: what === 'proved', byFirst: pid === first.watcher.pid };
      });
  }

  it('has a quiesce finished by the next watcher when the first is killed in the middle of it', async () => {
    const [guest] = await cluster.startGuests([['unlucky', { prefers: ['node1'], monitor }]]);
    const done = await survivesItsWatcher(
      guest,
      // QEMU hangs when it opens what is to take the place of the guest's disk.
      (node) =>
        guest.fault(node).setAll([
          ['W', guest.disk],
          ['HR', 'kvmha-sentinel'],
        ]),
      async (node) =>
        guest
          .fault(node)
          .hits()
          .some((hit) => hit.includes('kvmha-sentinel')),
      async (node) => guest.fault(node).set('W', guest.disk),
    );
    assert.deepEqual(done, [
      { proved: true, byFirst: false },
      { proved: false, byFirst: false },
    ]);
  });

  it('is told by the next watcher when the first is killed between the proof and the report', async () => {
    const [guest] = await cluster.startGuests([['unheard', { prefers: ['node2'], monitor }]]);
    const program = '/usr/sbin/crm_resource';
    const mute = `#!/bin/sh
case "$*" in *--fail*) touch /run/lab/failing; exec sleep 1000 ;; esac
exec ${program}.real "$@"
`;
    const done = await survivesItsWatcher(
      guest,
      async (node) => {
        await cluster.sh(`mv ${program} ${program}.real`, node);
        node.write(program, mute);
        await cluster.sh(`chmod 755 ${program}`, node);
        guest.fault(node).set('W', guest.disk);
      },
      async (node) => (await node.exec(['test', '-e', '/run/lab/failing'])).exitCode === 0,
      (node) => cluster.sh(`mv ${program}.real ${program}`, node),
    );
    assert.deepEqual(done, [
      { proved: true, byFirst: true },
      { proved: false, byFirst: false },
    ]);
  });

  /** Waits until the watcher has written down how its attempt to deal with a fault ended. */
  async function concludes(node: LabNode, guest: ClusterGuest): Promise<string> {
    const end = await cluster.until(`the watcher has dealt with ${guest.name}`, () =>
      journal(node, guest.name).find(({ by, action }) => by === 'watcher' && action === 'fail-over'),
    );
    assert.equal(end['outcome'], 'not-proved');
    return String(end['why']);
  }

  it('has a fault only written down while the cluster or the guest is not to be touched', async () => {
    const [unmanaged, serviced, maintained] = await cluster.startGuests([
      ['unmanaged', { prefers: ['node1'], monitor }],
      ['serviced', { prefers: ['node2'], monitor }],
      ['maintained', { prefers: ['node3'], monitor }],
    ]);
    const guests = [unmanaged, serviced, maintained];
    await cluster.settled();
    const nodes = await Promise.all(guests.map((guest) => guest.runsOn()));
    const [node1, node2, node3] = nodes as [LabNode, LabNode, LabNode];
    const stays = async (guest: ClusterGuest, node: LabNode, why: RegExp) => {
      // Pacemaker has ended the monitors by then, where it does, so that they begin anew afterwards.
      await cluster.settled();
      await new Watch(node).follows(guest.name);
      guest.fault(node).set('W', guest.disk);
      assert.match(await concludes(node, guest), why);
      assert.equal((await guest.look(node)).state, 'faulted');
      assert.deepEqual(await guest.places(), [node.name]);
      const { attributes } = await cluster.view(guest.name);
      assert.equal(attributes.get(node.name)?.get(`kvmha-preserved-${guest.name}`), undefined);
    };
    await cluster.sh('crm_resource --resource unmanaged --meta -p is-managed -v false');
    await stays(unmanaged, node1, /the resource unmanaged is unmanaged$/);
    await cluster.sh(`crm_attribute -N ${node2.name} -n maintenance -v true`);
    await stays(serviced, node2, new RegExp(`${node2.name} is in maintenance$`));
    await cluster.sh('crm_attribute -n maintenance-mode -v true');
    await stays(maintained, node3, /the cluster is in maintenance mode$/);

    // The monitors then find it. That of the unmanaged guest fails, and is acted on once it is managed.
    await cluster.sh('crm_attribute -n maintenance-mode -D');
    await maintained.runsOn(...others(node3));
    await cluster.sh(`crm_attribute -N ${node2.name} -n maintenance -D`);
    await serviced.runsOn(...others(node2));
    assert.equal((await unmanaged.look(node1)).state, 'faulted');
    await cluster.sh('crm_resource --resource unmanaged --meta -d is-managed');
    await unmanaged.runsOn(...others(node1));
    for (const [index, guest] of guests.entries()) {
      assert.equal((await guest.look(nodes[index] as LabNode)).state, 'quiesced-failover-safe');
      assert.equal((await guest.judge()).length, 2);
    }
    assert.deepEqual(cluster.fenced(), []);
  });

  it('has a fault left to the cluster while a node is emptied', async () => {
    for (const node of cluster.lab.nodes) {
      node.write(GATE, GATE_AGENT);
      await cluster.sh(`chmod 755 ${GATE}`, node);
    }
    // What the guest is ordered before stops first, and holds it all up until a file is gone.
    const [parked, leaving] = await cluster.startGuests([
      ['parked', { prefers: ['node2'], monitor }],
      ['leaving', { prefers: ['node3'], monitor }],
    ]);
    await cluster.configure(
      [parked, leaving]
        .map(
          ({ name }) => `\
primitive gate-${name} ocf:kvmhatest:Gate op stop timeout=120s interval=0
colocation gate-${name}-with-${name} inf: gate-${name} ${name}
order ${name}-before-gate ${name} gate-${name}
`,
        )
        .join(''),
    );
    await cluster.settled();
    // As a resource the watcher would be the first to leave such a node.
    await cluster.sh('crm resource stop kvm-watch-clone; crm_resource --wait');
    const node1 = cluster.node(1);
    const ways: [ClusterGuest, begin: (node: LabNode) => Promise<unknown>, why: RegExp][] = [
      [
        parked,
        (node) => cluster.sh(`crm_attribute -N ${node.name} -n standby -v on`, node1),
        /is in standby$/,
      ],
      [
        leaving,
        (node) => cluster.sh('systemctl stop pacemaker >/dev/null 2>&1 &', node),
        /is shutting down$/,
      ],
    ];
    for (const [guest, begin, why] of ways) {
      const node = await guest.runsOn();
      await using watch = new Watch(node);
      await watch.start();
      await watch.follows(guest.name);
      await cluster.sh('touch /run/gate', node);
      await begin(node);
      await cluster.until('the node is being emptied', async () => {
        const seen = (await cluster.view(guest.name)).nodes.find(({ name }) => name === node.name);
        return seen?.standby || seen?.shutdown || undefined;
      });
      guest.fault(node).set('W', guest.disk);
      assert.match(await concludes(node, guest), why);
      assert.equal((await guest.look(node)).state, 'faulted');
      await cluster.sh('rm /run/gate', node);
      await guest.runsOn(...others(node));
      assert.equal((await guest.look(node)).state, 'quiesced-failover-safe');
      assert.equal((await guest.judge()).length, 2);
    }
    assert.deepEqual(cluster.fenced(), []);
  });
});

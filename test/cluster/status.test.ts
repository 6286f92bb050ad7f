import assert from 'node:assert/strict';
import { once } from 'node:events';
import { after, before, describe, it } from 'node:test';
import type { Output } from '../../lib/run.ts';
import type { LabNode } from '../lab/client.ts';
import { readExposition } from '../support/exposition.ts';
import { noSsh, SshServer } from '../support/ssh.ts';
import { noTerminal, Terminal } from '../support/terminal.ts';
import { Cluster, type ClusterGuest, WATCHERS } from './support.ts';

describe('the command in a cluster, with a guest preserved on the other node', () => {
  let cluster: Cluster;
  let node1: LabNode;
  let node2: LabNode;
  let web: ClusterGuest;
  let db: ClusterGuest;

  before(async () => {
    cluster = await Cluster.up({ nodes: 2 });
    [node1, node2] = [cluster.node(1), cluster.node(2)];
    await cluster.configure(WATCHERS);
    [web, db] = await cluster.startGuests([
      ['web', { prefers: ['node1'] }],
      ['db', { prefers: ['node2'] }],
    ]);
    await cluster.settled();
  });
  after(() => cluster?.down());

  const kvmha = (node: LabNode, ...words: string[]) => node.exec(['kvmha', ...words]);

  /** Waits until the command exits with `code` and says all this. */
  async function says(node: LabNode, words: string[], code: number, ...said: RegExp[]): Promise<Output> {
    let last: Output | undefined;
    return cluster.until(
      `kvmha ${words.join(' ')} on ${node.name} exits ${code} with ${said.join(', ')}`,
      async () => {
        last = await kvmha(node, ...words);
        const text = `${last.stdout}${last.stderr}`;
        return last.exitCode === code && said.every((each) => each.test(text)) ? last : undefined;
      },
      () => JSON.stringify(last),
    );
  }

  it('status shows every guest and node, whichever node is asked', async () => {
    const nodes = [
      /^node1( \(here\))? +online +green +running/m,
      /^node2( \(here\))? +online +green +running/m,
    ];
    const { stdout } = await says(
      node1,
      ['status'],
      0,
      ...nodes,
      /^web +node1 +running +\S+Z +\d+ +\d+ MiB/m,
    );
    assert.match(stdout, /^db +node2 +started +\S+Z +db$/m);
    assert.ok(!stdout.includes('\u001b'), 'no colours, as it is no terminal');
    await says(node2, ['status'], 0, ...nodes, /^web +node1 +started /m, /^db +node2 +running /m);
  });

  it('status shows a copy that is preserved elsewhere, and says that only that node knows what it holds', async () => {
    db.fault(node2).set('W', db.disk);
    await db.runsOn('node1');
    await cluster.settled();
    const there = /^db +node2 +preserved +\S+Z +io-error +\? +\? +\? +db$/m;
    const next = /^db: a copy is preserved on node2\..*"kvmha release db" ends it there\.$/m;
    await says(node1, ['status'], 1, /^db +node1 +running /m, there, next);
    const { stdout } = await says(node2, ['status', '--json'], 1);
    const report = JSON.parse(stdout);
    const [{ places }] = report.cluster.guests.filter(
      ({ resource }: { resource: string }) => resource === 'db',
    );
    const copies = places.map(({ node, copy, local, state }: Record<string, unknown>) => ({
      node,
      copy,
      local,
      state,
    }));
    assert.deepEqual(copies, [
      { node: 'node1', copy: 'active', local: false, state: 'started' },
      { node: 'node2', copy: 'preserved', local: true, state: 'quiesced-failover-safe' },
    ]);
    const { qemu, disk, proof } = places[1].seen;
    assert.ok(qemu.memory > 1024 ** 2 && disk.images > 0 && proof.complete, JSON.stringify(places[1]));
  });

  it('status of one guest leaves the others out, and of none says that nothing is known', async () => {
    const { stdout } = await says(node1, ['status', 'db'], 1, /^db +node2/m);
    assert.doesNotMatch(stdout, /^web/m);
    await says(node2, ['status', 'web'], 0, /^web +node1 +started/m);
    await says(node1, ['status', 'ghost'], 1, /nothing is known of a guest "ghost"/);
  });

  it('status tells of a node whose health is bad, and of one without its watcher', async () => {
    await cluster.sh(`attrd_updater -n '#health-test' -U red -N node2`);
    const health = /^node2: it is red \(#health-test red\).*node-health-strategy is none/m;
    await says(node1, ['status'], 1, health, /^node2 +online +red/m);
    await cluster.sh(`attrd_updater -n '#health-test' -D -N node2`);
    await cluster.sh('crm_resource --ban --resource kvm-watch-clone --node node2');
    await says(node1, ['status'], 1, /^node2 +online +green +stopped/m, /^node2: its watcher does not run;/m);
    await says(
      node2,
      ['status'],
      1,
      /^node2 \(here\) +online +green +stopped/m,
      /^node2: its watcher does not run;/m,
    );
    await cluster.sh('crm_resource --clear --resource kvm-watch-clone');
    await says(node1, ['status', 'web'], 0, /^node1 \(here\) +online +green +running/m);
  });

  it('status shows its own node alone, and says why, where the cluster does not answer', async () => {
    await node2.check([
      'sh',
      '-c',
      'printf "#!/bin/sh\\nsleep 600\\n" >/usr/local/bin/crm_mon; chmod 755 /usr/local/bin/crm_mon',
    ]);
    try {
      const { stdout } = await says(
        node2,
        ['status', '--timeout=5'],
        1,
        /^kvmha: the cluster does not answer, so these are/m,
      );
      assert.match(stdout, /^db +quiesced-failover-safe /m);
      assert.doesNotMatch(stdout, /^web|NODE/m);
    } finally {
      await node2.check(['rm', '/usr/local/bin/crm_mon']);
    }
  });

  it('timeline tells what happened here', async () => {
    const { stdout } = await says(
      node2,
      ['timeline', 'db'],
      0,
      /quiesced-failover-safe: the whole proof holds/,
    );
    assert.match(stdout, /I\/O error .*(\n.*)*decided: fail-over.*(\n.*)*fail-over: requested/);
    assert.doesNotMatch(stdout, /web/);
  });

  it('timeline tells the story of both nodes by ssh, and names a node that cannot be reached', {
    skip: noSsh,
  }, async () => {
    const words = ['timeline', '--ssh', '--since=1h', 'db'];
    const here = /node1 +db +agent +boot in a start: started/;
    {
      await using _ = await SshServer.start(node2, node1);
      const { stderr } = await says(
        node1,
        words,
        0,
        new RegExp(`node2 +db +watcher +quiesced-failover-safe: .*(\\n.*)*${here.source}`),
      );
      assert.doesNotMatch(stderr, /not reached/);
    }
    const refused = /node2 was not reached \(ssh node2 exited 255: .*Connection refused\): copy its/;
    const { stdout } = await says(node1, words, 0, here, refused);
    assert.doesNotMatch(stdout, /node2 +db +watcher/);
  });

  it('metrics tell Prometheus of the preserved guest, and a file of them is replaced as a whole', async () => {
    const { stdout } = await says(node2, ['metrics'], 0);
    const families = readExposition(stdout);
    const samples = (name: string) => families.get(name)?.samples ?? [];
    assert.equal(samples('kvmha_preserved_guests')[0]?.value, 1);
    assert.equal(samples('kvmha_watcher_up')[0]?.value, 1);
    assert.deepEqual(
      samples('kvmha_guest_state')
        .filter(({ value }) => value === 1)
        .map(({ labels }) => `${labels['guest']} ${labels['state']}`),
      ['db quiesced-failover-safe'],
    );
    const proved = samples('kvmha_journal_quiesces').find(({ labels }) => labels['outcome'] === 'proved');
    assert.deepEqual(proved, { labels: { outcome: 'proved', fault: 'io-error' }, value: 1 });
    await node2.check([
      'sh',
      '-c',
      'mkdir -p /var/lib/prometheus && echo old >/var/lib/prometheus/kvmha.prom',
    ]);
    await says(node2, ['metrics', '--output', '/var/lib/prometheus/kvmha.prom'], 0);
    const written = await node2.check(['cat', '/var/lib/prometheus/kvmha.prom']);
    assert.deepEqual([...readExposition(written).keys()], [...families.keys()]);
    assert.equal(
      await node2.check(['sh', '-c', 'cd /var/lib/prometheus; ls; stat -c %a kvmha.prom']),
      'kvmha.prom\n644\n',
    );
    await says(
      node2,
      ['metrics', '--output', '/nowhere/kvmha.prom'],
      1,
      /\/nowhere\/kvmha\.prom cannot be written/,
    );
  });

  it('status --watch prints a block each time where there is no terminal, until it is told to end', async () => {
    const child = node1.spawn(['kvmha', 'status', '--watch=1'], {}, { stdio: ['ignore', 'pipe', 'inherit'] });
    let printed = '';
    child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      printed += text;
    });
    const blocks = () => printed.match(/^kvmha status on node1 at 20\S+Z$/gm)?.length ?? 0;
    await cluster.until(
      'three blocks',
      () => blocks() >= 3 || undefined,
      () => printed,
    );
    assert.ok(!printed.includes('\u001b'));
    assert.match(printed, /^db +node2 +preserved/m);
    process.kill(-(child.pid ?? 0), 'SIGINT');
    await once(child, 'exit');
  });

  it('status --watch ends when nobody reads it any more', async () => {
    const { stdout } = await node1.exec(['sh', '-c', 'kvmha status --watch=1 --json | head -n 1']);
    assert.equal(JSON.parse(stdout).node, 'node1');
  });

  it('status --watch follows the cluster on a terminal, and leaves it as it was', {
    skip: noTerminal,
  }, async () => {
    const shell = ['bash', '--norc', '--noprofile', '-i'];
    await using terminal = await Terminal.open(node1.command(shell, { TERM: 'screen', PS1: 'ready> ' }));
    await terminal.shows(/^ready>/m);
    await terminal.type('kvmha status --watch=1');
    const screen = await terminal.shows(/^db +node2 +preserved/m);
    assert.match(
      screen,
      /^kvmha status on node1 at 20\S+Z, every 1 s\. Ctrl-C ends it\.\n/,
      'it is at the top',
    );
    assert.doesNotMatch(screen, /ready>/);
    assert.deepEqual(await terminal.modes(), { alternate: true, cursor: false });
    db.fault(node2).clear();
    await db.release(node2);
    await terminal.shows(/^db +node2 +started/m);
    assert.doesNotMatch(await terminal.screen(), /preserved/, 'nothing of the earlier frame is left');
    await terminal.resize(60, 12);
    await terminal.shows(/^Ctrl-C ends it\.$/m);
    await terminal.resize(120, 40);
    await terminal.press('C-z');
    await terminal.shows(/Stopped +kvmha status/);
    assert.deepEqual(await terminal.modes(), { alternate: false, cursor: true });
    await terminal.type('fg');
    await terminal.shows(/^GUEST(?!.*^(?:db|web|node\d|cluster): )/ms);
    assert.deepEqual(await terminal.modes(), { alternate: true, cursor: false });
    await terminal.press('C-c');
    await terminal.shows(/^ready> kvmha status --watch=1/m);
    assert.deepEqual(await terminal.modes(), { alternate: false, cursor: true });
    await terminal.type('echo "exited $?"');
    await terminal.shows(/^exited 0$/m);
    await terminal.type('clear; kvmha status web | cat; NO_COLOR=1 kvmha status web');
    await terminal.shows(/(^web +node1 +running.*){2}/ms);
    await web.judge();
  });
});

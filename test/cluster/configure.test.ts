import assert from 'node:assert/strict';
import { readlinkSync, rmSync, symlinkSync } from 'node:fs';
import { after, before, describe, it } from 'node:test';
import type { Output } from '../../lib/run.ts';
import { Cluster, type ClusterGuest } from './support.ts';

const VIRTUAL_DOMAIN = `migration_transport=tcp migrate_options=--unsafe op start timeout=90s interval=0 \
op stop timeout=90s interval=0 op monitor timeout=30s interval=2s op migrate_to timeout=120s interval=0 \
op migrate_from timeout=60s interval=0 meta allow-migrate=true`;

/** Where Pacemaker finds the agent. */
const AGENT = '/usr/lib/ocf/resource.d/kvmha/KvmGuest';

/** One cluster for all tests, each of which has guests of its own in it. */
describe('kvmha configure in a cluster', () => {
  let cluster: Cluster;
  const old: ClusterGuest[] = [];

  before(async () => {
    cluster = await Cluster.up({ nodes: 2 });
    old.push(...(await Promise.all(['old1', 'old2', 'old3'].map((name) => cluster.makeGuest(name)))));
    await cluster.configure(
      old
        .map(
          ({ name, config }) =>
            `primitive ${name} ocf:heartbeat:VirtualDomain params config=${config} ${VIRTUAL_DOMAIN}\n`,
        )
        // Without stickiness Pacemaker migrates what has the same score everywhere to the node with the fewest resources.
        .concat('rsc_defaults resource-stickiness=100\n')
        .join(''),
    );
    await Promise.all(old.map((guest) => guest.runsOn()));
  });
  after(() => cluster?.down());

  function kvmha(...words: string[]): Promise<Output> {
    return cluster.anyNode.exec(['kvmha', 'configure', ...words], { timeout: 200_000 });
  }

  async function isValid(): Promise<void> {
    assert.equal(await cluster.sh('crm_verify --live-check -V 2>&1'), '');
  }

  /** Where the guests run, and which boots of them: the same after an adoption. */
  function lives(guests: readonly ClusterGuest[]) {
    return Promise.all(
      guests.map(async (guest) => ({ places: await guest.places(), boot: await guest.boot() })),
    );
  }

  it('refuses what is no guest, or cannot be read, and changes nothing', async () => {
    const before = await cluster.sh('cibadmin --query --scope resources');
    for (const [words, code, why] of [
      [['fence', '--apply'], 1, /the cluster has no resource "fence"/],
      [['ghost', '--apply'], 1, /the cluster has no resource "ghost"/],
      [['/etc/passwd', '--apply'], 1, /its XML cannot be used/],
      [[old[0]?.config ?? '', '--apply'], 1, /the cluster has a resource old1 already/],
      [[], 2, /name guests/],
      [['old1', '--all'], 2, /name guests/],
    ] as const) {
      const { exitCode, stderr } = await kvmha(...words);
      assert.equal(exitCode, code, stderr);
      assert.match(stderr, why);
    }
    assert.equal(await cluster.sh('cibadmin --query --scope resources'), before);
  });

  it('leaves a guest alone, in maintenance, where another node lacks the agent, and says how to go on', async () => {
    const before = await lives(old);
    const other = cluster.lab.nodes.find(({ name }) => name !== cluster.anyNode.name);
    assert.ok(other);
    const link = readlinkSync(other.path(AGENT));
    rmSync(other.path(AGENT));
    const { exitCode, stderr } = await kvmha('old1', '--apply');
    symlinkSync(link, other.path(AGENT));
    assert.equal(exitCode, 1);
    assert.match(stderr, new RegExp(`${other.name} cannot run old1 .*LEFT IN MAINTENANCE MODE`));
    for (const [, command] of [...stderr.matchAll(/"((?:crm_resource|crm_attribute) [^"]*)"/g)]) {
      await cluster.sh(`${command} && crm_resource --wait`);
    }
    assert.doesNotMatch(await cluster.shown(), /maintenance|unmanaged/);
    assert.deepEqual(await lives(old), before);
  });

  it('shows commands that adopt a guest live', async () => {
    const before = await lives(old);
    const { exitCode, stdout } = await kvmha('old2');
    assert.equal(exitCode, 0);
    await cluster.sh(stdout);
    await cluster.settled();
    assert.deepEqual(await lives(old), before);
    await isValid();
  });

  it('adopts what is left live with --all --apply, and then has nothing to do', async () => {
    const before = await lives(old);
    const { exitCode, stdout, stderr } = await kvmha('--all', '--apply');
    assert.equal(exitCode, 0, `${stdout}${stderr}`);
    assert.match(stdout, /^old2 has the recommended configuration already/m);
    assert.match(
      stdout,
      /^old3: run by ocf:kvmha:KvmGuest instead of .*migration-threshold=1 \(was not set\)/m,
    );
    assert.match(stdout, /would stop, start and move nothing/);
    await cluster.settled();
    assert.deepEqual(await lives(old), before);
    const shown = await cluster.shown();
    for (const { name } of old) {
      assert.match(shown, new RegExp(`${name}\\s+\\(ocf:kvmha:KvmGuest\\):\\s+Started`));
    }
    assert.doesNotMatch(shown, /maintenance|unmanaged/);
    await isValid();
    const again = await kvmha('--all', '--apply');
    assert.deepEqual([again.exitCode, again.stderr], [0, '']);
    assert.equal(again.stdout.match(/has the recommended configuration already/g)?.length, old.length);
    await Promise.all(old.map((guest) => guest.judge()));
  });

  it('refuses to apply what would move a guest', async () => {
    const [guest] = old;
    const [place] = (await guest?.places()) ?? [];
    assert.ok(guest && place);
    await cluster.sh('crm_resource --resource old1 --meta --delete-parameter migration-threshold');
    await cluster
      .node(place)
      .check(['attrd_updater', '--name', 'fail-count-old1#monitor_2000', '--update', '1']);
    await cluster.until(
      'the failure to be counted',
      async () => /old1.*fail-count=1/.test(await cluster.shown()) || undefined,
    );
    const { exitCode, stderr } = await kvmha('old1', '--apply');
    assert.equal(exitCode, 1);
    assert.match(stderr, /refused: the cluster would then (move|migrate|stop) old1/);
    assert.match(stderr, /nothing was changed/);
    const { stdout } = await kvmha('old1');
    assert.match(stdout, /migration-threshold/, 'it was changed nevertheless');
    assert.deepEqual(await guest.places(), [place]);
  });

  it('prints commands for crm, pcs and cib, or applies them, that make a guest run, and needs nothing more', async () => {
    const guests = await Promise.all(
      ['crm', 'pcs', 'cib', 'applied'].map((name) => cluster.makeGuest(`new-${name}`)),
    );
    for (const { name, config } of guests.slice(0, 3)) {
      const { exitCode, stdout, stderr } = await kvmha(config, '--as', name.replace('new-', ''));
      assert.deepEqual({ exitCode, stderr }, { exitCode: 0, stderr: '' });
      await cluster.sh(stdout);
    }
    await cluster.settled();
    const { exitCode, stdout, stderr } = await kvmha('/shared/new-applied.xml', '--apply');
    assert.equal(exitCode, 0, stderr);
    assert.match(stdout, /^new-applied: a new resource .*\nThe cluster would start new-applied on node\d/m);
    assert.match(stdout, /^new-applied runs on node\d\.$/m);
    await Promise.all(guests.map((guest) => guest.runsOn()));
    await isValid();
    const again = await kvmha(...guests.map(({ name }) => name));
    assert.equal(again.stdout, '');
    assert.equal(again.stderr.match(/has the recommended configuration already/g)?.length, guests.length);
    assert.deepEqual(cluster.fenced(), []);
  });
});

import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { DECLARATIONS } from '../../lib/parameters.ts';
import { AGENT } from '../support/agent.ts';
import { Host, type TestGuest } from '../support/host.ts';

const NAME = 'ocf:kvmha:KvmGuest';

let host: Host;
before(async () => {
  host = await Host.up();
});
after(() => host[Symbol.asyncDispose]());

describe("the cluster's own tools", { concurrency: 3 }, () => {
  test('ocf-tester finds no fault with the agent, and nothing is left of its guest', async () => {
    const guest = await host.guest('g1');
    const config = `config=${guest.resource.config}`;
    const { exitCode, stdout, stderr } = await host.node.exec(
      ['ocf-tester', '-n', guest.name, '-o', config, AGENT],
      { timeout: 120_000 },
    );
    assert.equal(exitCode, 0, `${stdout}\n${stderr}`);
    assert.match(stdout, /passed all tests/);
    // What it says to be missing is for resources that are promoted or notified.
    const missing = [...stdout.matchAll(/does not support (.*) \(optional\)/g)].map(([, what]) => what);
    assert.deepEqual(missing.sort(), [
      'promotable clones',
      ...['the demote action', 'the notify action', 'the promote action'],
    ]);
    assert.ok((await guest.witness()).boots > 0, 'it has not started the guest');
    await leavesNothing(guest);
  });

  test('crm ra info tells every parameter', async () => {
    const printed = await host.node.check(['crm', 'ra', 'info', NAME]);
    for (const [name, { type }] of Object.entries(DECLARATIONS)) {
      assert.match(printed, new RegExp(`^${name}\\*? \\(${type}[,)]`, 'm'));
    }
  });

  test('pcs resource describe tells every parameter', async () => {
    const printed = await host.node.check(['pcs', 'resource', 'describe', NAME, '--full']);
    for (const name of Object.keys(DECLARATIONS)) {
      assert.match(printed, new RegExp(`^ {2}${name}(:| \\()`, 'm'));
    }
  });

  test('the metadata obeys every grammar that is installed here', async (t) => {
    await host.node.check(['sh', '-c', `${AGENT} meta-data >/run/lab/metadata.xml`]);
    const grammars = [
      ['--dtdvalid', '/usr/share/resource-agents/ra-api-1.dtd'],
      ['--relaxng', '/usr/share/resource-agents/metadata.rng'],
      ['--relaxng', '/usr/share/pcs/data/ocf-1.0.rng'],
    ].filter(([, path]) => existsSync(host.node.path(path as string)));
    assert.ok(grammars.length > 0, 'there is no grammar to obey');
    for (const [option = '', path = ''] of grammars) {
      await host.node.check(['xmllint', '--noout', '--nonet', option, path, '/run/lab/metadata.xml']);
      t.diagnostic(`obeys ${path}`);
    }
  });

  test('nobody, as whom crmsh and ocf-tester ask, gets the metadata', async () => {
    const asNobody = ['setpriv', '--reuid=nobody', '--regid=nogroup', '--clear-groups', AGENT, 'meta-data'];
    assert.equal(
      await host.node.check(asNobody, { env: { OCF_ROOT: '/usr/lib/ocf' } }),
      await host.node.check([AGENT, 'meta-data'], { env: { OCF_ROOT: '/usr/lib/ocf' } }),
    );
  });

  test('pcs and crm configure a resource that Pacemaker finds valid', async () => {
    const [pcs, crm] = ['/run/lab/pcs.xml', '/run/lab/crm.xml'] as const;
    const config = 'config=/shared/g2.xml';
    await host.node.check(['cp', '/var/lib/pacemaker/cib/cib.xml', pcs]);
    await host.node.check(['cp', '/var/lib/pacemaker/cib/cib.xml', crm]);
    await host.node.check(['pcs', '-f', pcs, 'resource', 'create', 'g2', NAME, config]);
    await host.node.check(['crm', '--force', 'configure', 'primitive', 'g2', NAME, 'params', config], {
      env: { CIB_file: crm },
    });
    for (const file of [pcs, crm]) {
      await host.node.check(['pcs', '-f', file, 'property', 'set', 'stonith-enabled=false']);
      await host.node.check(['crm_verify', '--xml-file', file]);
    }
  });
});

async function leavesNothing(guest: TestGuest): Promise<void> {
  assert.deepEqual(guest.pids(), []);
  assert.equal(await guest.resource.state(host.node), '');
}

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { Deadline } from '../../lib/deadline.ts';
import { QmpSocket } from '../../lib/qemu/qmp.ts';
import { Resource } from '../support/agent.ts';
import { ControlGroup } from '../support/control-group.ts';
import { answers, Host, type TestGuest } from '../support/host.ts';

let host: Host;
let guest: TestGuest;
before(async () => {
  host = await Host.up();
  guest = await host.running('pressed');
});
after(() => host[Symbol.asyncDispose]());

/** Lets the kernel refuse to open these files, at all attempts of each thread or at the first ones. */
function refusing(errno: string, paths: readonly string[], attempts = '1+'): string[] {
  return [
    ...['strace', '--follow-forks', '--output=/dev/null', '--trace=openat'],
    ...paths.map((path) => `--trace-path=${path}`),
    `--inject=openat:error=${errno}:when=${attempts}`,
  ];
}

describe('a guest that runs', () => {
  test('is seen to run by its vCPUs while neither QEMU nor libvirt answers, and one that is paused is not', async (t) => {
    const group = ControlGroup.of({ processor: 0.05 });
    if (typeof group === 'string') {
      t.skip(group);
      return;
    }
    using limited = group;
    const meta = { timeout: '6000' };
    const pid = guest.pid();
    const thaw = await host.freeze('libvirtd');
    // QEMU greets one client at a time, so that this is what it is like when it does not get to it.
    const path = host.node.path(`/run/libvirt/qemu/kvmha/agent/${guest.name}.pid`);
    const occupier = await QmpSocket.connect(path, Deadline.in(20_000));
    limited.take(pid);
    try {
      answers(await guest.monitor({ meta }), 190, /its vCPUs use processor time/);
      await guest.qmp('stop');
      answers(await guest.monitor({ meta }), 1, /is unknown/);
    } finally {
      limited.release(pid);
      occupier.close();
      await guest.qmp('cont');
      thaw();
    }
    answers(await guest.monitor(), 0);
    assert.equal(guest.pid(), pid);
  });

  test('is not taken for another one, or for none, when there are too few open files to read who it is', async () => {
    // Its domain XML is not called as the guest is, and this resource has not yet read it.
    const unread = new Resource({ ...guest.resource.domain, name: 'unread' });
    await host.node.check(['cp', guest.resource.config, unread.config]);
    const pid = guest.pid();
    const [lacksFiles, lacksMemory] = [
      refusing('ENFILE', [unread.config]),
      refusing('ENOMEM', [unread.config]),
    ];
    const meta = { timeout: '4000' };
    const [probe, monitor, stop] = await Promise.all([
      unread.probe(host.node, { under: lacksFiles, meta }),
      unread.call(host.node, 'monitor', { under: lacksMemory, meta }),
      unread.call(host.node, 'stop', { under: lacksFiles, meta }),
    ]);
    for (const answer of [probe, monitor, stop]) {
      answers(answer, 1, /which guest this is cannot be read/);
    }
    answers(await unread.probe(host.node, { under: refusing('ENFILE', [unread.config], '1..3') }), 0);
    assert.equal(guest.pid(), pid);
  });

  test('is found to run when the node is short of open files for a moment', async () => {
    const paths = ['/proc', guest.resource.config, `/run/kvmha/resources/${guest.name}.json`];
    const group = refusing('ENFILE', paths, '1..8');
    answers(await guest.monitor({ under: group }), 0);
    answers(await guest.probe({ under: group }), 0);
  });
});

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { Deadline } from '../../lib/deadline.ts';
import type { Step } from '../../lib/quiesce/sequence.ts';
import { uuidForName } from '../../lib/record/directory.ts';
import { NbdServer } from '../fault/nbd.ts';
import { createDisk, waitForTicks } from '../guest/witness.ts';
import { Lab, type LabNode } from '../lab/client.ts';
import { installedTree, Resource } from '../support/agent.ts';
import { qemus } from '../support/qemus.ts';
import { failure, type GuestDisk, type GuestOptions, QuiesceGuest, refusal } from '../support/quiesced.ts';

let lab: Lab;
let node: LabNode;
const stack = new AsyncDisposableStack();
before(async () => {
  const tree = stack.use(await installedTree());
  lab = stack.use(await Lab.up({ nodes: 1, cluster: false, install: tree.path }));
  node = lab.node(1);
});
after(() => stack.disposeAsync());

const UNOPENED = /Could not open '[^']*kvmha-sentinel/;
const LOST = /the connection to \S+ was lost since the guest was started/;

/** With all combinations of faults and steps, not only those that differ most. */
const THOROUGH = process.env['KVMHA_TEST_ALL'] !== undefined;

/** A guest whose only disk is served over NBD: nothing locks it. */
class NbdGuest implements AsyncDisposable {
  readonly guest: QuiesceGuest;
  readonly server: NbdServer;

  private constructor(guest: QuiesceGuest, server: NbdServer) {
    this.guest = guest;
    this.server = server;
  }

  static async running(
    name: string,
    { port, ...disk }: Partial<GuestDisk> & { readonly port?: number },
    options: Partial<GuestOptions>,
  ): Promise<NbdGuest> {
    const path = `/shared/${name}.img`;
    const nbd = port === undefined ? `/run/lab/${name}.sock` : `127.0.0.1:${port}`;
    const served = { ...disk, path, nbd };
    await QuiesceGuest.makeImages(node, [served]);
    const server = await NbdServer.start(node, path, { name, ...(port === undefined ? {} : { port }) });
    const guest = await QuiesceGuest.running(node, name, { ...options, disks: [served] });
    return new NbdGuest(guest, server);
  }

  /** The requests for writing that a connection has made, the server's first being 1. */
  writes(connection: number): number {
    const made = new RegExp(`connection=${connection} (Write|Zero|Trim) `, 'g');
    return this.server.log().match(made)?.length ?? 0;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.guest.end();
    await this.server.stop();
  }
}

/** A QEMU that makes a lost connection anew for so many seconds before a request fails: libvirt 9 cannot ask for it. */
function patient(emulator: string, seconds: number): string {
  return `#!/bin/bash
arguments=()
for word; do
  case $word in '{"driver":"nbd",'*) word="\${word%?}"',"reconnect-delay":${seconds}}' ;; esac
  arguments+=("$word")
done
exec ${emulator} "\${arguments[@]}"
`;
}

type Fault = 'dies' | 'hangs' | 'is replaced';

/**
 * What comes of it. `unproved`: the connection is lost before its last flush is known to have been the last. `proved`:
 * nobody needs the server any more. `unanswered`: not proved while QEMU waits for the server; whether it has anything left
 * to ask is a matter of the moment.
 */
type Expected = 'unproved' | 'proved' | 'unanswered';

const EXPECTED: { readonly [fault in Fault]: { readonly [step in Step]?: Expected } } = {
  // Another server serves the same image at the same address.
  'is replaced': {
    stop: 'unproved',
    flush: 'unproved',
    'take-read-only': 'unproved',
    'delete-nodes': 'proved',
  },
  dies: {
    stop: 'unproved',
    flush: 'unproved',
    'take-read-only': 'unproved',
    'delete-nodes': 'unanswered',
    inactivate: 'proved',
  },
  hangs: {
    stop: 'unanswered',
    flush: 'unanswered',
    'take-read-only': 'unanswered',
    'delete-nodes': 'unanswered',
    inactivate: 'proved',
  },
};

/** Those that differ most. */
const FEW = ['is replaced from stop, waiting', 'dies from stop, at once', 'hangs from delete-nodes, at once'];

const faults = (Object.keys(EXPECTED) as Fault[]).flatMap((fault) =>
  (Object.keys(EXPECTED[fault]) as Step[]).flatMap((step) =>
    (['waiting', 'at once'] as const).map((reconnects) => ({ fault, step, reconnects })),
  ),
);
const tried = faults.filter(
  ({ fault, step, reconnects }) => THOROUGH || FEW.includes(`${fault} from ${step}, ${reconnects}`),
);

for (const [index, { name: qemu, emulator, skip }] of (await qemus()).entries()) {
  const waiting = `/shared/patient-${index}`;
  describe(`${qemu}: on a disk that nothing locks, served over NBD`, { skip, concurrency: 2 }, () => {
    before(async () => {
      node.write(waiting, patient(emulator ?? '/usr/bin/qemu-system-x86_64', 30));
      await node.check(['chmod', '755', waiting]);
    });

    const KINDS: Record<string, Partial<GuestDisk> & { readonly port?: number }> = {
      'raw, by a UNIX socket': {},
      'qcow2, by TCP': { port: 10810 + index, format: 'qcow2' },
    };
    for (const [number, [what, disk]] of Object.entries(KINDS).entries()) {
      test(`a preserved guest is held back while another runs: ${what}`, async () => {
        const name = `nbd-${index}-${number}`;
        await using served = await NbdGuest.running(name, disk, { emulator });
        const { guest, server } = served;
        const pid = await guest.pid();

        const { step, undone, reason } = failure(await guest.quiesce({ before: { 'delete-nodes': 'fail' } }));
        assert.deepEqual([step, undone], ['delete-nodes', true], reason);
        await guest.goesOn();
        server.fail('write');
        await guest.runstate('io-error');
        server.mend();
        await guest.preserve();
        await guest.until(async () => / connection=1 Disconnect /.test(server.log()));
        const written = served.writes(1);

        const attacks = async () => {
          await assert.rejects(guest.qmp('cont'), UNOPENED);
          await guest.qmp('system_reset');
          await assert.rejects(guest.qmp('cont'), UNOPENED);
          await assert.rejects(guest.virsh('resume', name), UNOPENED);
          if (await guest.knows('blockdev-set-active')) {
            await assert.rejects(guest.qmp('blockdev-set-active', { active: true }), UNOPENED);
          }
        };
        await attacks();
        await guest.runsElsewhere(attacks);
        await guest.assertProved('another guest ran from its image');
        assert.equal(served.writes(1), written, 'the preserved guest has written');
        // Itself and the one elsewhere: who looked at the image looked at the file.
        assert.equal(server.log().match(/ Connect /g)?.length, 2, server.log());
        assert.equal(await guest.pid(), pid, 'its qemu is gone');
        assert.match(JSON.stringify(await guest.resume()), /does not tell whether another host has written/);
      });
    }

    for (const [number, { fault, step, reconnects }] of tried.entries()) {
      const expected = EXPECTED[fault][step];
      test(`a guest whose server ${fault} from ${step} on is ${expected}; QEMU reconnects ${reconnects}`, async () => {
        const name = `nbd-fault-${index}-${number}`;
        const own = reconnects === 'waiting' ? waiting : emulator;
        await using served = await NbdGuest.running(name, {}, { emulator: own });
        const { guest, server } = served;
        const pid = await guest.pid();
        const report = await guest.quiesce({
          before: { [step]: { run: ['sh', '-c', server.script(fault)] } },
          timeout: expected === 'unanswered' ? 2500 : 20_000,
        });
        assert.equal(await guest.pid(), pid, 'its qemu is gone');
        if (expected === 'proved' || (expected === 'unanswered' && report.outcome?.kind === 'proved')) {
          assert.equal(report.outcome?.kind, 'proved', JSON.stringify(report));
          await guest.assertProved(`the server ${fault}`);
          await assert.rejects(guest.qmp('cont'), UNOPENED);
          return;
        }
        const failed = failure(report);
        assert.ok(
          report.steps.every(([each]) => expected === 'unanswered' || each !== 'record-durable'),
          failed.reason,
        );
        if (fault === 'hangs') {
          await server.wake();
          await guest.preserve();
        } else if (fault === 'is replaced') {
          if (reconnects === 'waiting') {
            await guest.goesOn();
          }
          assert.match(refusal(await guest.quiesce()), LOST);
        }
      });
    }
  });
}

test('a guest on NBD can be proved whose first connection the agent has noted at its start, until it is lost', async () => {
  const name = 'nbd-started';
  const path = `/shared/${name}.img`;
  await createDisk(path, { node });
  await using server = await NbdServer.start(node, path, { name });
  const resource = new Resource({ name, uuid: uuidForName(name), disks: [{ path, nbd: server.address }] });
  resource.configure(node);
  const proof = () => node.exec(['kvmha', 'proof', name]);
  const config = `/shared/${name}.xml`;

  await node.check(['virsh', 'create', config]);
  assert.match((await proof()).stdout, /refused: nothing is recorded of the connection to \S+ from before/);
  await node.check(['virsh', 'destroy', name]);

  const started = await resource.call(node, 'start');
  assert.equal(started.exitCode, 0, started.stderr);
  await waitForTicks(path, 2, { node }, Deadline.in(20_000));
  assert.match((await proof()).stdout, /It could be quiesced now/);

  await node.check(['sh', '-c', server.script('is replaced')]);
  const lost = await Deadline.in(20_000).poll(
    100,
    async () => LOST.test((await proof()).stdout) || undefined,
  );
  assert.ok(lost, (await proof()).stdout);
  assert.equal((await resource.call(node, 'stop')).exitCode, 0);
});

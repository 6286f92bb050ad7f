import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { isComplete } from '../../lib/quiesce/proof.ts';
import { Lab, type LabNode } from '../lab/client.ts';
import { type Qemu, qemus } from '../support/qemus.ts';
import type { Order } from '../support/quiesce-run.ts';
import { failure, QuiesceGuest, refusal } from '../support/quiesced.ts';

let lab: Lab;
let node: LabNode;
before(async () => {
  lab = await Lab.up({ nodes: 1, cluster: false });
  node = lab.node(1);
});
after(() => lab.down());

function guestOf(name: string, { emulator }: Qemu): Promise<QuiesceGuest> {
  return QuiesceGuest.running(node, name, {
    emulator,
    disks: [{ path: `/shared/${name}.img` }, { path: `/shared/${name}.qcow2`, format: 'qcow2', bus: 'ide' }],
    bridges: ['br0'],
  });
}

/** The QMP commands of the sequence for such a guest that change something. The tests find out if it is another. */
const COMMANDS = [
  'stop',
  'blockdev-reopen',
  'blockdev-reopen',
  'blockdev-add',
  'blockdev-add',
  'blockdev-add',
  'blockdev-add',
  'set_link',
  'qom-set',
  'qom-set',
  'blockdev-reopen',
  'blockdev-reopen',
  'blockdev-del',
  'blockdev-del',
  'blockdev-del',
  'blockdev-del',
  'inactivate',
];

type Death = readonly [string, Partial<Order>];

function atCommand(index: number, when: 'before' | 'sent'): Death {
  const what = `${when === 'sent' ? 'once it had sent' : 'before'} QMP command ${index + 1}, ${COMMANDS[index]}`;
  return [what, { dieAt: { command: index + 1, when } }];
}

/** Every moment at which the process that quiesces can die: what lies between two commands, it does itself. */
const DEATHS: readonly Death[] = [
  atCommand(0, 'before'),
  ...COMMANDS.map((_, index) => atCommand(index, 'sent')),
  ['with the record written, before the guest is stopped', { before: { stop: 'die' } }],
  ['with the record written', { before: { 'add-sentinels': 'die' } }],
  ['with the record saying that all is durable', { before: { 'delete-nodes': 'die' } }],
  ['before the sentinels are removed', { before: { 'unlink-sentinels': 'die' } }],
  ['before it looks for the proof', { before: { prove: 'die' } }],
];

/** Moments at which an operator can still resume the guest: before a device has moved, and after the first has. */
const RESUMABLE: readonly Death[] = [
  atCommand(COMMANDS.lastIndexOf('blockdev-add'), 'sent'),
  atCommand(COMMANDS.indexOf('qom-set'), 'sent'),
  atCommand(COMMANDS.lastIndexOf('qom-set'), 'sent'),
  atCommand(COMMANDS.lastIndexOf('blockdev-reopen'), 'sent'),
  ['with the record saying that all is durable', { before: { 'delete-nodes': 'die' } }],
  atCommand(COMMANDS.indexOf('blockdev-del') + 1, 'sent'),
  atCommand(COMMANDS.lastIndexOf('blockdev-del'), 'sent'),
  ['before the sentinels are removed', { before: { 'unlink-sentinels': 'die' } }],
];

async function diesQuiescing(guest: QuiesceGuest, order: Partial<Order>): Promise<void> {
  const report = await guest.quiesce(order);
  assert.equal(report.outcome, undefined, `it did not die: ${JSON.stringify(report.commands)}`);
  assert.equal(report.error, undefined);
}

/** The devices that are on a sentinel. */
async function moved(guest: QuiesceGuest): Promise<number> {
  const devices = (await guest.qmp('query-block')) as readonly { inserted?: { 'node-name': string } }[];
  return devices.filter(({ inserted }) => inserted?.['node-name'].startsWith('kvmha-sentinel-')).length;
}

/** How many requests its devices have made. */
async function requests(guest: QuiesceGuest): Promise<number> {
  const devices = (await guest.qmp('query-blockstats')) as readonly { stats: Record<string, number> }[];
  const counts = devices.flatMap(({ stats }) => Object.entries(stats));
  return counts.reduce((sum, [key, count]) => sum + (key.endsWith('_operations') ? count : 0), 0);
}

for (const [index, qemu] of (await qemus()).entries()) {
  const options = { skip: qemu.skip, concurrency: 2 };

  test(`${qemu.name}: the sequence is the one whose every moment is tested`, options, async () => {
    const guest = await guestOf(`whole-${index}`, qemu);
    const { commands } = await guest.preserve();
    const known = commands.map((command) =>
      /^(xen-|blockdev-set-active)/.test(command) ? 'inactivate' : command,
    );
    assert.deepEqual(known, COMMANDS);
    await guest.end();
  });

  describe(`${qemu.name}: what was interrupted is finished by the next, that died`, options, () => {
    for (const [number, [when, order]] of DEATHS.entries()) {
      test(when, async () => {
        const guest = await guestOf(`died-${index}-${number}`, qemu);
        const pid = await guest.pid();
        await diesQuiescing(guest, order);
        if (order.before?.prove === undefined) {
          assert.equal(isComplete(await guest.proof()), false, 'it was called safe half-way');
        }
        await guest.preserve();
        assert.equal(await guest.pid(), pid, 'its qemu was aborted');
        await assert.rejects(guest.qmp('cont'), /Could not open/);
        await guest.end();
      });
    }
  });

  describe(
    `${qemu.name}: a guest that an operator resumes half-way is not called safe if it ran without its disks; the process died`,
    options,
    () => {
      for (const [number, [when, order]] of RESUMABLE.entries()) {
        test(when, async () => {
          const guest = await guestOf(`resumed-${index}-${number}`, qemu);
          const pid = await guest.pid();
          await diesQuiescing(guest, order);
          const made = await requests(guest);
          const without = await moved(guest);
          await guest.qmp('cont');
          if (without === 0) {
            await guest.ticks();
            await guest.preserve();
            await guest.runsElsewhere();
          } else {
            await guest.until(async () => (await requests(guest)) > made);
            for (const _ of ['first', 'second']) {
              const { reason, undone } = failure(await guest.quiesce());
              assert.match(reason, /resumed in the middle of being quiesced/);
              assert.equal(undone, false);
              assert.equal(isComplete(await guest.proof()), false);
            }
          }
          assert.equal(await guest.pid(), pid, 'its qemu was aborted');
          await guest.end();
        });
      }
    },
  );

  describe(`${qemu.name}: a record`, options, () => {
    const half: Partial<Order> = { dieAt: { command: COMMANDS.indexOf('blockdev-del') + 1, when: 'before' } };
    const recordOf = (guest: QuiesceGuest) => node.path(`/run/kvmha/guests/${guest.uuid}/quiesce.json`);

    for (const [what, order] of [
      ['half-way', half],
      ['of a preserved guest', {}],
    ] as const) {
      test(`that is lost ${what} leaves no guest that is called safe`, async () => {
        const guest = await guestOf(`lost-${index}-${what.length}`, qemu);
        const pid = await guest.pid();
        await guest.quiesce(order);
        await node.check(['rm', `/run/kvmha/guests/${guest.uuid}/quiesce.json`]);
        assert.equal(await guest.proof(), undefined);
        assert.match(refusal(await guest.quiesce()), /kvmha-sentinel-0/);
        assert.equal(await guest.pid(), pid, 'its qemu was aborted');
        await guest.end();
      });

      test(`that is corrupt ${what} leaves no guest that is called safe`, async () => {
        const guest = await guestOf(`corrupt-${index}-${what.length}`, qemu);
        const pid = await guest.pid();
        await guest.quiesce(order);
        for (const text of ['', '{', 'null', '{"durable":true}']) {
          writeFileSync(recordOf(guest), text);
          assert.equal(await guest.proof(), undefined);
          assert.match(refusal(await guest.quiesce()), /quiesce\.json/);
        }
        assert.equal(await guest.pid(), pid, 'its qemu was aborted');
        await guest.end();
      });
    }

    test('of an earlier qemu of the same domain says nothing of the one that runs', async () => {
      const guest = await guestOf(`earlier-${index}`, qemu);
      await guest.preserve();
      await guest.virsh('destroy', guest.name);
      await guest.start();
      await guest.ticks();
      assert.equal(isComplete(await guest.proof()), false);
      await guest.preserve();
      await guest.end();
    });
  });

  test(`${qemu.name}: a quiesce that was interrupted is finished also when libvirtd was killed meanwhile`, {
    skip: qemu.skip,
  }, async () => {
    for (const [number, command] of ['qom-set', 'blockdev-del', 'inactivate'].entries()) {
      const guest = await guestOf(`libvirtd-${index}-${number}`, qemu);
      const pid = await guest.pid();
      await diesQuiescing(guest, { dieAt: { command: COMMANDS.indexOf(command) + 1, when: 'sent' } });
      await node.check(['sh', '-c', 'pid=$(pidof libvirtd); kill -9 $pid; while kill -0 $pid; do :; done']);
      await node.check(['systemctl', 'start', 'libvirtd']);
      await node.waitUntilReady();
      await guest.preserve();
      await assert.rejects(guest.virsh('resume', guest.name), /Could not open/);
      await guest.assertProved('it was finished');
      assert.equal(await guest.pid(), pid, 'its qemu was aborted');
      await guest.end();
    }
  });
}

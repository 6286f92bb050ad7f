import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { isComplete } from '../../lib/quiesce/proof.ts';
import type { Step } from '../../lib/quiesce/sequence.ts';
import { readSerial } from '../guest/witness.ts';
import { Lab, type LabNode } from '../lab/client.ts';
import { qemus } from '../support/qemus.ts';
import type { Report } from '../support/quiesce-run.ts';
import { failure, QuiesceGuest } from '../support/quiesced.ts';

let lab: Lab;
let node: LabNode;
before(async () => {
  lab = await Lab.up({ nodes: 1, cluster: false });
  node = lab.node(1);
});
after(() => lab.down());

/** What may come of a quiesce: the proof, or the step that failed and whether all was undone. */
type Expected = 'proved' | readonly [step: Step, undone: 'undone' | 'not undone'];

/** Faults of the storage (letters as `Fault` takes them), the step before which they begin, and what comes of it. */
const FAULTS: readonly (readonly [letters: string, step: Step, expected: Expected])[] = [
  ['W', 'stop', ['take-read-only', 'undone']],
  ['WN', 'stop', ['take-read-only', 'undone']],
  ['F', 'stop', ['flush', 'undone']],
  ['W', 'take-read-only', ['take-read-only', 'undone']],
  ['F', 'take-read-only', ['take-read-only', 'undone']],
  ['R', 'take-read-only', ['take-read-only', 'undone']],
  ['WF', 'delete-nodes', 'proved'],
  ['WFR', 'inactivate', 'proved'],
  ['FH', 'stop', ['stop', 'not undone']],
  ['WH', 'take-read-only', ['take-read-only', 'not undone']],
  ['FH', 'take-read-only', ['take-read-only', 'not undone']],
  ['WFRH', 'delete-nodes', ['delete-nodes', 'not undone']],
  ['WFRH', 'inactivate', 'proved'],
];

/**
 * Two disks: the first has always writes to be flushed, because nothing flushes it by itself; the second has to write
 * metadata before it can be let go, a persistent bitmap.
 */
async function guestOf(name: string, emulator: string | undefined): Promise<QuiesceGuest> {
  const image = `/shared/${name}.qcow2`;
  const guest = await QuiesceGuest.running(node, name, {
    emulator,
    disks: [
      { path: `/shared/${name}.img`, bus: 'ide' },
      { path: image, format: 'qcow2' },
    ],
    serial: `/shared/${name}.serial`,
  });
  const bitmap = { node: await guest.formatNode(image), name: 'bitmap', persistent: true };
  await guest.qmp('block-dirty-bitmap-add', bitmap);
  return guest;
}

/** Whatever came of it: qemu lives, and what was said of the guest is true. */
async function isTrue(guest: QuiesceGuest, report: Report, pid: number | undefined): Promise<void> {
  const { outcome } = report;
  assert.equal(await guest.pid(), pid, 'its qemu is gone');
  if (outcome?.kind === 'proved') {
    await guest.assertProved('it was proved');
  } else {
    guest.fault.clear();
    assert.equal(isComplete(await guest.proof()), false);
    if (outcome?.kind === 'failed' && outcome.undone) {
      await guest.goesOn();
    }
    // Once the storage is mended, nothing keeps it from being preserved.
    await guest.preserve();
    assert.equal(await guest.pid(), pid, 'its qemu is gone');
  }
  const acknowledged = readSerial(`/shared/${guest.name}.serial`, node).acknowledged;
  assert.ok(acknowledged <= (await guest.witness()).ticks, 'an acknowledged write was lost');
  await guest.runsElsewhere();
  await guest.assertProved('another guest ran from its images');
}

function words(expected: Expected): string {
  return expected === 'proved' ? 'changes nothing' : `fails ${expected[0]}, which is ${expected[1]}`;
}

for (const [index, { name: qemu, emulator, skip }] of (await qemus()).entries()) {
  describe(`${qemu}: storage that fails (W writes, R reads, F flushes; N no space, H hangs)`, {
    skip,
    concurrency: 2,
  }, () => {
    for (const [number, [letters, step, expected]] of FAULTS.entries()) {
      test(`${letters} from ${step} on ${words(expected)}`, async () => {
        const guest = await guestOf(`failing-${index}-${number}`, emulator);
        const pid = await guest.pid();
        const hangs = letters.includes('H') && expected !== 'proved';
        const report = await guest.quiesce({
          before: { [step]: guest.blow(letters) },
          timeout: hangs ? 2500 : 20_000,
        });
        if (expected === 'proved') {
          assert.equal(report.outcome?.kind, 'proved', JSON.stringify(report));
          const written = guest.fault.hits().filter((hit) => /^[WF]/.test(hit));
          assert.deepEqual(written, [], 'it was written to after it had been taken for durable');
        } else {
          const failed = failure(report);
          const undone = failed.undone ? 'undone' : 'not undone';
          assert.deepEqual([failed.step, undone], expected, failed.reason);
        }
        await isTrue(guest, report, pid);
        await guest.end();
      });
    }

    test('a write that hangs keeps the guest from being proved until it is done', async () => {
      const guest = await guestOf(`failing-${index}-hung`, emulator);
      const pid = await guest.pid();
      guest.fault.set('WH', guest.disk);
      await guest.until(async () => guest.fault.hits().length > 0);
      const report = await guest.quiesce({ timeout: 2500 });
      const { step, undone, reason } = failure(report);
      assert.deepEqual([step, undone], ['stop', false], reason);
      await isTrue(guest, report, pid);
      await guest.end();
    });

    test('a guest that may wake by itself is not called safe', async () => {
      const guest = await guestOf(`failing-${index}-suspended`, emulator);
      const pid = await guest.pid();
      // What a guest does to go to sleep (ACPI S3): PM1a_CNT, sleep type 1 and SLP_EN.
      await guest.qmp('human-monitor-command', { 'command-line': 'o /w 0x604 0x2400' });
      await guest.runstate('suspended');
      const report = await guest.quiesce();
      if (report.outcome?.kind === 'proved') {
        // From QEMU 9 on it is then as paused as any other.
        await assert.rejects(guest.qmp('system_wakeup'), /not in suspended state/);
      } else {
        const { step, undone, reason } = failure(report);
        assert.deepEqual([step, undone], ['stop', true], reason);
        await guest.qmp('system_wakeup');
        await guest.ticks();
      }
      await isTrue(guest, report, pid);
      await guest.end();
    });

    test('a sentinel that cannot be made is noticed, and all is undone', async () => {
      const guest = await guestOf(`failing-${index}-folder`, emulator);
      const pid = await guest.pid();
      // The folder of the sentinels is gone just when they are to be made.
      const folder = `/var/lib/libvirt/qemu/domain-*-${guest.name}`;
      const report = await guest.quiesce({
        before: { 'add-sentinels': { run: ['sh', '-c', `mv ${folder} /var/lib/libvirt/qemu/moved-away`] } },
      });
      const { step, undone, reason } = failure(report);
      assert.deepEqual([step, undone], ['add-sentinels', true], reason);
      await guest.goesOn();
      assert.equal(await guest.pid(), pid, 'its qemu is gone');
      assert.equal(await guest.proof(), undefined);
      await guest.end();
      await node.check(['rm', '-r', '/var/lib/libvirt/qemu/moved-away']);
    });

    test('a host cache that cannot be written back is noticed, and all is undone', async () => {
      const name = `failing-${index}-sync`;
      const disks = [{ path: `/shared/${name}.img`, cache: 'writeback' }] as const;
      const guest = await QuiesceGuest.running(node, name, {
        emulator,
        disks,
        serial: `/shared/${name}.serial`,
      });
      const pid = await guest.pid();
      const programs = '/shared/failing-programs';
      node.write(`${programs}/sync`, '#!/bin/sh\necho "sync: $2: Input/output error" >&2\nexit 1\n');
      await node.check(['chmod', '755', `${programs}/sync`]);
      const report = await guest.quiesce({}, { PATH: `${programs}:/usr/sbin:/usr/bin:/sbin:/bin` });
      const { step, undone, reason } = failure(report);
      assert.deepEqual([step, undone], ['sync', true], reason);
      assert.match(reason, /Input\/output error/);
      await isTrue(guest, report, pid);
      await guest.end();
    });

    test('a flush that failed once in a host cache keeps the guest from ever being proved', async () => {
      const name = `failing-${index}-sticky`;
      const disks = [{ path: `/shared/${name}.img`, cache: 'writeback' }] as const;
      const guest = await QuiesceGuest.running(node, name, { emulator, disks });
      const pid = await guest.pid();
      await guest.failing('F');
      guest.fault.clear();
      for (const _ of ['first', 'second']) {
        const { step, undone, reason } = failure(await guest.quiesce());
        assert.deepEqual([step, undone], ['flush', true], reason);
        assert.equal(await guest.proof(), undefined);
      }
      assert.equal(await guest.pid(), pid, 'its qemu is gone');
      await guest.end();
    });
  });
}

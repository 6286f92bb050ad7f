import type { Deadline } from '../deadline.ts';
import { KvmhaError } from '../error.ts';
import type { Json, Monitor } from '../qemu/qmp.ts';
import { type QuiesceRecord, removeRecord, writeRecord } from '../record/record.ts';
import { blockNodes, devicePath, nodesInUse } from './inspection.ts';
import { guestRanSince } from './observe.ts';
import { removeSentinelFile } from './sentinel.ts';
import type { QuiesceTarget } from './sequence.ts';

/** Whether every device still is on the guest's own image: then the guest can go on, or have gone on, as before. */
export async function nothingMoved(
  record: QuiesceRecord,
  monitor: Monitor,
  deadline: Deadline,
): Promise<boolean> {
  const nodes = new Set((await blockNodes(monitor, deadline)).map((node) => node.name));
  const uses = await nodesInUse(monitor, deadline);
  return record.media.every(
    (medium) =>
      medium.nodes.every((name) => nodes.has(name)) &&
      uses.some(({ qdev, node }) => qdev === medium.qdev && node === medium.nodes[0]),
  );
}

/** Whether a device is on the guest's own image again. */
export async function anyGivenBack(
  record: QuiesceRecord,
  monitor: Monitor,
  deadline: Deadline,
): Promise<boolean> {
  const uses = await nodesInUse(monitor, deadline);
  return record.media.some((medium) =>
    uses.some(({ qdev, node }) => qdev === medium.qdev && node === medium.nodes[0]),
  );
}

/**
 * Gives a guest its images back, removes the sentinels and forgets the attempt. The guest stays paused.
 *
 * @throws KvmhaError as `giveBack`
 */
export async function undo(target: QuiesceTarget, record: QuiesceRecord, deadline: Deadline): Promise<void> {
  await giveBack(target.monitor, record, deadline);
  removeRecord(record.uuid);
}

/**
 * Gives a guest its images back and removes the sentinels, as long as qemu has every image's nodes. The guest stays
 * paused, and the record stays.
 *
 * @throws KvmhaError when it cannot be done, or not by every step
 */
export async function giveBack(monitor: Monitor, record: QuiesceRecord, deadline: Deadline): Promise<void> {
  const execute = (command: string, args: { readonly [key: string]: Json }) =>
    monitor.execute(command, args, deadline);
  const nodes = await blockNodes(monitor, deadline);
  const present = new Set(nodes.map((node) => node.name));
  const lost = record.media.flatMap((medium) => medium.nodes).find((name) => !present.has(name));
  if (lost !== undefined) {
    throw new KvmhaError('malformed', `block node ${lost} is gone already`);
  }
  const uses = await nodesInUse(monitor, deadline);
  const moved = record.media.filter(({ qdev, sentinel }) =>
    uses.some((use) => use.qdev === qdev && use.node === sentinel.node),
  );
  const ran = moved.length === 0 ? undefined : await guestRanSince(record, monitor, deadline);
  if (ran !== undefined) {
    throw new KvmhaError('malformed', `the guest was resumed in the middle of being quiesced: ${ran}`);
  }
  // From here on the guest may come to write again, and what was proved before says nothing any more.
  writeRecord({ ...record, durable: false });
  for (const {
    nodes: [top],
    options,
  } of record.media) {
    // Reopening flushes, which failing storage refuses: leave alone what is writable still.
    if (options !== undefined && nodes.some((node) => node.name === top && node.readOnly)) {
      await execute('blockdev-reopen', { options: [{ ...options, 'read-only': false }] });
    }
  }
  for (const {
    qdev,
    iothread,
    nodes: [top = ''],
  } of moved) {
    // A node that was opened anew is in the main loop, and the device wants it to be where its other media are.
    if (record.resuming && iothread !== undefined) {
      await execute('x-blockdev-set-iothread', { 'node-name': top, iothread });
    }
    await execute('qom-set', { path: devicePath(qdev), property: 'drive', value: top });
  }
  for (const { sentinel } of record.media) {
    for (const name of [sentinel.node, sentinel.fileNode].filter((node) => present.has(node))) {
      await execute('blockdev-del', { 'node-name': name });
    }
    removeSentinelFile(sentinel);
  }
  for (const name of record.interfaces) {
    await execute('set_link', { name, up: true });
  }
}

import { chmodSync, chownSync, existsSync, rmSync, statfsSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Deadline } from '../deadline.ts';
import { KvmhaError, messageOf } from '../error.ts';
import { identify } from '../linux/open-files.ts';
import { syncFile } from '../linux/sync.ts';
import type { QemuProcess } from '../qemu/qemu-process.ts';
import { isObject, type Json, type Monitor } from '../qemu/qmp.ts';
import {
  type QuiesceRecord,
  type RecordedMedium,
  readRecord,
  removeRecord,
  type Sentinel,
  writeRecord,
} from '../record/record.ts';
import { runChecked } from '../run.ts';
import { assess, type Medium, type Plan } from './assess.ts';
import { type BlockNode, blockNodes, inspect } from './inspection.ts';
import { observeProof, sentinelsInactive } from './observe.ts';
import { isComplete, missingItems, type Proof } from './proof.ts';

/** The guest to be quiesced, and how to reach its qemu. The caller holds the domain's lock. */
export interface QuiesceTarget {
  readonly name: string;
  readonly uuid: string;
  /** Pacemaker's name for the guest, where Pacemaker asked. */
  readonly resource: string | undefined;
  /** What is wrong with the guest, for the record. */
  readonly fault: string;
  readonly qemu: QemuProcess;
  readonly monitor: Monitor;
  /** Where a confined qemu may open files of its own: libvirt's folder of the domain. */
  readonly sentinelDirectory: string;
}

/** The steps of the sequence in their order; each can be interrupted and is then done again or found done. */
export const STEPS = [
  'stop',
  'flush',
  'create-sentinels',
  'record',
  'add-sentinels',
  'links-down',
  'move-devices',
  'take-read-only',
  'sync',
  'record-durable',
  'delete-nodes',
  'inactivate',
  'unlink-sentinels',
  'prove',
] as const;
export type Step = (typeof STEPS)[number];

export type QuiesceOutcome =
  | { readonly kind: 'proved'; readonly proof: Proof }
  /** Nothing was changed: this guest cannot be proved safe, each reason in words for people. */
  | { readonly kind: 'refused'; readonly reasons: readonly string[] }
  /** A step failed. `undone`: the guest is as it was before, except that it is paused. */
  | { readonly kind: 'failed'; readonly step: Step; readonly reason: string; readonly undone: boolean };

/** What the names of the sentinels' block nodes begin with. */
export const SENTINEL_PREFIX = 'kvmha-sentinel-';

/** Told of every step before it is taken. */
export type StepListener = (step: Step) => void;

/**
 * Makes a guest quiesced-failover-safe and proves it, or says why not. A sequence that an earlier process began
 * and did not end is taken up where it stopped.
 *
 * No step destroys anything before every image was flushed, taken read-only and synced without an error: a
 * failure until then is undone as far as QEMU and the storage let it.
 *
 * @throws KvmhaError only where not even the state of the guest could be read; nothing was changed then
 */
export async function quiesce(
  target: QuiesceTarget,
  deadline: Deadline,
  onStep: StepListener = () => {},
): Promise<QuiesceOutcome> {
  const sequence = new Sequence(target, deadline, onStep);
  const begun = readRecord(target.uuid);
  if (begun !== undefined && isOf(begun, target)) {
    return sequence.carryOut(begun);
  }
  const inspection = await inspect(target.qemu.argv, target.monitor, deadline);
  const assessment = assess(inspection, fileSystemOf);
  if (assessment.kind === 'refused') {
    return assessment;
  }
  return sequence.begin(assessment.plan);
}

/** Whether a record speaks of this very qemu, and not of an earlier one of the same domain. */
export function isOf(record: QuiesceRecord, target: { readonly qemu: QemuProcess }): boolean {
  return record.qemu.pid === target.qemu.pid && record.qemu.startTime === target.qemu.startTime;
}

class Sequence {
  readonly #target: QuiesceTarget;
  readonly #deadline: Deadline;
  readonly #onStep: StepListener;
  #step: Step = 'stop';

  constructor(target: QuiesceTarget, deadline: Deadline, onStep: StepListener) {
    this.#target = target;
    this.#deadline = deadline;
    this.#onStep = onStep;
  }

  /** Stops the guest, proves that its images can be flushed, and only then begins to change anything. */
  async begin(plan: Plan): Promise<QuiesceOutcome> {
    let wasRunning = false;
    try {
      wasRunning = await this.#isRunning();
      this.#enter('stop');
      await this.#stop();
      this.#enter('flush');
      for (const medium of writable(plan.media)) {
        await this.#reopen(medium, { 'read-only': false });
      }
      this.#enter('create-sentinels');
      const media = await Promise.all(plan.media.map((medium, index) => this.#withSentinel(medium, index)));
      const record = this.#newRecord(plan, media);
      this.#enter('record');
      writeRecord(record);
      return await this.carryOut(record, wasRunning);
    } catch (error) {
      const undone = await this.#tryTo(() => this.#resumeIf(wasRunning));
      return this.#failed(error, undone);
    }
  }

  /** Does what is left to do for a recorded guest. Every step finds out first whether it is done already. */
  async carryOut(record: QuiesceRecord, wasRunning = false): Promise<QuiesceOutcome> {
    try {
      this.#enter('stop');
      await this.#stop();
      const letGo = await this.#letGo(record);
      await this.#inactivate(letGo);
      this.#enter('unlink-sentinels');
      for (const { sentinel } of record.media) {
        rmSync(sentinel.path, { force: true });
      }
      this.#preferForOomKill(record);
      this.#enter('prove');
      const proof = await observeProof(letGo, this.#target.monitor, this.#deadline);
      if (isComplete(proof)) {
        return { kind: 'proved', proof };
      }
      const missing = missingItems(proof).map((item) => `${item}: ${proof[item]?.seen ?? 'not seen'}`);
      return this.#failed(new KvmhaError('malformed', missing.join('; ')), false);
    } catch (error) {
      const undone = await this.#tryTo(() => undo(this.#target, record, this.#deadline));
      if (undone) {
        await this.#tryTo(() => this.#resumeIf(wasRunning));
      }
      return this.#failed(error, undone);
    }
  }

  /** Until qemu has let every image go. */
  async #letGo(record: QuiesceRecord): Promise<QuiesceRecord> {
    const imagesLeft = (nodes: readonly BlockNode[]) =>
      record.media.filter((medium) =>
        medium.chain.some(({ name }) => nodes.some((node) => node.name === name)),
      );
    const held = imagesLeft(await this.#nodes());
    if (held.length === 0) {
      return record;
    }
    this.#enter('add-sentinels');
    for (const { sentinel } of held) {
      await this.#addSentinel(sentinel);
    }
    this.#enter('links-down');
    for (const name of record.interfaces) {
      await this.#execute('set_link', { name, up: false });
    }
    this.#enter('move-devices');
    const inUse = await nodesInUse(this.#target.monitor, this.#deadline);
    for (const { qdev, sentinel } of held) {
      // Moving a device to the node it is on already aborts qemu.
      if (!inUse.has(sentinel.node)) {
        await this.#execute('qom-set', { path: qdev, property: 'drive', value: sentinel.node });
      }
    }
    const durable = await this.#makeDurable(record, held);
    this.#enter('delete-nodes');
    for (const medium of held) {
      const present = new Set((await this.#nodes()).map((node) => node.name));
      for (const { name } of medium.chain.filter(({ name }) => present.has(name))) {
        await this.#execute('blockdev-del', { 'node-name': name });
      }
    }
    return durable;
  }

  /**
   * Taking an image read-only stores what the format keeps back (bitmaps, the dirty bit), flushes it, and is the
   * last moment at which QEMU reports a write error: `blockdev-del` never does.
   */
  async #makeDurable(record: QuiesceRecord, held: readonly RecordedMedium[]): Promise<QuiesceRecord> {
    this.#enter('take-read-only');
    const present = new Set((await this.#nodes()).map((node) => node.name));
    for (const medium of writable(held)) {
      // An interrupted sequence may have deleted the upper node, after it was read-only, and not yet the lower.
      if (medium.chain[0] !== undefined && present.has(medium.chain[0].name)) {
        await this.#reopen(medium, { 'read-only': true });
      }
    }
    this.#enter('sync');
    for (const medium of writable(held)) {
      if (!medium.direct) {
        await syncFile(medium.image.path, this.#deadline);
      }
    }
    this.#enter('record-durable');
    const durable = { ...record, durable: true };
    writeRecord(durable);
    return durable;
  }

  async #withSentinel(medium: Medium, index: number): Promise<RecordedMedium> {
    const image = identify(medium.filename);
    const path = join(this.#target.sentinelDirectory, `${SENTINEL_PREFIX}${index}.vdi`);
    // vdi is a format that QEMU refuses to save or migrate, so that nobody can carry the guest away.
    await runChecked('qemu-img', ['create', '-q', '-f', 'vdi', '--', path, String(medium.virtualSize)], {
      deadline: this.#deadline,
    });
    const owner = statSync(this.#target.sentinelDirectory);
    chownSync(path, owner.uid, owner.gid);
    chmodSync(path, 0o600);
    const node = `${SENTINEL_PREFIX}${index}`;
    return {
      ...medium,
      image,
      sentinel: { node, fileNode: `${node}-file`, path, size: statSync(path).size },
    };
  }

  async #addSentinel(sentinel: Sentinel): Promise<void> {
    const present = new Set((await this.#nodes()).map((node) => node.name));
    if (!present.has(sentinel.fileNode)) {
      await this.#execute('blockdev-add', {
        driver: 'file',
        'node-name': sentinel.fileNode,
        filename: sentinel.path,
        // Without it the file would stay open for writing, and `cont` would not have to open it anew.
        'auto-read-only': true,
        // A confined qemu may open files in its folder, but not lock them.
        locking: 'off',
      });
    }
    if (!present.has(sentinel.node)) {
      await this.#execute('blockdev-add', {
        driver: 'vdi',
        'node-name': sentinel.node,
        file: sentinel.fileNode,
      });
    }
  }

  /** Once: before QEMU 10 a second inactivation aborts qemu. */
  async #inactivate(record: QuiesceRecord): Promise<void> {
    this.#enter('inactivate');
    if (sentinelsInactive(record, await this.#nodes())) {
      return;
    }
    if (record.inactivate === 'blockdev-set-active') {
      await this.#execute('blockdev-set-active', { active: false });
    } else {
      await this.#execute('xen-save-devices-state', { filename: '/dev/null', live: true });
    }
  }

  /** Also where the vCPUs are stopped already: QEMU then waits for the requests that are still in flight. */
  async #stop(): Promise<void> {
    await this.#execute('stop', {});
    if (await this.#isRunning()) {
      throw new KvmhaError('protocol', 'QEMU answered stop, but query-status says that the vCPUs run');
    }
  }

  async #resumeIf(wasRunning: boolean): Promise<void> {
    if (wasRunning) {
      await this.#execute('cont', {});
    }
  }

  async #isRunning(): Promise<boolean> {
    const status = await this.#execute('query-status', {});
    if (!isObject(status) || typeof status['running'] !== 'boolean') {
      throw new KvmhaError('protocol', 'query-status: the answer lacks "running"');
    }
    return status['running'];
  }

  async #reopen(
    medium: { readonly chain: RecordedMedium['chain'] },
    change: { 'read-only': boolean },
  ): Promise<void> {
    const [top] = medium.chain;
    if (top !== undefined) {
      await this.#execute('blockdev-reopen', { options: [{ ...top.options, ...change }] });
    }
  }

  #nodes(): Promise<BlockNode[]> {
    return blockNodes(this.#target.monitor, this.#deadline);
  }

  #execute(command: string, args: { readonly [key: string]: Json }): Promise<Json> {
    return this.#target.monitor.execute(command, args, this.#deadline);
  }

  #newRecord(plan: Plan, media: readonly RecordedMedium[]): QuiesceRecord {
    const { name, uuid, resource, fault, qemu } = this.#target;
    return {
      name,
      uuid,
      resource,
      fault,
      qemu: { pid: qemu.pid, startTime: qemu.startTime },
      begun: new Date().toISOString(),
      media,
      interfaces: plan.interfaces,
      inactivate: plan.inactivate,
      durable: false,
    };
  }

  /** A preserved qemu is the one to go when the node runs out of memory. */
  #preferForOomKill(record: QuiesceRecord): void {
    writeFileSync(`/proc/${record.qemu.pid}/oom_score_adj`, '1000');
  }

  #enter(step: Step): void {
    this.#step = step;
    this.#onStep(step);
  }

  async #tryTo(work: () => Promise<void>): Promise<boolean> {
    try {
      await work();
      return true;
    } catch {
      return false; // the failure that led here is the one to report
    }
  }

  #failed(error: unknown, undone: boolean): QuiesceOutcome {
    return { kind: 'failed', step: this.#step, reason: messageOf(error), undone };
  }
}

/**
 * Gives a guest its images back and removes the sentinels, as long as qemu still has every image's nodes.
 * The guest stays paused.
 *
 * @throws KvmhaError when it cannot be undone, or not by every step: the record then stays
 */
export async function undo(target: QuiesceTarget, record: QuiesceRecord, deadline: Deadline): Promise<void> {
  const { monitor } = target;
  const execute = (command: string, args: { readonly [key: string]: Json }) =>
    monitor.execute(command, args, deadline);
  const nodes = new Set((await blockNodes(monitor, deadline)).map((node) => node.name));
  const lost = record.media.flatMap(({ chain }) => chain.filter(({ name }) => !nodes.has(name)));
  if (lost.length > 0) {
    throw new KvmhaError('malformed', `block node ${lost[0]?.name} is gone already`);
  }
  // From here on the guest may come to write again, and what was proved before says nothing any more.
  writeRecord({ ...record, durable: false });
  const inUse = await nodesInUse(monitor, deadline);
  for (const medium of record.media) {
    const [top] = medium.chain;
    if (top !== undefined && !medium.readOnly) {
      await execute('blockdev-reopen', { options: [{ ...top.options, 'read-only': false }] });
    }
    if (top !== undefined && inUse.has(medium.sentinel.node)) {
      await execute('qom-set', { path: medium.qdev, property: 'drive', value: top.name });
    }
    for (const name of [medium.sentinel.node, medium.sentinel.fileNode].filter((node) => nodes.has(node))) {
      await execute('blockdev-del', { 'node-name': name });
    }
    rmSync(medium.sentinel.path, { force: true });
  }
  for (const name of record.interfaces) {
    await execute('set_link', { name, up: true });
  }
  removeRecord(record.uuid);
}

/** The media whose writes must be made durable. */
function writable<T extends { readonly readOnly: boolean }>(media: readonly T[]): readonly T[] {
  return media.filter((medium) => !medium.readOnly);
}

/** The block nodes that devices use now. */
async function nodesInUse(monitor: Monitor, deadline: Deadline): Promise<ReadonlySet<string>> {
  const devices = await monitor.execute('query-block', {}, deadline);
  const inserted = (Array.isArray(devices) ? devices : []).map((device) =>
    isObject(device) ? device['inserted'] : undefined,
  );
  return new Set(inserted.map((medium) => (isObject(medium) ? String(medium['node-name']) : '')));
}

function fileSystemOf(path: string): number | undefined {
  return existsSync(path) ? statfsSync(path).type : undefined;
}

import type { Deadline } from '../deadline.ts';
import { isKvmhaError, KvmhaError, messageOf } from '../error.ts';
import type { Connection } from '../linux/connections.ts';
import { type FileStamp, stampFiles, stampLocalFile } from '../linux/file-stamp.ts';
import { type FileIdentity, openedAt, openedLocally } from '../linux/open-files.ts';
import { readOomScore, writeOomScore } from '../linux/process.ts';
import { syncFiles } from '../linux/sync.ts';
import type { QemuProcess } from '../qemu/qemu-process.ts';
import { isObject, type Json, type Monitor } from '../qemu/qmp.ts';
import { type QuiesceRecord, type RecordedMedium, readRecord, writeRecord } from '../record/record.ts';
import type { Medium, Plan } from './assess.ts';
import { assessGuest } from './assess-guest.ts';
import { identifyImages } from './image.ts';
import { blockNodes, devicePath, nodesInUse, requestsMade } from './inspection.ts';
import { sameConnections } from './network-disk.ts';
import { guestRanSince, inactiveSentinels, isQuiet, observeProof, VcpuWatch } from './observe.ts';
import { isComplete, missingItems, type Proof } from './proof.ts';
import { makeSentinelFile, newSentinel, type Sentinel, unlinkSentinel } from './sentinel.ts';
import { anyGivenBack, giveBack, nothingMoved, undo } from './undo.ts';

export { SENTINEL_PREFIX } from './sentinel.ts';
export { nothingMoved } from './undo.ts';

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

/** What is known of a guest that can be quiesced. */
interface Assessed {
  readonly plan: Plan;
  readonly images: readonly FileIdentity[];
  readonly connections: readonly Connection[];
}

/** The steps of the sequence in their order; each can be interrupted and is then done again or found done. */
export const STEPS = [
  'record',
  'stop',
  'flush',
  'record-requests',
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

/** Nothing was changed: this guest cannot be proved safe, each reason in words for people. */
export interface Refusal {
  readonly kind: 'refused';
  readonly reasons: readonly string[];
}

export type QuiesceOutcome =
  | { readonly kind: 'proved'; readonly proof: Proof }
  | Refusal
  /** A step failed. `undone`: the guest is as it was before, except that it may be paused. */
  | { readonly kind: 'failed'; readonly step: Step; readonly reason: string; readonly undone: boolean };

/** Told of every step before it is taken. */
export type StepListener = (step: Step) => void;

/** Milliseconds in which the storage must tell of the images, once it has taken their last writes. */
const STAMP_PATIENCE = 1000;

/** Milliseconds kept for undoing what was done when a step hangs, where the deadline allows it. */
const UNDO_RESERVE = 2000;

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
    const onItsOwn = await nothingMoved(begun, target.monitor, deadline);
    const isForgotten = begun.wasPreserved && onItsOwn && (await hasRun(begun, target.monitor, deadline));
    if (!onItsOwn || (begun.wasPreserved && !isForgotten)) {
      return sequence.takeUp(begun);
    }
    // It was interrupted early, or resumed in the end: the guest may have run since, and been given other disks.
    await undo(target, begun, deadline);
  }
  const assessment = await assessGuest(target.qemu, target.monitor, deadline);
  const wasRunning = begun?.wasRunning === true;
  return assessment.kind === 'refused'
    ? sequence.refuse(assessment, wasRunning)
    : sequence.begin(assessment, wasRunning);
}

async function hasRun(record: QuiesceRecord, monitor: Monitor, deadline: Deadline): Promise<boolean> {
  const status = await monitor.execute('query-status', {}, deadline);
  const runs = isObject(status) && status['running'] === true;
  return runs || (await guestRanSince(record, monitor, deadline)) !== undefined;
}

/** Whether a record speaks of this very qemu, and not of an earlier one of the same domain. */
export function isOf(record: QuiesceRecord, target: { readonly qemu: QemuProcess }): boolean {
  return record.qemu.pid === target.qemu.pid && record.qemu.startTime === target.qemu.startTime;
}

class Sequence {
  readonly #target: QuiesceTarget;
  readonly #whole: Deadline;
  /** Leaves time of the whole for undoing. */
  readonly #deadline: Deadline;
  readonly #onStep: StepListener;
  #step: Step = 'record';

  constructor(target: QuiesceTarget, deadline: Deadline, onStep: StepListener) {
    this.#target = target;
    this.#whole = deadline;
    this.#deadline = deadline.reserving(Math.min(UNDO_RESERVE, deadline.remaining() / 4));
    this.#onStep = onStep;
  }

  /**
   * Stops the guest, proves that its images can be flushed, and only then begins to change anything.
   *
   * @param wasRunning the guest ran before an earlier attempt stopped it
   */
  async begin(assessed: Assessed, wasRunning: boolean): Promise<QuiesceOutcome> {
    const { plan } = assessed;
    let record: QuiesceRecord | undefined;
    try {
      const { running } = await this.#status();
      this.#enter('record');
      // Before the guest is stopped, so that one which is left stopped is known to have been stopped by us.
      const begun = await this.#newRecord(assessed, running || wasRunning);
      writeRecord(begun);
      record = begun;
      this.#enter('stop');
      await this.#stop();
      this.#enter('flush');
      for (const medium of plan.media) {
        await this.#reopen(medium, { 'read-only': false });
      }
      this.#enter('record-requests');
      record = await this.#withRequests(begun);
      writeRecord(record);
    } catch (error) {
      return this.#failed(error, record === undefined || (await this.#undone(record)));
    }
    return this.#carryOut(record);
  }

  /** A guest that an earlier attempt stopped goes on, if it is not to be quiesced after all. */
  async refuse(refusal: Refusal, wasRunning: boolean): Promise<QuiesceOutcome> {
    await this.#tryTo(() => this.#resumeIf(wasRunning));
    return refusal;
  }

  /** Does what is left to do for a guest whose sequence was interrupted after its devices had begun to move. */
  async takeUp(record: QuiesceRecord): Promise<QuiesceOutcome> {
    try {
      const { running } = await this.#status();
      this.#enter('stop');
      await this.#stop();
      const ran = running
        ? 'it was running on its sentinels'
        : await guestRanSince(record, this.#target.monitor, this.#deadline);
      if (ran !== undefined) {
        // Neither way leads back: it was told of writes, or of errors, that its images do not know.
        throw new KvmhaError('malformed', `the guest was resumed in the middle of being quiesced: ${ran}`);
      }
      if (record.resuming && (await anyGivenBack(record, this.#target.monitor, this.#deadline))) {
        // Those that were not are on sentinels that are inactive, and a sentinel that is made anew is not.
        await giveBack(this.#target.monitor, record, this.#deadline);
      }
    } catch (error) {
      return this.#failed(error, false);
    }
    return this.#carryOut(record);
  }

  /** Every step finds out first whether it is done already. */
  async #carryOut(record: QuiesceRecord): Promise<QuiesceOutcome> {
    try {
      const watch = await VcpuWatch.begin(record.qemu.pid, this.#target.monitor, this.#deadline);
      const letGo = await this.#letGo(record);
      await this.#inactivate(letGo);
      this.#enter('unlink-sentinels');
      for (const { sentinel } of record.media) {
        unlinkSentinel(sentinel);
      }
      this.#preferForOomKill(record);
      this.#enter('prove');
      const proof = await observeProof(letGo, this.#target.monitor, this.#deadline, watch);
      if (isComplete(proof)) {
        return { kind: 'proved', proof };
      }
      const missing = missingItems(proof).map((item) => `${item}: ${proof[item]?.seen ?? 'not seen'}`);
      return this.#failed(new KvmhaError('malformed', missing.join('; ')), false);
    } catch (error) {
      return this.#failed(error, await this.#undone(record));
    }
  }

  /** Gives the guest back as it was before, if that can be and may be. */
  async #undone(record: QuiesceRecord): Promise<boolean> {
    if (record.wasPreserved) {
      return false;
    }
    return this.#tryTo(async () => {
      await undo(this.#target, record, this.#whole);
      await this.#resumeIf(record.wasRunning);
    });
  }

  /** Until qemu has let every image go. */
  async #letGo(record: QuiesceRecord): Promise<QuiesceRecord> {
    const present = await this.#nodes();
    const held = record.media.filter((medium) => medium.nodes.some((name) => present.has(name)));
    const lost = record.media.flatMap(({ nodes }) => nodes).find((name) => !present.has(name));
    if (lost !== undefined && !record.durable) {
      throw new KvmhaError('malformed', `block node ${lost} was deleted, and not by this sequence`);
    }
    if (held.length === 0) {
      return record.resuming ? this.#write(notResuming(record)) : record;
    }
    this.#enter('add-sentinels');
    for (const { sentinel } of held) {
      await this.#addSentinel(sentinel, present);
    }
    this.#enter('links-down');
    for (const name of record.interfaces) {
      await this.#execute('set_link', { name, up: false });
    }
    this.#enter('move-devices');
    await this.#moveDevices(held);
    const durable = await this.#makeDurable(record, held, present);
    // From here on nothing is undone, and a sentinel that is not seen is never called inactive.
    demandSentinels(record.qemu.pid, held);
    this.#enter('delete-nodes');
    for (const node of held.flatMap(({ nodes }) => nodes).filter((name) => present.has(name))) {
      await this.#execute('blockdev-del', { 'node-name': node });
    }
    return durable;
  }

  async #moveDevices(media: readonly RecordedMedium[]): Promise<void> {
    const uses = await nodesInUse(this.#target.monitor, this.#deadline);
    for (const { qdev, sentinel, iothread } of media) {
      const node = uses.find((use) => use.qdev === qdev)?.node;
      // Moving a device to the node it is on already aborts qemu.
      if (node === sentinel.node) {
        continue;
      }
      if (iothread !== undefined) {
        await this.#execute('x-blockdev-set-iothread', { 'node-name': sentinel.node, iothread });
      }
      await this.#execute('qom-set', { path: devicePath(qdev), property: 'drive', value: sentinel.node });
    }
  }

  /**
   * Taking an image read-only stores what the format keeps back (bitmaps, the dirty bit), flushes it, and is the
   * last moment at which QEMU reports a write error: `blockdev-del` never does.
   */
  async #makeDurable(
    record: QuiesceRecord,
    held: readonly RecordedMedium[],
    present: ReadonlySet<string>,
  ): Promise<QuiesceRecord> {
    // Once durable, an image may have lost its upper node already; the others are flushed once more.
    const whole = held.filter((medium) => medium.nodes.every((name) => present.has(name)));
    this.#enter('take-read-only');
    for (const medium of whole) {
      await this.#reopen(medium, { 'read-only': true });
    }
    this.#enter('sync');
    const cached = whole
      .filter(({ readOnly, direct }) => !readOnly && !direct)
      .flatMap(({ files }) => files.slice(0, 1));
    await identifyImages(record.qemu.pid, cached, this.#deadline);
    await syncFiles(
      cached.map((file) => `/proc/${record.qemu.pid}/root${file}`),
      this.#deadline,
    );
    await this.#demandConnections(record, present);
    const media = await this.#withStamps(record.media, whole);
    this.#enter('record-durable');
    return this.#write({ ...notResuming(record), media, durable: true });
  }

  /** A connection that was made anew meanwhile has taken the flush past a write that was sent by the one before. */
  async #demandConnections(record: QuiesceRecord, present: ReadonlySet<string>): Promise<void> {
    const servers = record.media
      .filter(({ nodes }) => nodes.every((name) => present.has(name)))
      .flatMap((medium) => medium.servers ?? []);
    if (servers.length > 0) {
      await sameConnections(record.qemu.pid, servers, record.connections ?? [], this.#deadline);
    }
  }

  /**
   * Remembers how the images are left. Only `kvmha resume` needs it, so that it cannot be seen is no failure; and the
   * first time counts, for what was let go since may have been another host's.
   */
  async #withStamps(
    media: readonly RecordedMedium[],
    whole: readonly RecordedMedium[],
  ): Promise<readonly RecordedMedium[]> {
    const unseen = whole.filter(({ left }) => left === undefined);
    const { pid } = this.#target.qemu;
    const files = unseen.flatMap((medium) => medium.files);
    const paths = files.map((file) => `/proc/${pid}/root${file}`);
    let stamps: readonly FileStamp[];
    try {
      // A child that looks takes longer than all the rest of the sequence.
      const local = openedLocally(pid, files);
      stamps = files.every((file) => local.has(file))
        ? paths.map(stampLocalFile)
        : await stampFiles(paths, this.#deadline.within(STAMP_PATIENCE));
    } catch (error) {
      if (isKvmhaError(error)) {
        return media;
      }
      throw error;
    }
    const next = stamps.values();
    const left = new Map(
      unseen.map((medium) => [medium, medium.files.flatMap(() => next.next().value ?? [])]),
    );
    return media.map((medium) => ({ ...medium, left: medium.left ?? left.get(medium) }));
  }

  #write(record: QuiesceRecord): QuiesceRecord {
    writeRecord(record);
    return record;
  }

  async #addSentinel(sentinel: Sentinel, present: ReadonlySet<string>): Promise<void> {
    if (!present.has(sentinel.fileNode)) {
      makeSentinelFile(sentinel);
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

  /** Once: before QEMU 10 it aborts qemu when a node is inactive already. */
  async #inactivate(record: QuiesceRecord): Promise<void> {
    this.#enter('inactivate');
    const nodes = await blockNodes(this.#target.monitor, this.#deadline);
    const inactive = inactiveSentinels(record, nodes).length;
    if (inactive === record.media.length) {
      return;
    }
    if (inactive > 0) {
      throw new KvmhaError('malformed', `only ${inactive} of ${record.media.length} sentinels are inactive`);
    }
    demandSentinels(record.qemu.pid, record.media);
    if (record.inactivate === 'blockdev-set-active') {
      await this.#execute('blockdev-set-active', { active: false });
    } else {
      await this.#execute('xen-save-devices-state', { filename: '/dev/null', live: true });
    }
  }

  /** Also where the vCPUs are stopped already: QEMU then waits for the requests that are still in flight. */
  async #stop(): Promise<void> {
    await this.#execute('stop', {});
    const { running, status } = await this.#status();
    if (running || !isQuiet(status)) {
      const why = running ? 'the vCPUs run' : 'something else than a command can make the vCPUs run';
      throw new KvmhaError(
        'protocol',
        `QEMU answered stop, but query-status says ${status}, in which ${why}`,
      );
    }
  }

  /** Lets a guest go on that we have stopped; one that has met a fault by then is not ours to resume. */
  async #resumeIf(wasRunning: boolean): Promise<void> {
    if (wasRunning && (await this.#status()).status === 'paused') {
      await this.#target.monitor.execute('cont', {}, this.#whole);
    }
  }

  async #status(): Promise<{ running: boolean; status: string }> {
    const answer = await this.#target.monitor.execute('query-status', {}, this.#whole);
    if (!isObject(answer) || typeof answer['running'] !== 'boolean' || typeof answer['status'] !== 'string') {
      throw new KvmhaError('protocol', 'query-status: the answer lacks "running" or "status"');
    }
    return { running: answer['running'], status: answer['status'] };
  }

  /** Does nothing to a read-only medium. */
  async #reopen({ options }: Medium, change: { 'read-only': boolean }): Promise<void> {
    if (options !== undefined) {
      await this.#execute('blockdev-reopen', { options: [{ ...options, ...change }] });
    }
  }

  async #nodes(): Promise<ReadonlySet<string>> {
    return new Set((await blockNodes(this.#target.monitor, this.#deadline)).map((node) => node.name));
  }

  #execute(command: string, args: { readonly [key: string]: Json }): Promise<Json> {
    return this.#target.monitor.execute(command, args, this.#deadline);
  }

  async #newRecord({ plan, images, connections }: Assessed, wasRunning: boolean): Promise<QuiesceRecord> {
    const { name, uuid, resource, fault, qemu, sentinelDirectory } = this.#target;
    const identities = images.values();
    return this.#withRequests({
      name,
      uuid,
      resource,
      fault,
      qemu: { pid: qemu.pid, startTime: qemu.startTime },
      begun: new Date().toISOString(),
      media: plan.media.map((medium, index) => ({
        ...medium,
        images: medium.files.flatMap(() => identities.next().value ?? []),
        sentinel: newSentinel(sentinelDirectory, index),
        requests: 0,
      })),
      ...(connections.length === 0 ? {} : { connections }),
      interfaces: plan.interfaces,
      memory: plan.memory,
      inactivate: plan.inactivate,
      wasRunning,
      durable: false,
      oomScore: readOomScore(qemu.pid),
    });
  }

  async #withRequests(record: QuiesceRecord): Promise<QuiesceRecord> {
    const requests = await requestsMade(this.#target.monitor, this.#deadline);
    const media = record.media.map((medium) => {
      const made = requests.get(medium.qdev);
      if (made === undefined) {
        throw new KvmhaError('protocol', `query-blockstats: nothing is said of ${medium.qdev}`);
      }
      return { ...medium, requests: made };
    });
    return { ...record, media };
  }

  /** A preserved qemu is the one to go when the node runs out of memory. That is a wish, and no part of the proof. */
  #preferForOomKill(record: QuiesceRecord): void {
    writeOomScore(record.qemu.pid, 1000);
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

/** @throws KvmhaError `file` where qemu has a sentinel's file not open by its name */
function demandSentinels(pid: number, media: readonly RecordedMedium[]): void {
  const opened = openedAt(
    pid,
    media.map(({ sentinel }) => sentinel.path),
  );
  const unseen = media.find(({ sentinel }) => opened.get(sentinel.path)?.length === 0);
  if (unseen !== undefined) {
    const { path } = unseen.sentinel;
    const why = 'it was moved or replaced, so that nothing shows whether its node is inactive';
    throw new KvmhaError('file', `qemu has no file open that is called ${path}: ${why}`);
  }
}

function notResuming({ resuming: _, ...record }: QuiesceRecord): QuiesceRecord {
  return record;
}

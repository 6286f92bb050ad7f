import { lstatSync } from 'node:fs';
import { type Deadline, sleep } from '../deadline.ts';
import { errnoOf, KvmhaError, messageOf } from '../error.ts';
import { connectionsTo, hasConnection, serverName } from '../linux/connections.ts';
import { holdsOf, openedAt, openStorage } from '../linux/open-files.ts';
import { isAlive, processorTime, readStat } from '../linux/process.ts';
import { isObject, type Monitor } from '../qemu/qmp.ts';
import type { QuiesceRecord } from '../record/record.ts';
import { type BlockNode, blockNodes, nodesInUse, requestsMade } from './inspection.ts';
import type { Finding, Proof, ProofItem } from './proof.ts';
import { SENTINEL_BYTES, type Sentinel } from './sentinel.ts';

/** Two looks at the processor time of the vCPU threads lie at least this far apart, in milliseconds. */
const VCPU_WATCH = 20;

/** So often is a vCPU thread looked at again that was at work for somebody else (a dump, `info registers`). */
const VCPU_LOOKS = 25;

/**
 * Whether only a command can make the vCPUs run again from this runstate (QAPI `RunState`). From `suspended` the
 * guest wakes by itself, at its clock's alarm; `debug`, a migration and a restore belong to somebody else.
 */
export function isQuiet(runstate: string): boolean {
  return QUIET_RUN_STATES.has(runstate);
}

const QUIET_RUN_STATES: ReadonlySet<string> = new Set([
  'paused',
  'io-error',
  'internal-error',
  'watchdog',
  'guest-panicked',
  'prelaunch', // stopped, and reset since
]);

/**
 * Looks at a guest for the proof that it is quiesced-failover-safe. Changes nothing. What cannot be seen, also
 * because QEMU does not answer, is a finding that does not hold.
 *
 * @param earlier a watch of the vCPUs that began before, to save the time of a new one
 */
export async function observeProof(
  record: QuiesceRecord,
  monitor: Monitor,
  deadline: Deadline,
  earlier?: VcpuWatch,
): Promise<Proof> {
  const proof: { [item in ProofItem]?: Finding } = {};
  const look = async (item: ProofItem, finding: () => Finding | Promise<Finding>) => {
    try {
      proof[item] = await finding();
    } catch (error) {
      proof[item] = no(`could not be seen: ${messageOf(error)}`);
    }
  };
  let watch = earlier;
  await look('qemu-alive', () => qemuAlive(record));
  await look('vcpus-stopped', async () => {
    watch ??= await VcpuWatch.begin(record.qemu.pid, monitor, deadline);
    return no('looked at once only');
  });
  await look('writes-durable', () => writesDurable(record, monitor, deadline));
  await look('block-nodes-released', async () => nodesReleased(record, await blockNodes(monitor, deadline)));
  await look('images-released', () => imagesReleased(record, deadline));
  await look('resume-blocked', () => resumeBlocked(record, monitor, deadline));
  await look('migration-blocked', () => migrationBlocked(record, monitor, deadline));
  // Last, so that all of it was seen between two looks at vCPUs that stand still.
  const begun = watch;
  if (begun !== undefined) {
    await look('vcpus-stopped', () => begun.end(monitor, deadline));
  }
  return proof;
}

/**
 * The sentinels that are inactive. It shows by the descriptor: `auto-read-only` takes a file read-only when its node
 * is not in use for writing any more. QEMU 10 says it, too, and what counts is what it says of the upper node: a
 * `cont` that was refused leaves the file's node active, read-only as it is.
 */
export function inactiveSentinels(record: QuiesceRecord, nodes: readonly BlockNode[]): Sentinel[] {
  const sentinels = record.media.map((medium) => medium.sentinel);
  const opened = openedAt(
    record.qemu.pid,
    sentinels.map(({ path }) => path),
  );
  return sentinels.filter((sentinel) => {
    const node = nodes.find(({ name }) => name === sentinel.node);
    const files = opened.get(sentinel.path) ?? [];
    return (
      node !== undefined &&
      node.active !== true &&
      nodes.some(({ name }) => name === sentinel.fileNode) &&
      files.length > 0 &&
      files.every((file) => !file.writable)
    );
  });
}

/**
 * Whether the vCPUs ran since the guest was stopped, judged by what they must have done then: requests of its
 * devices, or writes to a sentinel.
 *
 * @returns what shows it, or undefined
 */
export async function guestRanSince(
  record: QuiesceRecord,
  monitor: Monitor,
  deadline: Deadline,
): Promise<string | undefined> {
  const requests = await requestsMade(monitor, deadline);
  const writable = record.media.filter(({ readOnly }) => !readOnly);
  const opened = openedAt(
    record.qemu.pid,
    writable.map(({ sentinel }) => sentinel.path),
  );
  for (const medium of writable) {
    const made = requests.get(medium.qdev);
    if (made !== medium.requests) {
      return `device ${medium.qdev} has made ${made ?? 'no'} requests, and ${medium.requests} before`;
    }
    if (opened.get(medium.sentinel.path)?.some(({ size }) => size !== SENTINEL_BYTES)) {
      return `the sentinel of ${medium.images[0]?.path} is not as it was made`;
    }
  }
  return undefined;
}

function qemuAlive(record: QuiesceRecord): Finding {
  const state = readStat(record.qemu.pid)?.state;
  if (!isAlive(record.qemu) || state === undefined) {
    return no(`process ${record.qemu.pid} is gone`);
  }
  return /^[TtZX]/.test(state)
    ? no(`process ${record.qemu.pid} is in state ${state}`)
    : yes(`process ${record.qemu.pid} is alive (state ${state})`);
}

/** Two looks at a guest's vCPUs, with time between them for other looks. */
export class VcpuWatch {
  readonly #pid: number;
  readonly #threads: readonly number[];
  #times: readonly (bigint | undefined)[];
  #at: number;

  private constructor(pid: number, threads: readonly number[]) {
    this.#pid = pid;
    this.#threads = threads;
    this.#times = this.#look();
    this.#at = performance.now();
  }

  /** @throws KvmhaError when the first look shows that they may run */
  static async begin(pid: number, monitor: Monitor, deadline: Deadline): Promise<VcpuWatch> {
    await quietRunstate(monitor, deadline);
    const cpus = await monitor.execute('query-cpus-fast', {}, deadline);
    const threads = (Array.isArray(cpus) ? cpus : []).map((cpu) => {
      const thread = isObject(cpu) ? cpu['thread-id'] : undefined;
      // 0 is no thread, and no processor time of it is found.
      return typeof thread === 'number' && Number.isSafeInteger(thread) ? thread : 0;
    });
    if (threads.length === 0) {
      throw new KvmhaError('protocol', 'query-cpus-fast lists no vCPU');
    }
    return new VcpuWatch(pid, threads);
  }

  /** The second look, once enough time has passed. */
  async end(monitor: Monitor, deadline: Deadline): Promise<Finding> {
    for (let looks = 0; looks < VCPU_LOOKS && !deadline.passed(); looks++) {
      const began = this.#at;
      await sleep(Math.max(0, VCPU_WATCH - (performance.now() - began)));
      const before = this.#times;
      this.#times = this.#look();
      this.#at = performance.now();
      // A kernel without that statistic says 0.
      const isStill = (time: bigint | undefined, index: number) =>
        time !== undefined && time > 0n && time === this.#times[index];
      if (before.every(isStill)) {
        const runstate = await quietRunstate(monitor, deadline);
        const elapsed = `${Math.floor(this.#at - began)} ms`;
        return yes(
          `query-status says ${runstate}, running:false; ${before.length} vCPU thread(s) used no processor time in ${elapsed}`,
        );
      }
    }
    return no('query-status says running:false, but a vCPU thread used processor time');
  }

  #look(): readonly (bigint | undefined)[] {
    return this.#threads.map((thread) => processorTime(this.#pid, thread));
  }
}

/** @throws KvmhaError when the vCPUs run, or may begin to without a command */
async function quietRunstate(monitor: Monitor, deadline: Deadline): Promise<string> {
  const status = await monitor.execute('query-status', {}, deadline);
  const runstate = isObject(status) ? status['status'] : undefined;
  if (
    !isObject(status) ||
    status['running'] !== false ||
    typeof runstate !== 'string' ||
    !isQuiet(runstate)
  ) {
    throw new KvmhaError('protocol', `query-status says ${JSON.stringify(status)}`);
  }
  return runstate;
}

async function writesDurable(record: QuiesceRecord, monitor: Monitor, deadline: Deadline): Promise<Finding> {
  if (record.resuming) {
    return no('the guest is being given its images back');
  }
  if (!record.durable) {
    return no('no record says that every image was flushed without an error');
  }
  const ran = await guestRanSince(record, monitor, deadline);
  return ran === undefined
    ? yes('QEMU flushed every image and took it read-only without an error, and the guest did not run since')
    : no(`the guest ran after its images were flushed: ${ran}`);
}

function nodesReleased(record: QuiesceRecord, nodes: readonly BlockNode[]): Finding {
  const own = new Set(record.media.flatMap(({ sentinel }) => [sentinel.node, sentinel.fileNode]));
  const other = nodes.filter((node) => !own.has(node.name));
  if (other.length > 0) {
    return no(
      `QEMU still has block node ${other.map((node) => `${node.name} (${node.filename})`).join(', ')}`,
    );
  }
  return inactiveSentinels(record, nodes).length === record.media.length
    ? yes(`QEMU has no block node but ${record.media.length} inactive sentinel(s)`)
    : no('a sentinel is missing or still active');
}

async function imagesReleased(record: QuiesceRecord, deadline: Deadline): Promise<Finding> {
  const images = record.media.flatMap((medium) => medium.images);
  const [hold] = holdsOf(record.qemu.pid, images);
  if (hold !== undefined) {
    return no(`process ${record.qemu.pid} holds ${hold.file.path}: ${hold.seen}`);
  }
  // Whatever else is open as an image would be, by whatever way it came to be.
  const known = ['/memfd:', ...record.memory, ...record.media.map(({ sentinel }) => sentinel.path)];
  const other = openStorage(record.qemu.pid).find(({ path }) => !known.some((each) => path.startsWith(each)));
  if (other !== undefined) {
    return no(`process ${record.qemu.pid} holds ${other.path}: ${other.seen}`);
  }
  const connection = await connectionLeft(record, deadline);
  return connection === undefined
    ? yes(`process ${record.qemu.pid} has no ${WAYS_TO_HOLD} ${imageNames(record)}`)
    : no(`process ${record.qemu.pid} still has the connection ${connection}`);
}

const WAYS_TO_HOLD = 'descriptor, lock or mapping of, nor connection to,';

/** A connection of the process to a server of the guest's disks. */
async function connectionLeft(record: QuiesceRecord, deadline: Deadline): Promise<string | undefined> {
  const { pid } = record.qemu;
  for (const server of record.media.flatMap((medium) => medium.servers ?? [])) {
    const [left] = await connectionsTo(pid, server, deadline);
    if (left !== undefined) {
      return left;
    }
  }
  return record.connections?.find((connection) => hasConnection(pid, connection));
}

async function resumeBlocked(record: QuiesceRecord, monitor: Monitor, deadline: Deadline): Promise<Finding> {
  const present = record.media
    .flatMap(({ sentinel }) => [sentinel.path, `/proc/${record.qemu.pid}/root${sentinel.path}`])
    .find(exists);
  if (present !== undefined) {
    return no(`${present} is there, so that QEMU could activate its disks again`);
  }
  // A sentinel that no device uses does not keep QEMU from resuming.
  const uses = await nodesInUse(monitor, deadline);
  const off = record.media.find(
    ({ readOnly, qdev, sentinel }) =>
      !readOnly && !uses.some((use) => use.qdev === qdev && use.node === sentinel.node),
  );
  return off === undefined
    ? yes('the files of the sentinels are gone, so that QEMU cannot activate its disks again')
    : no(`device ${off.qdev} is not on its sentinel`);
}

async function migrationBlocked(
  record: QuiesceRecord,
  monitor: Monitor,
  deadline: Deadline,
): Promise<Finding> {
  const migration = await monitor.execute('query-migrate', {}, deadline);
  const reasons = isObject(migration) ? migration['blocked-reasons'] : undefined;
  const own = (Array.isArray(reasons) ? reasons : []).find(
    (reason): reason is string =>
      typeof reason === 'string' &&
      record.media.some(({ sentinel }) => reason.includes(`'${sentinel.node}'`)),
  );
  return own === undefined ? no('QEMU names nothing that blocks saving and migrating') : yes(own);
}

function exists(path: string): boolean {
  try {
    lstatSync(path);
    return true;
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') {
      return false;
    }
    throw error;
  }
}

function imageNames(record: QuiesceRecord): string {
  return record.media
    .flatMap(({ images, servers = [] }) => [...images.map(({ path }) => path), ...servers.map(serverName)])
    .join(', ');
}

function yes(seen: string): Finding {
  return { holds: true, seen };
}

function no(seen: string): Finding {
  return { holds: false, seen };
}

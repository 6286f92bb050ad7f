import { lstatSync } from 'node:fs';
import { type Deadline, sleep } from '../deadline.ts';
import { errnoOf, messageOf } from '../error.ts';
import { holdsOf, openedAt } from '../linux/open-files.ts';
import { isAlive, processorTime, readStat } from '../linux/process.ts';
import { isObject, type Monitor } from '../qemu/qmp.ts';
import type { QuiesceRecord } from '../record/record.ts';
import { type BlockNode, blockNodes } from './inspection.ts';
import type { Finding, Proof, ProofItem } from './proof.ts';

/** Two looks at the processor time of the vCPU threads lie at least this far apart, in milliseconds. */
const VCPU_WATCH = 20;

/**
 * Looks at a guest for the proof that it is quiesced-failover-safe. Changes nothing. What cannot be seen, also
 * because QEMU does not answer, is a finding that does not hold.
 */
export async function observeProof(
  record: QuiesceRecord,
  monitor: Monitor,
  deadline: Deadline,
): Promise<Proof> {
  const proof: { [item in ProofItem]?: Finding } = {};
  const look = async (item: ProofItem, finding: () => Finding | Promise<Finding>) => {
    try {
      proof[item] = await finding();
    } catch (error) {
      proof[item] = no(`could not be seen: ${messageOf(error)}`);
    }
  };
  await look('qemu-alive', () => qemuAlive(record));
  await look('vcpus-stopped', () => vcpusStopped(record, monitor, deadline));
  await look('writes-durable', () => writesDurable(record));
  await look('block-nodes-released', async () => nodesReleased(record, await blockNodes(monitor, deadline)));
  await look('images-released', () => imagesReleased(record));
  await look('resume-blocked', () => resumeBlocked(record));
  await look('migration-blocked', () => migrationBlocked(record, monitor, deadline));
  return proof;
}

/**
 * Whether the sentinels are inactive. QEMU 10 says so; before it, an inactive file node shows by its descriptor:
 * `auto-read-only` takes it read-only when it is no longer in use.
 */
export function sentinelsInactive(record: QuiesceRecord, nodes: readonly BlockNode[]): boolean {
  const own = record.media.flatMap(({ sentinel }) => [sentinel.node, sentinel.fileNode]);
  const seen = nodes.filter((node) => own.includes(node.name));
  if (seen.length < own.length) {
    return false;
  }
  if (seen.every((node) => node.active !== undefined)) {
    return seen.every((node) => node.active === false);
  }
  return record.media.every(({ sentinel }) => {
    const files = openedAt(record.qemu.pid, sentinel.path);
    return files.length > 0 && files.every((file) => !file.writable);
  });
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

async function vcpusStopped(record: QuiesceRecord, monitor: Monitor, deadline: Deadline): Promise<Finding> {
  const status = await monitor.execute('query-status', {}, deadline);
  if (!isObject(status) || status['running'] !== false) {
    return no(`query-status says ${JSON.stringify(status)}`);
  }
  const cpus = await monitor.execute('query-cpus-fast', {}, deadline);
  const threads = (Array.isArray(cpus) ? cpus : []).map((cpu) =>
    isObject(cpu) ? Number(cpu['thread-id']) : 0,
  );
  if (threads.length === 0) {
    return no('query-cpus-fast lists no vCPU');
  }
  const times = () => threads.map((thread) => processorTime(record.qemu.pid, thread));
  const before = times();
  await sleep(VCPU_WATCH);
  const after = times();
  const still = before.every((time, index) => time !== undefined && time === after[index]);
  const what = `query-status says ${String(status['status'])}, running:false`;
  return still
    ? yes(`${what}; ${threads.length} vCPU thread(s) used no processor time in ${VCPU_WATCH} ms`)
    : no(`${what}, but a vCPU thread used processor time`);
}

function writesDurable(record: QuiesceRecord): Finding {
  if (!record.durable) {
    return no('no record says that every image was flushed without an error');
  }
  const written = record.media.find(({ sentinel }) => {
    const files = openedAt(record.qemu.pid, sentinel.path);
    return files.length === 0 || files.some((file) => file.size !== sentinel.size);
  });
  return written === undefined
    ? yes('QEMU flushed every image and took it read-only without an error before it was let go')
    : no(
        `the sentinel of ${written.image.path} is not as it was made: the guest wrote to it instead of its disk`,
      );
}

function nodesReleased(record: QuiesceRecord, nodes: readonly BlockNode[]): Finding {
  const own = new Set(record.media.flatMap(({ sentinel }) => [sentinel.node, sentinel.fileNode]));
  const other = nodes.filter((node) => !own.has(node.name));
  if (other.length > 0) {
    return no(
      `QEMU still has block node ${other.map((node) => `${node.name} (${node.filename})`).join(', ')}`,
    );
  }
  return sentinelsInactive(record, nodes)
    ? yes(`QEMU has no block node but ${record.media.length} inactive sentinel(s)`)
    : no('a sentinel is missing or still active');
}

function imagesReleased(record: QuiesceRecord): Finding {
  const holds = holdsOf(
    record.qemu.pid,
    record.media.map((medium) => medium.image),
  );
  const [first] = holds;
  return first === undefined
    ? yes(`process ${record.qemu.pid} has no descriptor, lock or mapping of ${imageNames(record)}`)
    : no(`process ${record.qemu.pid} holds ${first.file.path}: ${first.seen}`);
}

function resumeBlocked(record: QuiesceRecord): Finding {
  const present = record.media
    .flatMap(({ sentinel }) => [sentinel.path, `/proc/${record.qemu.pid}/root${sentinel.path}`])
    .filter(exists);
  return present.length === 0
    ? yes('the files of the sentinels are gone, so that QEMU cannot activate its disks again')
    : no(`${present[0]} is there, so that QEMU could activate its disks again`);
}

async function migrationBlocked(
  record: QuiesceRecord,
  monitor: Monitor,
  deadline: Deadline,
): Promise<Finding> {
  const migration = await monitor.execute('query-migrate', {}, deadline);
  const reasons = isObject(migration) ? migration['blocked-reasons'] : undefined;
  const own = (Array.isArray(reasons) ? reasons.map(String) : []).find((reason) =>
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
  return record.media.map((medium) => medium.image.path).join(', ');
}

function yes(seen: string): Finding {
  return { holds: true, seen };
}

function no(seen: string): Finding {
  return { holds: false, seen };
}

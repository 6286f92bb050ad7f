import { dirname } from 'node:path';
import type { Deadline } from '../deadline.ts';
import { isKvmhaError, messageOf } from '../error.ts';
import { LibvirtMonitor, Virsh } from '../libvirt/virsh.ts';
import { Mounts } from '../linux/local-mounts.ts';
import { type Hold, holdsOf, identifyFiles, openStorage } from '../linux/open-files.ts';
import { isAlive, type ProcessIdentity, processorTime } from '../linux/process.ts';
import { type CommandLine, parseCommandLine } from '../qemu/command-line.ts';
import { type QemuProcess, vcpuThreads } from '../qemu/qemu-process.ts';
import { isObject, type Monitor } from '../qemu/qmp.ts';
import { blockNodes } from '../quiesce/inspection.ts';
import { observeProof } from '../quiesce/observe.ts';
import type { Proof } from '../quiesce/proof.ts';
import { isOf, nothingMoved, SENTINEL_PREFIX } from '../quiesce/sequence.ts';
import { type IoError, readIoError } from '../record/io-error.ts';
import { readPendingStart } from '../record/pending-start.ts';
import { type QuiesceRecord, readRecord } from '../record/record.ts';
import { readReported } from '../record/reported.ts';
import { type RunImage, readRunningRecord } from '../record/running-record.ts';
import type { FailedDevice, LibvirtView, MonitorView, Observation } from '../state/observation.ts';
import {
  askStatus,
  connect,
  entries,
  FROZEN,
  isHangUp,
  PATIENCE,
  patience,
  survivedErrors,
} from './ask-qemu.ts';
import type { Guest } from './guest.ts';
import { processes } from './processes.ts';
import { type ReportedErrors, reportedErrors } from './reported-errors.ts';

/** How often a look is repeated at most because a process came or went meanwhile. */
const MOST_LOOKS = 3;

/** How long a qemu that has closed its monitor is given to be gone, in milliseconds: it closes it on its way out. */
const LEAVING = 2000;

/** One look at a guest: what was seen, and the hands that an action needs to go on. */
export interface Look {
  readonly observation: Observation;
  /** The domain's uuid: from its XML, its process or libvirt. Undefined when none of them knows it. */
  readonly uuid: string | undefined;
  /** Its qemu process. */
  readonly qemu: QemuProcess | undefined;
  /** Its qemu process whose leader is dead, while a thread of it is left. */
  readonly dying: ProcessIdentity | undefined;
  /** Where its QEMU answers; to be closed by `closeLook`. */
  readonly monitor: Monitor | undefined;
  /** What was done to this very qemu on the way to being failover-safe. */
  readonly record: QuiesceRecord | undefined;
}

export function closeLook(look: Look): void {
  look.monitor?.close();
}

/**
 * What the QEMU of a guest says through a monitor that is open already, and what is kept of it: all that shows whether
 * the guest has a fault, and nothing by which one could be told from another moment's. Changes nothing.
 */
export async function lookThrough(monitor: Monitor, uuid: string, deadline: Deadline): Promise<Observation> {
  const { view, survivedError } = await monitorStatus(monitor, uuid, deadline);
  return {
    libvirt: { kind: 'not-asked' },
    monitor: view,
    process: { kind: 'unknown', why: 'not looked for' },
    quiesceBegun: await quiesceWasBegun(uuid, view, monitor, deadline),
    ...reportedErrors(reportedOf(uuid), survivedError),
  };
}

/** Whether a record speaks of the qemu that is there, of which one domain has no more than one. */
async function quiesceWasBegun(
  uuid: string,
  view: MonitorView,
  monitor: Monitor,
  deadline: Deadline,
): Promise<boolean> {
  try {
    const record = readRecord(uuid);
    if (record === undefined || !isAlive(record.qemu)) {
      return false;
    }
    const runs = view.kind === 'status' && view.running;
    return !(runs && (await nothingMoved(record, monitor, deadline)));
  } catch (error) {
    if (isKvmhaError(error)) {
      return true;
    }
    throw error;
  }
}

/**
 * A whole look: the process table, libvirt, QMP, and the proof where a quiesce was begun. Changes nothing.
 *
 * What it consists of is seen one after the other. Where the process came or went meanwhile (a migration does that),
 * the parts belong to different moments and contradict each other, so all of it is looked at anew; and so it is where
 * QEMU has closed its monitor, once the process is gone or has stayed.
 */
export async function look(guest: Guest, deadline: Deadline): Promise<Look> {
  for (let attempt = 1; ; attempt++) {
    const { seen, hungUp } = await lookOnce(guest, deadline);
    const leaves = hungUp && seen.qemu !== undefined;
    const changed = () => {
      const { qemu } = processes(guest);
      return seen.qemu?.pid !== qemu?.pid || seen.qemu?.startTime !== qemu?.startTime;
    };
    if (attempt === MOST_LOOKS || deadline.passed() || !(leaves || changed())) {
      return seen;
    }
    closeLook(seen);
    if (leaves) {
      await deadline.within(LEAVING).poll(20, () => changed() || undefined);
    }
  }
}

async function lookOnce(guest: Guest, deadline: Deadline): Promise<{ seen: Look; hungUp: boolean }> {
  const { view: processView, qemu, dying } = processes(guest);
  // Not at the same time: whoever else looks at the guest would find its monitor occupied while libvirt hangs.
  const libvirt = await libvirtView(guest, qemu?.uuid, patience(deadline));
  const frozen = processView.kind === 'alive' && processView.stopped;
  const own = frozen ? FROZEN : await connect(guest, patience(deadline));
  const uuid = guest.uuid ?? qemu?.uuid ?? libvirt.uuid;
  // A qemu that hangs would hang libvirt's monitor, too, and nobody could do anything with the domain by libvirt.
  const monitor =
    own.silent === undefined ? (own.monitor ?? throughLibvirt(guest, uuid, qemu, libvirt.view)) : undefined;
  const absent: MonitorView =
    own.silent === undefined ? { kind: 'absent' } : { kind: 'silent', why: own.silent };
  const answer: MonitorAnswer =
    monitor === undefined
      ? { view: absent, hungUp: own.hungUp }
      : await monitorStatus(monitor, uuid, patience(deadline));
  const { view: monitorView, survivedError, hungUp } = answer;
  const recorded = uuid === undefined || qemu === undefined ? NO_RECORD : recordOf(uuid, qemu);
  const usable = monitorView.kind === 'status' ? monitor : undefined;
  const { begun, proof } = await quiesceProof(recorded, usable, monitorView, deadline);
  const nobodyTells = libvirt.view.kind === 'silent' && monitorView.kind !== 'status';
  const vcpusUseTime = nobodyTells && qemu !== undefined && !frozen && (await useTime(qemu, deadline));
  const observation: Observation = {
    libvirt: libvirt.view,
    monitor: monitorView,
    process: processView,
    quiesceBegun: begun,
    ...(proof === undefined ? {} : { proof }),
    ...reportedErrors(uuid === undefined || qemu === undefined ? undefined : reportedOf(uuid), survivedError),
    ...(qemu === undefined || uuid === undefined
      ? {}
      : await migration(guest, uuid, qemu, libvirt.view, monitorView, patience(deadline))),
    ...(vcpusUseTime ? { vcpusUseTime } : {}),
    ...(qemu === undefined && hasPendingStart(guest) ? { startPending: true } : {}),
  };
  return { seen: { observation, uuid, qemu, dying, monitor, record: recorded.record }, hungUp };
}

/**
 * Whether the vCPUs are seen to run, where nobody can be asked, or nobody gets the processor time to answer. That they
 * are not tells nothing: idle ones use some only every now and then.
 */
async function useTime({ pid }: QemuProcess, deadline: Deadline): Promise<boolean> {
  try {
    const threads = vcpuThreads(pid);
    const before = threads.map((thread) => processorTime(pid, thread));
    const used = () => threads.some((thread, index) => processorTime(pid, thread) !== before[index]);
    return (await patience(deadline).poll(50, () => used() || undefined)) ?? false;
  } catch (error) {
    if (isKvmhaError(error)) {
      return false;
    }
    throw error;
  }
}

/** What cannot be read is not nothing. */
function hasPendingStart(guest: Guest): boolean {
  try {
    return readPendingStart(guest) !== undefined;
  } catch (error) {
    if (isKvmhaError(error)) {
      return true;
    }
    throw error;
  }
}

/**
 * The images that qemu uses, and whether each bypasses the host page cache: those on its command line, and what else
 * it has open as images are (hot-plugged disks, `-drive`, `-blockdev` that is not JSON), of which that is not known.
 */
export function imagesOf(qemu: QemuProcess): RunImage[] {
  const given = blockdevsOf(qemu).flatMap((node) => {
    const cache = node['cache'];
    const path = node['filename'];
    return typeof path === 'string' && node['read-only'] !== true
      ? [{ path, direct: isObject(cache) && cache['direct'] === true }]
      : [];
  });
  const mounts = new Mounts('self');
  const known = new Set(given.map(({ path }) => mounts.resolve(path)));
  const others = openPaths(qemu.pid).filter((path) => !known.has(path));
  return [...given, ...others.map((path) => ({ path, direct: false }))];
}

function blockdevsOf(qemu: QemuProcess): CommandLine['blockdevs'] {
  try {
    return parseCommandLine(qemu.argv).blockdevs;
  } catch (error) {
    if (isKvmhaError(error, 'malformed')) {
      return [];
    }
    throw error;
  }
}

/** Memory without a name in a file system is open like an image, too, but cannot be one. */
function openPaths(pid: number): string[] {
  try {
    return [...new Set(openStorage(pid).map(({ path }) => path))].filter(
      (path) => !path.endsWith(' (deleted)'),
    );
  } catch (error) {
    if (isKvmhaError(error, 'file')) {
      return []; // it has just ended
    }
    throw error;
  }
}

/**
 * The folder that libvirt made for this run of the domain, where a confined qemu may open files.
 *
 * @returns undefined when qemu's command line does not tell
 */
export function libvirtFolderOf(qemu: QemuProcess): string | undefined {
  const secret = qemu.argv.find(
    (word, index) => qemu.argv[index - 1] === '-object' && word.includes('masterKey0'),
  );
  const file =
    /"file":"((?:[^"\\]|\\.)*)"/.exec(secret ?? '')?.[1] ?? /(?:^|,)file=([^,]*)/.exec(secret ?? '')?.[1];
  return file === undefined ? undefined : dirname(file);
}

async function libvirtView(
  guest: Guest,
  processUuid: string | undefined,
  deadline: Deadline,
): Promise<{ view: LibvirtView; uuid: string | undefined }> {
  try {
    const uuid = guest.uuid ?? processUuid ?? (await guest.virsh.uuidOf(guest.name, deadline));
    if (uuid === undefined) {
      return { view: { kind: 'no-domain' }, uuid };
    }
    return { view: await withJob(guest, uuid, await guest.virsh.look(uuid, deadline), deadline), uuid };
  } catch (error) {
    if (isKvmhaError(error)) {
      return { view: { kind: 'silent', why: messageOf(error) }, uuid: guest.uuid ?? processUuid };
    }
    throw error;
  }
}

/** A paused domain may have a job that is going to resume or end it. */
async function withJob(
  guest: Guest,
  uuid: string,
  view: LibvirtView,
  deadline: Deadline,
): Promise<LibvirtView> {
  if (view.kind !== 'state' || view.state !== 'paused') {
    return view;
  }
  try {
    const job = await guest.virsh.job(uuid, deadline);
    return { ...view, job: job !== 'none', ...(job === 'incoming-migration' ? { incoming: true } : {}) };
  } catch (error) {
    if (isKvmhaError(error)) {
      return isKvmhaError(error, 'no-domain') ? { kind: 'no-domain' } : view;
    }
    throw error;
  }
}

function throughLibvirt(
  guest: Guest,
  uuid: string | undefined,
  qemu: QemuProcess | undefined,
  view: LibvirtView,
): Monitor | undefined {
  // libvirt passes nothing on to a guest that is coming in, and keeps who asks it to waiting.
  const passesOn = view.kind === 'state' && view.state !== 'shut off' && view.incoming !== true;
  return uuid !== undefined && qemu !== undefined && passesOn
    ? new LibvirtMonitor(guest.virsh, uuid)
    : undefined;
}

interface MonitorAnswer {
  readonly view: MonitorView;
  readonly survivedError?: string;
  /** It has not kept us waiting: the connection was closed, or libvirt could not pass the question on. */
  readonly hungUp: boolean;
}

async function monitorStatus(
  monitor: Monitor,
  uuid: string | undefined,
  deadline: Deadline,
): Promise<MonitorAnswer> {
  try {
    const view = await askStatus(monitor, deadline);
    if (view.runstate === 'io-error') {
      const failed = await failedDevices(monitor, deadline);
      const devices = uuid === undefined ? failed : correct(failed, uuid);
      return { view: { ...view, failedDevices: devices }, hungUp: false };
    }
    const survivedError = view.running ? await survivedErrors(monitor, deadline) : undefined;
    return { view, hungUp: false, ...(survivedError === undefined ? {} : { survivedError }) };
  } catch (error) {
    if (isKvmhaError(error)) {
      return { view: { kind: 'silent', why: messageOf(error) }, hungUp: isHangUp(error) };
    }
    throw error;
  }
}

async function failedDevices(monitor: Monitor, deadline: Deadline): Promise<FailedDevice[]> {
  return entries(await monitor.execute('query-block', {}, deadline)).flatMap((entry) => {
    const ioStatus = entry['io-status'];
    return ioStatus === 'failed' || ioStatus === 'nospace'
      ? [{ device: String(entry['qdev'] ?? entry['device']), ioStatus }]
      : [];
  });
}

/** `io-status` says what was wrong first, which need not be what is wrong now (see lib/record/io-error.ts). */
function correct(devices: FailedDevice[], uuid: string): FailedDevice[] {
  const ioError = ioErrorOf(uuid);
  return ioError === undefined
    ? devices
    : devices.map(({ device }) => ({ device, ioStatus: ioError === 'nospace' ? 'nospace' : 'failed' }));
}

function ioErrorOf(uuid: string): IoError | undefined {
  try {
    return readIoError(uuid);
  } catch (error) {
    if (isKvmhaError(error)) {
      return undefined;
    }
    throw error;
  }
}

/** What was recorded of a qemu; a record that cannot be read still tells that there was something to record. */
interface Recorded {
  readonly record: QuiesceRecord | undefined;
  readonly unreadable: boolean;
}
const NO_RECORD: Recorded = { record: undefined, unreadable: false };

function recordOf(uuid: string, qemu: QemuProcess): Recorded {
  try {
    const record = readRecord(uuid);
    return record !== undefined && isOf(record, { qemu }) ? { record, unreadable: false } : NO_RECORD;
  } catch (error) {
    if (isKvmhaError(error)) {
      return { record: undefined, unreadable: true };
    }
    throw error;
  }
}

/** A report that cannot be read is shown, but no reason to end a guest. */
function reportedOf(uuid: string): ReportedErrors {
  try {
    return readReported(uuid);
  } catch (error) {
    if (isKvmhaError(error)) {
      return { survived: `something that was reported cannot be read (${messageOf(error)})` };
    }
    throw error;
  }
}

async function quiesceProof(
  { record, unreadable }: Recorded,
  monitor: Monitor | undefined,
  view: MonitorView,
  deadline: Deadline,
): Promise<{ begun: boolean; proof: Proof | undefined }> {
  if (monitor === undefined || view.kind !== 'status') {
    return { begun: record !== undefined || unreadable, proof: undefined };
  }
  if (record !== undefined) {
    // A quiesce that was interrupted early, and somebody has resumed the guest on its own disks.
    if (view.running && (await nothingMoved(record, monitor, deadline.within(PATIENCE)))) {
      return { begun: false, proof: undefined };
    }
    return { begun: true, proof: await observeProof(record, monitor, deadline.within(PATIENCE)) };
  }
  if (view.running && !unreadable) {
    return { begun: false, proof: undefined };
  }
  // Without its record nothing proves that the writes are durable, but the guest cannot go on either.
  const nodes = await blockNodes(monitor, deadline.within(PATIENCE));
  return { begun: nodes.some((node) => node.name.startsWith(SENTINEL_PREFIX)), proof: undefined };
}

/** Which side of a migration this is, and whether it is over. */
async function migration(
  guest: Guest,
  uuid: string,
  qemu: QemuProcess,
  libvirt: LibvirtView,
  monitor: MonitorView,
  deadline: Deadline,
): Promise<Pick<Observation, 'migration' | 'neverRan'>> {
  const runstate = monitor.kind === 'status' ? monitor.runstate : undefined;
  const cameByMigration = parseCommandLine(qemu.argv).options.some(({ name }) => name === 'incoming');
  if (cameByMigration && (runstate === 'paused' || runstate === 'io-error')) {
    return { neverRan: await opensNoImageForWriting(qemu, deadline) };
  }
  const handedOver =
    runstate === 'postmigrate' ||
    (libvirt.kind === 'state' && libvirt.state === 'paused' && /^migrat/.test(libvirt.reason));
  if (!handedOver) {
    return {};
  }
  const holdsImageLock = (await holdsImage(qemu, ({ by }) => by === 'lock', deadline)) !== false;
  const mayBeOver = libvirt.kind === 'no-domain' || (libvirt.kind === 'state' && libvirt.job === false);
  const targetRunning = mayBeOver && !holdsImageLock && (await runsOnTarget(guest, uuid, qemu, deadline));
  return { migration: { targetRunning, holdsImageLock } };
}

/**
 * QEMU opens the images of an incoming guest for writing when it is told to run it: until then the source may. Of a
 * guest without an image to be seen here nothing is known.
 */
async function opensNoImageForWriting(qemu: QemuProcess, deadline: Deadline): Promise<boolean> {
  return (
    imagesOf(qemu).length > 0 &&
    (await holdsImage(qemu, ({ by, writable }) => by === 'descriptor' && writable, deadline)) === false
  );
}

/** Whether a qemu holds one of its images as `how` says; undefined where that cannot be seen. */
async function holdsImage(
  qemu: QemuProcess,
  how: (hold: Hold) => boolean,
  deadline: Deadline,
): Promise<boolean | undefined> {
  try {
    const paths = imagesOf(qemu).map(({ path }) => path);
    return holdsOf(qemu.pid, await identifyFiles(qemu.pid, paths, deadline)).some(how);
  } catch (error) {
    if (isKvmhaError(error)) {
      return undefined;
    }
    throw error;
  }
}

/** Whether this qemu's guest was sent to another node and is running there, by the libvirt there. */
async function runsOnTarget(
  guest: Guest,
  uuid: string,
  qemu: QemuProcess,
  deadline: Deadline,
): Promise<boolean> {
  const uri = whereSent(guest, qemu);
  if (uri === undefined) {
    return false;
  }
  const there = await new Virsh(uri).look(uuid, deadline);
  return there.kind === 'state' && (there.state === 'running' || there.state === 'idle');
}

function whereSent(guest: Guest, qemu: QemuProcess): string | undefined {
  try {
    const record = readRunningRecord(guest);
    const same = record?.qemu.pid === qemu.pid && record.qemu.startTime === qemu.startTime;
    return same ? record.migratingTo : undefined;
  } catch (error) {
    if (isKvmhaError(error)) {
      return undefined;
    }
    throw error;
  }
}

import { isComplete, missingItems } from '../quiesce/proof.ts';
import {
  type LibvirtView,
  type MonitorView,
  type Observation,
  RUN_STATES,
  type RunState,
} from './observation.ts';

/** What a guest is to the cluster: the rows of the table in verdict.ts, which says what each is answered with. */
export const GUEST_STATES = [
  /** The vCPUs run. */
  'running',
  /** Running, but something went wrong that the guest survived. */
  'degraded',
  /** On its way to another state by itself: shutting down, saving, migrating out. */
  'transient',
  /** Stopped on purpose by a person or a tool, and able to go on. */
  'paused-by-operator',
  /** Being started or migrated in: not this node's guest yet. */
  'incoming',
  /** The local remains of a guest that was seen running on its migration target. */
  'migrated-away',
  /** Spread over two nodes by a post-copy migration: neither side is whole alone. */
  'post-copy',
  /** Suspended by the guest itself (ACPI S3). */
  'suspended',
  /** Paused because its storage is full: no hardware error, and it goes on once there is space. */
  'out-of-space',
  /** A fault says that the guest must not go on here, or a quiesce was begun and is not proved. */
  'faulted',
  /** The whole proof holds: preserved, and safe to start elsewhere without fencing. */
  'quiesced-failover-safe',
  /** Not running, and no process of it was found. */
  'shut-off',
  /** Ended for good, but a process or a thread of it is left that may still touch the images. */
  'shut-off-process-left',
  /** The guest panicked; its qemu is left. */
  'crashed',
  /** Nobody who would know answers, or what was answered cannot be judged. */
  'unknown',
] as const;
export type GuestState = (typeof GUEST_STATES)[number];

export interface Classification {
  readonly state: GuestState;
  /** What was seen, for people: "libvirt says paused (I/O error), QMP says io-error". */
  readonly reason: string;
  /** The fault, survived error or panic that was seen or is held, where there is one. */
  readonly fault?: string;
}

interface Judgement {
  readonly state: GuestState;
  /** What the views do not say by themselves. */
  readonly because?: string;
  readonly fault?: string;
}

type DomainLabel = Extract<LibvirtView, { kind: 'state' }>;
type MonitorStatus = Extract<MonitorView, { kind: 'status' }>;

/**
 * Names the state of a guest from one look at it.
 *
 * The order is the rule. The proof comes before every label, because libvirt calls a preserved guest paused or
 * crashed. A dead qemu and a quiesce that was begun come before what anybody says of the guest. QMP comes before
 * libvirt, whose state is a copy of QEMU's that can be stale. What cannot be judged is `unknown`, never healthy:
 * VirtualDomain counts a paused guest as running whatever the reason.
 */
export function classify(observation: Observation): Classification {
  const { state, because, fault } = underHeldFault(judge(observation), observation);
  const seen = describe(observation);
  const reason = because === undefined ? seen : `${seen}: ${because}`;
  return fault === undefined ? { state, reason } : { state, reason, fault };
}

function judge(observation: Observation): Judgement {
  const { monitor, process } = observation;
  if (isPreserved(observation)) {
    const fault = seenFault(observation);
    return { state: 'quiesced-failover-safe', because: 'the whole proof holds', ...(fault && { fault }) };
  }
  if (process.kind === 'dying') {
    return { state: 'shut-off-process-left' };
  }
  if (quiesceWasBegun(observation) && qemuIsThere(observation)) {
    const fault = seenFault(observation) ?? 'quiesce not proved';
    return { state: 'faulted', because: whyUnproved(observation), fault };
  }
  return monitor.kind === 'status' ? judgeByMonitor(monitor, observation) : judgeWithoutMonitor(observation);
}

/**
 * A fault that the watcher holds (memory failure) makes faulted what would be left alone otherwise, and what
 * would be fenced as the guest's own panic: an error of the host that was injected panics the guest. What is in
 * motion (`transient`, `incoming`, `post-copy`) is judged again when it has settled.
 */
function underHeldFault(judgement: Judgement, { heldFault }: Observation): Judgement {
  switch (judgement.state) {
    case 'running':
    case 'degraded':
    case 'paused-by-operator':
    case 'suspended':
    case 'out-of-space':
    case 'crashed':
      return heldFault === undefined
        ? judgement
        : { state: 'faulted', because: `${heldFault} is held against it`, fault: heldFault };
    default:
      return judgement;
  }
}

// The proof, and the quiesce that is not proved.

/**
 * The complete proof, and nothing seen beside it that contradicts it. The proof says already that qemu is alive
 * and its vCPUs stand still, but it was taken by other code at another moment of the same look.
 */
function isPreserved(observation: Observation): boolean {
  const { process, proof } = observation;
  return (
    isComplete(proof) &&
    process.kind === 'alive' &&
    process.stopped === false &&
    !vcpusAreSaidToRun(observation)
  );
}

/** libvirt's label counts here only where QMP did not answer: it stays `running` when libvirt missed the STOP. */
function vcpusAreSaidToRun({ monitor, libvirt, vcpusUseTime }: Observation): boolean {
  if (monitor.kind === 'status') {
    return monitor.running !== false || monitor.runstate === 'running';
  }
  return libvirt.kind === 'state'
    ? libvirt.state === 'running' || libvirt.state === 'idle'
    : libvirt.kind === 'silent' && vcpusUseTime === true;
}

/** A proof is looked for only where a record says so or the sentinels' nodes were seen. */
function quiesceWasBegun({ quiesceBegun, proof }: Observation): boolean {
  return quiesceBegun || proof !== undefined;
}

function qemuIsThere({ libvirt, monitor, process }: Observation): boolean {
  return (
    process.kind === 'alive' ||
    monitor.kind === 'status' ||
    (process.kind === 'unknown' && libvirt.kind === 'state' && libvirt.state !== 'shut off')
  );
}

function whyUnproved({ proof }: Observation): string {
  const missing = missingItems(proof);
  return missing.length > 0
    ? `a quiesce was begun, but its proof lacks ${missing.join(', ')}`
    : 'a quiesce was begun, and this contradicts its proof';
}

/** What the guest was quiesced for, where it can still be seen. */
function seenFault({ heldFault, monitor }: Observation): string | undefined {
  if (heldFault !== undefined || monitor.kind !== 'status') {
    return heldFault;
  }
  return ['io-error', 'internal-error', 'watchdog', 'guest-panicked'].find(
    (fault) => fault === monitor.runstate,
  );
}

// What QEMU says of itself.

/** The runstates of QAPI `query-status` (qapi/run-state.json), each with what it means here. */
function judgeByMonitor(monitor: MonitorStatus, observation: Observation): Judgement {
  const { libvirt } = observation;
  if (libvirt.kind === 'state' && isPostCopy(libvirt)) {
    return judgePostCopy(libvirt, monitor, observation);
  }
  if (libvirt.kind === 'state' && libvirt.incoming === true && !monitor.running) {
    return { state: 'incoming' };
  }
  if (!(RUN_STATES as readonly string[]).includes(monitor.runstate)) {
    // "true if all VCPUs are runnable" is all that must be known of a runstate newer than this program.
    return monitor.running
      ? running(observation)
      : { state: 'unknown', because: 'this program does not know that runstate' };
  }
  if (monitor.running !== (monitor.runstate === 'running')) {
    return { state: 'unknown', because: 'QMP contradicts itself' };
  }
  switch (monitor.runstate as RunState) {
    case 'running':
      return running(observation);

    case 'io-error':
      if (observation.neverRan === true && monitor.failedDevices.length === 0) {
        return judgeStopped(observation); // It had the error on the node that it came from.
      }
      return isOutOfSpace(monitor)
        ? { state: 'out-of-space', because: 'every failed disk is out of space', fault: 'nospace' }
        : { state: 'faulted', fault: 'io-error' };
    case 'internal-error':
    case 'watchdog':
      return { state: 'faulted', fault: monitor.runstate };
    case 'guest-panicked':
      return { state: 'crashed', fault: 'guest-panicked' };

    case 'paused':
      return judgeStopped(observation);
    case 'debug':
      return { state: 'paused-by-operator', because: 'a debugger holds it' };
    case 'suspended':
      return { state: 'suspended' };

    case 'prelaunch':
      return judgePrelaunch(observation);
    case 'inmigrate':
      return { state: 'incoming' };
    case 'postmigrate':
      return { state: isMigratedAway(observation) ? 'migrated-away' : 'transient' };
    case 'finish-migrate':
    case 'save-vm':
    case 'restore-vm':
    case 'colo':
      return { state: 'transient' };

    case 'shutdown':
      return judgeShutDown(libvirt);
  }
}

function running({ survivedError }: Observation): Judgement {
  return survivedError === undefined
    ? { state: 'running' }
    : { state: 'degraded', because: survivedError, fault: survivedError };
}

/** `io-status` of query-block; that nothing was seen to have failed is no evidence of a full storage. */
function isOutOfSpace({ failedDevices }: MonitorStatus): boolean {
  return failedDevices.length > 0 && failedDevices.every(({ ioStatus }) => ioStatus === 'nospace');
}

/**
 * `paused`: by QMP `stop`, whoever sent it. libvirt's label says why, where it has one; its `unknown` is what a
 * `stop` past libvirt gives (qemuProcessHandleStop in src/qemu/qemu_process.c).
 */
function judgeStopped(observation: Observation): Judgement {
  const { libvirt, neverRan } = observation;
  if (neverRan === true && (libvirt.kind !== 'state' || libvirt.state === 'shut off')) {
    // It has every page, but nobody can be asked whether the order to run is still to come or went to the source.
    return { state: 'unknown', because: 'it was migrated here and has not run since' };
  }
  if (libvirt.kind !== 'state') {
    return { state: 'paused-by-operator' };
  }
  switch (libvirt.state) {
    case 'paused':
      return libvirt.reason === 'unknown'
        ? { state: 'paused-by-operator' }
        : judgePaused(libvirt, observation);
    case 'in shutdown':
    case 'crashed':
      return judgeLabel(libvirt, observation);
    case 'running':
    case 'idle':
    case 'pmsuspended':
    case 'shut off':
      return { state: libvirt.job === true ? 'transient' : 'paused-by-operator' };
    default:
      return { state: 'unknown', because: 'this program does not know that state' };
  }
}

/**
 * `prelaunch`: started with `-S` and not begun, or reset while it was stopped. libvirt starts every guest so, and
 * passes through it when it reboots one. Without libvirt nobody is going to let it begin.
 */
function judgePrelaunch(observation: Observation): Judgement {
  const { libvirt } = observation;
  switch (libvirt.kind === 'state' ? libvirt.state : undefined) {
    case 'running':
    case 'idle':
      return { state: 'transient' };
    case 'paused':
    case 'in shutdown':
    case 'crashed':
      return judgeStopped(observation);
    default:
      return { state: 'unknown', because: 'the guest has not begun to run, and nobody is seen starting it' };
  }
}

/**
 * `shutdown`: the guest has shut down, and qemu waits (`-no-shutdown`) for libvirt to kill it or to reboot the
 * guest. Where libvirt does not answer or is done with the domain, only the fencing stage will.
 */
function judgeShutDown(libvirt: LibvirtView): Judgement {
  if (libvirt.kind === 'not-asked') {
    return { state: 'transient' };
  }
  if (libvirt.kind !== 'state') {
    return { state: 'shut-off-process-left' };
  }
  switch (libvirt.state) {
    case 'running':
    case 'idle':
    case 'paused':
    case 'in shutdown':
    case 'pmsuspended':
      return { state: 'transient' };
    case 'shut off':
    case 'crashed':
      return { state: 'shut-off-process-left' };
    default:
      return { state: 'unknown', because: 'this program does not know that state' };
  }
}

// What libvirt says, where QEMU does not.

function judgeWithoutMonitor(observation: Observation): Judgement {
  const { libvirt, monitor, process } = observation;
  if (process.kind === 'none') {
    return judgeWithoutProcess(observation);
  }
  if (process.kind === 'alive' && process.stopped) {
    return { state: 'unknown', because: 'it may go on at any moment' };
  }
  if (libvirt.kind === 'silent' || libvirt.kind === 'not-asked') {
    // A guest that was started past the agent has no other monitor than libvirt's, and need not fail with it; and on
    // a node whose processors or memory are used up, neither QEMU nor libvirt may be able to answer in time.
    return libvirt.kind === 'silent' && observation.vcpusUseTime === true
      ? { state: 'degraded', because: 'its vCPUs use processor time', fault: whoIsSilent(monitor) }
      : { state: 'unknown' };
  }
  if (libvirt.kind === 'no-domain' || libvirt.state === 'shut off') {
    // libvirtd loses domains: a qemu that it does not know may run the guest, and no monitor may kill that.
    return process.kind === 'alive' || monitor.kind === 'silent'
      ? { state: 'unknown', because: 'that process may run the guest' }
      : { state: 'shut-off' };
  }
  const judgement = judgeLabel(libvirt, observation);
  if (judgement.state === 'running' && monitor.kind === 'silent') {
    // libvirt's label is a copy, and stays when qemu hangs; but another client may occupy the monitor as well.
    return { state: 'degraded', because: "qemu's monitor does not answer", fault: 'QMP does not answer' };
  }
  return judgement;
}

function whoIsSilent(monitor: MonitorView): string {
  return monitor.kind === 'silent' ? 'neither libvirt nor QMP answers' : 'libvirt does not answer';
}

/**
 * The process table is proof that nothing is left, unless libvirt speaks of an active domain: then either is
 * wrong, and a probe must not call the guest stopped.
 */
function judgeWithoutProcess({ libvirt, startPending }: Observation): Judgement {
  if (libvirt.kind === 'silent' && startPending === true) {
    return { state: 'unknown', because: 'it was told to start the guest, and may still do so' };
  }
  if (libvirt.kind !== 'state' || ['shut off', 'in shutdown', 'crashed'].includes(libvirt.state)) {
    return { state: 'shut-off' };
  }
  if (libvirt.state === 'paused' && libvirt.reason === 'starting up') {
    return { state: 'incoming', because: 'its qemu is about to be started' };
  }
  return { state: 'unknown', because: 'these contradict each other' };
}

/** virDomainState (include/libvirt/libvirt-domain.h) of a domain whose qemu is thought to be there. */
function judgeLabel(label: DomainLabel, observation: Observation): Judgement {
  switch (label.state) {
    case 'running':
    case 'idle':
      return isPostCopy(label) ? { state: 'post-copy' } : running(observation);
    case 'paused':
      return judgePaused(label, observation);
    case 'in shutdown':
      return { state: 'transient' };
    case 'crashed':
      return { state: 'crashed', fault: 'guest-panicked' };
    case 'pmsuspended':
      return { state: 'suspended' };
    default:
      return { state: 'unknown', because: 'this program does not know that state' };
  }
}

/** virDomainPausedReason (include/libvirt/libvirt-domain.h) in the words of virsh (virsh-domain-monitor.c). */
function judgePaused(label: DomainLabel, observation: Observation): Judgement {
  if (label.incoming === true && !isPostCopy(label)) {
    return { state: 'incoming' };
  }
  switch (label.reason) {
    case 'user':
    case 'from snapshot':
      return { state: 'paused-by-operator' };
    case 'dumping':
    case 'creating snapshot':
      return { state: label.job === true ? 'transient' : 'paused-by-operator' };

    case 'saving':
    case 'shutting down':
      return { state: 'transient' };
    case 'starting up':
      return { state: 'incoming' };

    case 'migrating':
    case 'migration':
      return { state: isMigratedAway(observation) ? 'migrated-away' : 'transient' };
    case 'post-copy':
    case 'post-copy failed':
      return { state: 'post-copy' };

    case 'I/O error':
      return { state: 'faulted', fault: 'io-error' };
    case 'watchdog':
      return { state: 'faulted', fault: 'watchdog' };
    case 'crashed':
      return { state: 'crashed', fault: 'guest-panicked' };

    case 'api error':
      return { state: 'unknown', because: 'libvirt failed to resume it' };
    case 'unknown':
      return { state: 'unknown', because: 'nobody says why' };
    default:
      return { state: 'unknown', because: 'this program does not know that reason' };
  }
}

// Migration.

/**
 * `query-migrate: completed` and `postmigrate` are true too early: libvirt runs `cont` on the source when the
 * finish on the target fails. Hence three conditions: libvirt has no job on the domain, this qemu holds no lock
 * on an image, and the target was seen running.
 */
function isMigratedAway({ libvirt, migration }: Observation): boolean {
  const withoutJob =
    libvirt.kind === 'no-domain' ||
    (libvirt.kind === 'state' && (libvirt.job === false || libvirt.state === 'shut off'));
  return withoutJob && migration?.targetRunning === true && !migration.holdsImageLock;
}

/** The source in post-copy, either side after it failed. The target in good order is `running (post-copy)`. */
function isPostCopy({ state, reason }: DomainLabel): boolean {
  return reason === 'post-copy failed' || (state === 'paused' && reason === 'post-copy');
}

/**
 * Whatever QEMU says of this side, a fault included, the other has a part of the guest; only `postmigrate` means
 * that the source has handed over every page.
 */
function judgePostCopy({ reason }: DomainLabel, monitor: MonitorStatus, observation: Observation): Judgement {
  return reason === 'post-copy' && monitor.runstate === 'postmigrate' && isMigratedAway(observation)
    ? { state: 'migrated-away' }
    : { state: 'post-copy' };
}

// For people.

function describe({ libvirt, monitor, process }: Observation): string {
  return [describeLibvirt(libvirt), describeMonitor(monitor), describeProcess(process, monitor)]
    .filter((part) => part !== undefined)
    .join(', ');
}

function describeLibvirt(libvirt: LibvirtView): string | undefined {
  switch (libvirt.kind) {
    case 'state':
      return `libvirt says ${libvirt.state} (${libvirt.reason})`;
    case 'no-domain':
      return 'libvirt does not know the domain';
    case 'silent':
      return `libvirt does not answer (${libvirt.why})`;
    case 'not-asked':
      return undefined;
  }
}

function describeMonitor(monitor: MonitorView): string | undefined {
  switch (monitor.kind) {
    case 'status': {
      const agrees = monitor.running === (monitor.runstate === 'running');
      return `QMP says ${monitor.runstate}${agrees ? '' : ` with running:${monitor.running}`}`;
    }
    case 'absent':
      return 'there is no QMP to ask';
    case 'silent':
      return `QMP does not answer (${monitor.why})`;
    case 'not-asked':
      return undefined;
  }
}

/** That qemu is alive goes without saying where it has answered, whatever the process table says. */
function describeProcess(process: Observation['process'], monitor: MonitorView): string | undefined {
  switch (process.kind) {
    case 'alive':
      if (process.stopped) {
        return `qemu (pid ${process.pid}) is stopped by a signal`;
      }
      return monitor.kind === 'status' ? undefined : `qemu (pid ${process.pid}) is alive`;
    case 'dying':
      return `qemu (pid ${process.pid}) is dead, but a thread of it is left`;
    case 'none':
      return 'there is no qemu process';
    case 'unknown':
      if (monitor.kind === 'status') {
        return undefined;
      }
      return `the process table could not be read (${process.why})`;
  }
}

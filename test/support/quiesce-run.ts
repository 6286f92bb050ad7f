// Run in a node of a lab: quiesces a guest by the library, or only looks for its proof, and prints what came of it as
// JSON. On the way it does to itself, to the storage or to libvirt what it was told to.
import { execFileSync } from 'node:child_process';
import { renameSync, rmSync, writeFileSync } from 'node:fs';
import { Deadline } from '../../lib/deadline.ts';
import { messageOf } from '../../lib/error.ts';
import { libvirtFolderOf } from '../../lib/guest/look.ts';
import { LibvirtMonitor, Virsh } from '../../lib/libvirt/virsh.ts';
import { findQemuProcesses } from '../../lib/qemu/qemu-process.ts';
import { type Json, type Monitor, type QmpEvent, QmpSocket } from '../../lib/qemu/qmp.ts';
import { noteFirstConnections } from '../../lib/quiesce/network-disk.ts';
import { observeProof } from '../../lib/quiesce/observe.ts';
import type { Proof } from '../../lib/quiesce/proof.ts';
import { type ResumeOutcome, type ResumeStep, resume } from '../../lib/quiesce/resume.ts';
import { type QuiesceOutcome, quiesce, type Step } from '../../lib/quiesce/sequence.ts';
import { readRecord } from '../../lib/record/record.ts';

/** What befalls the process that quiesces, or the machine it is on. */
export type Blow =
  /** SIGKILL to the process itself. */
  | 'die'
  /** A failure of the step. */
  | 'fail'
  /** Rules of the flag file of a `Fault`, instead of those before. */
  | { readonly flag: string; readonly rules: string }
  /** A command that may fail. */
  | { readonly run: readonly [string, ...string[]] };

export interface Order {
  readonly name: string;
  readonly uuid: string;
  /** The QMP socket to use; libvirt's monitor without it. */
  readonly socket?: string | undefined;
  readonly timeout: number;
  readonly observeOnly?: boolean;
  /** Only notes its connections to servers of disks, as before its guest runs for the first time. */
  readonly noteConnections?: boolean;
  /** Resumes the guest instead; the answers to whether it may run elsewhere, one for each time that it is asked. */
  readonly resume?: readonly (string | null)[];
  /** Done first; the guest is quiesced as soon as it stops. */
  readonly afterStop?: Blow;
  /** Before these steps. */
  readonly before?: { readonly [step in Step | ResumeStep]?: Blow };
  /** Dies before the nth QMP command that changes something is sent, or once it is sent; counted from 1. */
  readonly dieAt?: { readonly command: number; readonly when: 'before' | 'sent' } | undefined;
}

export interface Report {
  /** Undefined when the process died on the way. */
  readonly outcome?: QuiesceOutcome;
  readonly proof?: Proof;
  readonly resumed?: ResumeOutcome;
  readonly error?: string;
  /** Every step that was begun, and when, in milliseconds from the beginning. */
  readonly steps: readonly (readonly [Step | ResumeStep, number])[];
  /** The QMP commands that change something, in their order. */
  readonly commands: readonly string[];
  /** Milliseconds that it took. */
  readonly took: number;
}

const CHANGES = /^(stop|cont|blockdev-|x-blockdev-set-iothread|set_link|qom-set|xen-save)/;

class CountingMonitor implements Monitor {
  readonly commands: string[] = [];
  readonly #monitor: Monitor;
  readonly #dieAt: Order['dieAt'];

  constructor(monitor: Monitor, dieAt: Order['dieAt']) {
    this.#monitor = monitor;
    this.#dieAt = dieAt;
  }

  async execute(command: string, args: { readonly [key: string]: Json }, deadline: Deadline): Promise<Json> {
    if (!CHANGES.test(command)) {
      return this.#monitor.execute(command, args, deadline);
    }
    const isLast = this.commands.push(command) === this.#dieAt?.command;
    if (isLast && this.#dieAt?.when === 'before') {
      await die();
    }
    const answer = this.#monitor.execute(command, args, deadline);
    if (isLast) {
      // The command is in the socket once the turn of the event loop that wrote it is over.
      await new Promise((resolve) => setImmediate(resolve));
      await die();
    }
    return answer;
  }

  close(): void {
    this.#monitor.close();
  }
}

function die(): Promise<never> {
  process.kill(process.pid, 'SIGKILL');
  return new Promise(() => {});
}

function strike(blow: Blow): void {
  if (blow === 'die') {
    process.kill(process.pid, 'SIGKILL');
    // The signal is delivered at the latest when this returns to the kernel.
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1000);
  } else if (blow === 'fail') {
    throw new Error('it was told to fail');
  } else if ('run' in blow) {
    const [program, ...args] = blow.run;
    try {
      execFileSync(program, args, { stdio: 'ignore', timeout: 20_000 });
    } catch {
      // It may fail.
    }
  } else if (blow.rules === '') {
    rmSync(blow.flag, { force: true });
  } else {
    writeFileSync(`${blow.flag}.new`, blow.rules);
    renameSync(`${blow.flag}.new`, blow.flag);
  }
}

async function carryOut(order: Order): Promise<Report> {
  const steps: [Step | ResumeStep, number][] = [];
  const deadline = Deadline.in(order.timeout);
  let monitor: CountingMonitor | undefined;
  let began = performance.now();
  const report = (): Report => ({
    steps,
    commands: monitor?.commands ?? [],
    took: performance.now() - began,
  });
  try {
    const { name, uuid } = order;
    const [qemu] = findQemuProcesses({ name, uuid });
    const sentinelDirectory = qemu === undefined ? undefined : libvirtFolderOf(qemu);
    if (qemu === undefined || sentinelDirectory === undefined) {
      throw new Error(`there is no qemu of ${name}, or it is none of libvirt's`);
    }
    if (order.noteConnections) {
      await noteFirstConnections(qemu, deadline);
      return report();
    }
    const stopped = Promise.withResolvers<void>();
    const heard = (event: QmpEvent) => {
      if (event.event === 'STOP') {
        began = performance.now();
        stopped.resolve();
      }
    };
    monitor = new CountingMonitor(
      order.socket === undefined
        ? new LibvirtMonitor(new Virsh('qemu:///system'), uuid)
        : await QmpSocket.connect(order.socket, deadline, heard),
      order.dieAt,
    );
    began = performance.now();
    if (order.afterStop !== undefined) {
      strike(order.afterStop);
      await deadline.race(stopped.promise, 'the guest to stop');
    }
    if (order.observeOnly) {
      const record = readRecord(uuid);
      return record === undefined
        ? { ...report(), error: 'there is no record' }
        : { ...report(), proof: await observeProof(record, monitor, deadline) };
    }
    const target = { name, uuid, resource: undefined, fault: 'a test', qemu, monitor, sentinelDirectory };
    const onStep = (step: Step | ResumeStep) => {
      steps.push([step, performance.now() - began]);
      const blow = order.before?.[step];
      if (blow !== undefined) {
        strike(blow);
      }
    };
    if (order.resume !== undefined) {
      const answers = order.resume.values();
      const elsewhere = async () => answers.next().value ?? undefined;
      return { ...report(), resumed: await resume(target, elsewhere, deadline, onStep) };
    }
    const outcome = await quiesce(target, deadline, onStep);
    return { ...report(), outcome };
  } catch (error) {
    return { ...report(), error: messageOf(error) };
  } finally {
    monitor?.close();
  }
}

if (import.meta.main) {
  const report = await carryOut(JSON.parse(process.argv[2] ?? '') as Order);
  process.stdout.write(JSON.stringify(report));
  process.exit(0);
}

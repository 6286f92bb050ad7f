import { readFileSync } from 'node:fs';
import { errnoOf, KvmhaError, messageOf } from '../error.ts';
import type { DomainIdentity } from '../libvirt/identity-cache.ts';
import {
  allPids,
  livingThreads,
  mayHaveArguments,
  type ProcessIdentity,
  readArguments,
  readStat,
  threadName,
} from '../linux/process.ts';
import { guestOf } from './command-line.ts';

/** A qemu process that runs a domain. */
export interface QemuProcess extends ProcessIdentity {
  readonly state: string;
  readonly argv: readonly string[];
  readonly uuid: string | undefined;
}

/**
 * Every qemu process of the domain, found by what stands on its command line, never by a pattern over names:
 * the uuid after `-uuid` where the domain's is known, else the whole name after `-name guest=`. libvirt gives both to
 * every qemu; a process that has only one (`find / -name web`) is none.
 *
 * @throws KvmhaError `file` when the process table cannot be read
 */
export function findQemuProcesses(domain: DomainIdentity): QemuProcess[] {
  return allPids().flatMap((pid) => qemuProcess(pid, domain) ?? []);
}

/** Every qemu process that runs a domain of libvirt's. @throws KvmhaError `file` as `findQemuProcesses` */
export function allQemuProcesses(): NamedQemu[] {
  return allPids().flatMap((pid) => readQemu(pid) ?? []);
}

/**
 * The qemu process `pid` if it runs the domain.
 *
 * @returns undefined when there is no such process, or it is another guest's or no guest's at all
 */
export function qemuProcess(pid: number, domain: DomainIdentity): QemuProcess | undefined {
  const qemu = readQemu(pid);
  const same =
    domain.uuid === undefined
      ? qemu?.name === domain.name
      : qemu?.uuid.toLowerCase() === domain.uuid.toLowerCase();
  return same ? qemu : undefined;
}

type NamedQemu = QemuProcess & { readonly name: string; readonly uuid: string };

function readQemu(pid: number): NamedQemu | undefined {
  // Most processes of a node are none, and all are looked at several times in an action.
  if (!mayHaveArguments(pid, ['-name', '-uuid'])) {
    return undefined;
  }
  // In this order: had the pid been reused meanwhile, the start time would not be that of the arguments' process.
  const stat = readStat(pid);
  const argv = stat === undefined ? undefined : readArguments(pid);
  if (stat === undefined || argv === undefined || !argv.includes('-name') || !argv.includes('-uuid')) {
    return undefined;
  }
  const { name, uuid } = guestOf(argv);
  if (name === undefined || uuid === undefined) {
    return undefined;
  }
  return { pid, startTime: stat.startTime, state: stat.state, argv, name, uuid };
}

/**
 * A qemu whose leader has died while a thread of it lives on: it has no command line any more, so only the pid
 * file that libvirt keeps (`PIDDIR/NAME.pid`) or an earlier look tells that it is this domain's.
 */
export function dyingProcess(pid: number): ProcessIdentity | undefined {
  const stat = readStat(pid);
  return stat?.state === 'Z' && livingThreads(pid).length > 0
    ? { pid, startTime: stat.startTime }
    : undefined;
}

/** The threads that run the guest's vCPUs, by the names that QEMU gives them (libvirt sets `debug-threads=on`). */
export function vcpuThreads(pid: number): number[] {
  return livingThreads(pid).filter((thread) => /^(CPU \d+|ALL CPUs)\//.test(threadName(pid, thread) ?? ''));
}

/**
 * The pid in libvirt's pid file of a domain.
 *
 * @throws KvmhaError `file` when the file is there and cannot be read
 */
export function readPidFile(path: string): number | undefined {
  try {
    const pid = Number.parseInt(readFileSync(path, 'utf8'), 10);
    return Number.isSafeInteger(pid) && pid > 0 ? pid : undefined;
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') {
      return undefined;
    }
    throw new KvmhaError('file', `${path}: ${messageOf(error)}`, { cause: error });
  }
}

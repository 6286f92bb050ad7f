import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { errnoOf, KvmhaError, messageOf } from '../error.ts';

/** What /proc/PID/stat shows of a process or thread. */
export interface ProcessStat {
  /** One letter: R running, S sleeping, D uninterruptible, T stopped by a signal, Z zombie, X dead. */
  readonly state: string;
  /** Start time in clock ticks since boot: together with the pid it names one process for ever. */
  readonly startTime: number;
}

/** One process, named so that a reused pid is never taken for it. */
export interface ProcessIdentity {
  readonly pid: number;
  readonly startTime: number;
}

/**
 * Reads /proc/PID/stat (or /proc/PID/task/TID/stat with `thread`).
 *
 * @returns undefined when there is no such process
 * @throws KvmhaError `file` when /proc cannot be read: that is no evidence of a process being gone
 */
export function readStat(pid: number, thread?: number): ProcessStat | undefined {
  const path = thread === undefined ? `/proc/${pid}/stat` : `/proc/${pid}/task/${thread}/stat`;
  const text = readProc(path);
  if (text === undefined) {
    return undefined;
  }
  // The second field is the command in parentheses and may contain anything, also spaces and parentheses.
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  const state = fields[0];
  const startTime = Number(fields[19]);
  if (state === undefined || !Number.isSafeInteger(startTime)) {
    throw new KvmhaError('malformed', `${path} is not what proc(5) says`);
  }
  return { state, startTime };
}

/** The threads that are left of a process: all of /proc/PID/task that is not dead. */
export function livingThreads(pid: number): number[] {
  let names: string[];
  try {
    names = readdirSync(`/proc/${pid}/task`);
  } catch (error) {
    if (isGone(error)) {
      return [];
    }
    throw new KvmhaError('file', `/proc/${pid}/task: ${messageOf(error)}`, { cause: error });
  }
  return names.map(Number).filter((thread) => {
    const stat = readStat(pid, thread);
    return stat !== undefined && stat.state !== 'Z' && stat.state !== 'X';
  });
}

/**
 * Whether any thread of exactly this process is left. A zombie leader alone does not count, its files are
 * closed; a zombie leader with a sibling in uninterruptible sleep does, its write may still reach the disk.
 */
export function isAlive(identity: ProcessIdentity): boolean {
  const stat = readStat(identity.pid);
  return (
    stat !== undefined && stat.startTime === identity.startTime && livingThreads(identity.pid).length > 0
  );
}

/**
 * Sends `signal` to exactly this process.
 *
 * @returns false when it is gone already (or the pid has been reused)
 */
export function signalProcess(identity: ProcessIdentity, signal: NodeJS.Signals): boolean {
  if (readStat(identity.pid)?.startTime !== identity.startTime) {
    return false;
  }
  try {
    process.kill(identity.pid, signal);
    return true;
  } catch (error) {
    if (errnoOf(error) === 'ESRCH') {
      return false;
    }
    throw new KvmhaError('file', `${signal} to process ${identity.pid}: ${messageOf(error)}`, {
      cause: error,
    });
  }
}

/**
 * SIGKILL to a child of ours that has not been reaped, and to all that it has started. Each is stopped before its
 * children are looked for, so that it starts no more.
 */
export function killWithChildren(pid: number | undefined): void {
  if (pid === undefined || !kill(pid, 'SIGSTOP')) {
    return;
  }
  for (const child of childrenOf(pid)) {
    killWithChildren(child);
  }
  kill(pid, 'SIGKILL');
}

function childrenOf(pid: number): number[] {
  const lists = livingThreads(pid).map((thread) => readProc(`/proc/${pid}/task/${thread}/children`) ?? '');
  return lists.flatMap((list) => list.split(' ').filter(isPid).map(Number));
}

/** @returns whether it was there and could be sent the signal */
function kill(pid: number, signal: NodeJS.Signals): boolean {
  try {
    return process.kill(pid, signal);
  } catch {
    return false;
  }
}

/**
 * Whether the command line of a process has all of `words` in it somewhere. It tells at little cost of which processes
 * `readArguments` need not be asked.
 */
export function mayHaveArguments(pid: number, words: readonly string[]): boolean {
  const text = readProc(`/proc/${pid}/cmdline`) ?? '';
  return words.every((word) => text.includes(word));
}

/** The argument vector of a process; empty for a zombie or kernel thread, undefined when it is gone. */
export function readArguments(pid: number): string[] | undefined {
  const text = readProc(`/proc/${pid}/cmdline`);
  if (text === undefined) {
    return undefined;
  }
  return text === '' ? [] : text.replace(/\0$/, '').split('\0');
}

/** Whether a process with one of these names (proc(5), comm) is there. */
export function isRunning(names: readonly string[]): boolean {
  return allPids().some((pid) => names.includes(threadName(pid, pid) ?? ''));
}

/** The name that a thread has given itself; undefined when it is gone. */
export function threadName(pid: number, thread: number): string | undefined {
  return readProc(`/proc/${pid}/task/${thread}/comm`)?.trimEnd();
}

/** The pids of all processes. @throws KvmhaError `file` when they cannot be listed: that is no absence of any */
export function allPids(): number[] {
  try {
    return readdirSync('/proc').filter(isPid).map(Number);
  } catch (error) {
    throw new KvmhaError('file', `/proc: ${messageOf(error)}`, { cause: error });
  }
}

/** Nanoseconds of processor time a thread has used, from schedstat; undefined when it is gone. */
export function processorTime(pid: number, thread: number): bigint | undefined {
  const first = readProc(`/proc/${pid}/task/${thread}/schedstat`)?.split(' ')[0];
  return first === undefined ? undefined : BigInt(first);
}

/** Bytes of memory that a process occupies, those in huge pages among them; undefined when it is gone. */
export function memoryOf(pid: number): number | undefined {
  const status = readProc(`/proc/${pid}/status`);
  const kilobytes = (key: string) =>
    Number(new RegExp(`^${key}:\\s*(\\d+) kB`, 'm').exec(status ?? '')?.[1] ?? 0);
  return status === undefined ? undefined : (kilobytes('VmRSS') + kilobytes('HugetlbPages')) * 1024;
}

/** How readily the kernel ends a process when memory runs out (-1000 to 1000); undefined when it is gone. */
export function readOomScore(pid: number): number | undefined {
  const score = readProc(`/proc/${pid}/oom_score_adj`);
  return score === undefined ? undefined : Number(score);
}

/** Sets what `readOomScore` reads, where this process may: a container may not. */
export function writeOomScore(pid: number, score: number): void {
  try {
    writeFileSync(`/proc/${pid}/oom_score_adj`, String(score));
  } catch {
    // It is a wish.
  }
}

/** Wall-clock time at which a process was started. */
export function startedAt({ startTime }: ProcessIdentity): Date {
  const boot = Number(/^btime (\d+)$/m.exec(readProc('/proc/stat') ?? '')?.[1] ?? 0);
  return new Date((boot + startTime / TICKS_PER_SECOND) * 1000);
}

/** USER_HZ, in which /proc counts: 100 on every architecture that runs KVM. */
const TICKS_PER_SECOND = 100;

/** Reads a file of /proc that vanishes with its process. */
function readProc(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    if (isGone(error)) {
      return undefined;
    }
    throw new KvmhaError('file', `${path}: ${messageOf(error)}`, { cause: error });
  }
}

function isGone(error: unknown): boolean {
  const errno = errnoOf(error);
  return errno === 'ENOENT' || errno === 'ESRCH';
}

function isPid(name: string): boolean {
  return /^[1-9][0-9]*$/.test(name);
}

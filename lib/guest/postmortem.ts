import { createHash } from 'node:crypto';
import {
  closeSync,
  createReadStream,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  readSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { hostname, release } from 'node:os';
import { basename, dirname, join } from 'node:path';
import type { Deadline } from '../deadline.ts';
import { errnoOf, isKvmhaError, KvmhaError, messageOf } from '../error.ts';
import { JOURNAL, type JournalEntry } from '../journal.ts';
import { othersFolderIn } from '../linux/others-folder.ts';
import type { QemuProcess } from '../qemu/qemu-process.ts';
import type { Json } from '../qemu/qmp.ts';
import { run } from '../run.ts';
import { classify } from '../state/classify.ts';
import type { Guest } from './guest.ts';
import type { Look } from './look.ts';
import {
  type DumpFormat,
  dumpMemory,
  dumpName,
  type OnProgress,
  PARTIAL,
  partialDump,
} from './memory-dump.ts';
import { dumpPastQemu, hex, memoryLayout, type Unreadable } from './memory-past-qemu.ts';

export interface PostmortemOptions {
  /** Absolute path of the folder to be made for it. */
  readonly directory: string;
  readonly format: DumpFormat;
  /** Why the memory is not dumped; undefined if it is. */
  readonly withoutMemory: string | undefined;
  /** Whether a page of the memory may be unreadable: it is then copied past QEMU, as ELF whatever the format. */
  readonly pastQemu: boolean;
  readonly onProgress: OnProgress;
}

/** What manifest.json says: it is written last, so that a folder without one is not whole. */
export interface Manifest {
  readonly node: string;
  /** Release of the node's kernel. */
  readonly kernel: string;
  readonly guest: { readonly name: string; readonly uuid: string | null; readonly resource: string | null };
  readonly begun: string;
  readonly ended: string;
  readonly state: string;
  readonly reason: string;
  readonly fault: string | null;
  readonly qemu: { readonly pid: number; readonly arguments: readonly string[] };
  /** Everything that was asked for is here. */
  readonly complete: boolean;
  readonly files: readonly { readonly name: string; readonly bytes: number; readonly sha256: string }[];
  readonly missing: readonly { readonly name: string; readonly why: string }[];
  /** What of the guest's memory could not be read, and is not in its dump: physical addresses. */
  readonly unreadable: readonly { readonly address: string; readonly bytes: number }[];
}

/** QMP queries that are collected, each into a file of its name. None changes anything. */
const QUERIES: readonly (readonly [command: string, args: { readonly [key: string]: Json }])[] = [
  ['query-status', {}],
  ['query-version', {}],
  ['query-block', {}],
  ['query-named-block-nodes', { flat: true }],
  ['query-blockstats', {}],
  ['query-cpus-fast', {}],
  ['query-migrate', {}],
  ['query-memory-size-summary', {}],
];

/** What virsh says of the domain, beside its XML. */
const QUESTIONS = [
  ['version', '--daemon'],
  ['domstate', '--reason'],
  ['dominfo'],
  ['domblklist', '--details'],
  ['domblkerror'],
  ['domiflist'],
  ['domstats', '--nowait'],
];

/** How much of the end of each log is kept, in bytes. */
const LOG_TAIL = 256 * 1024;
/** Milliseconds for one question. */
const PATIENCE = 10_000;

/** What the files' checksums are in, in the form of sha256sum(1). */
export const SUMS = 'SHA256SUMS';

/**
 * Collects what can be known of a guest whose vCPUs stand still, its memory last. Each file is readable by root
 * alone and has its final name only when it is whole.
 *
 * @param seen a look with a qemu
 * @throws KvmhaError when not even the folder can be made
 */
export async function collectPostmortem(
  guest: Guest,
  seen: Look & { readonly qemu: QemuProcess },
  options: PostmortemOptions,
  deadline: Deadline,
): Promise<Manifest> {
  const { qemu } = seen;
  const begun = new Date().toISOString();
  makeFolder(options.directory);
  const names: string[] = [];
  const missing: { name: string; why: string }[] = [];
  const keep = async (name: string, content: () => string | Promise<string>) => {
    try {
      writeFileSync(join(options.directory, name), await content(), { mode: 0o600, flag: 'wx', flush: true });
      names.push(name);
    } catch (error) {
      missing.push({ name, why: messageOf(error) });
    }
  };
  const classification = classify(seen.observation);
  await keep('observation.json', () => json({ ...classification, ...seen.observation }));
  await keep('process.txt', () => processText(qemu.pid));
  await keep('qemu.log', () => tail(`/var/log/libvirt/qemu/${guest.name}.log`, LOG_TAIL));
  await keep('kernel.log', () => kernelLog(deadline));
  await keep('events.jsonl', () => eventsOf(guest.name, seen.uuid));
  if (seen.record !== undefined) {
    await keep('quiesce.json', () => json(seen.record));
  }
  if (seen.observation.proof !== undefined) {
    await keep('proof.json', () => json(seen.observation.proof));
  }
  const ask = async (command: string, args: { readonly [key: string]: Json }) => {
    if (seen.monitor === undefined) {
      throw new KvmhaError('unreachable', 'QEMU cannot be asked');
    }
    return seen.monitor.execute(command, args, deadline.within(PATIENCE));
  };
  for (const [command, args] of QUERIES) {
    await keep(`${command}.json`, async () => json(await ask(command, args)));
  }
  await keep('registers.txt', async () =>
    String(await ask('human-monitor-command', { 'command-line': 'info registers -a' })),
  );
  // That it fails is told where it is needed.
  const layout = options.pastQemu ? memoryLayout(seen.monitor, deadline) : undefined;
  await Promise.allSettled([layout]);
  // QEMU serves one client at a time, and the cluster's monitor wants to ask, too.
  seen.monitor?.close();
  const name = seen.uuid ?? guest.name;
  await keep('domain.xml', () =>
    guest.virsh.command(['dumpxml', `--domain=${name}`], deadline.within(PATIENCE)),
  );
  await keep('libvirt.txt', () => libvirtText(guest, name, deadline));
  const dump = dumpName(layout === undefined ? options.format : 'elf');
  let unreadable: readonly Unreadable[] = [];
  try {
    if (options.withoutMemory !== undefined) {
      throw new KvmhaError('program-failed', options.withoutMemory);
    }
    const { directory, format, onProgress } = options;
    if (layout === undefined) {
      await dumpMemory(guest, dumpable(seen), directory, format, onProgress, deadline);
    } else {
      unreadable = await dumpPastQemu(await layout, qemu, directory, onProgress, deadline);
    }
    names.push(dump);
  } catch (error) {
    rmSync(partialDump(options.directory), { force: true });
    if (!isKvmhaError(error)) {
      throw error;
    }
    missing.push({ name: dump, why: messageOf(error) });
  }
  const files = await Promise.all(names.map((each) => describeFile(options.directory, each)));
  writeSums(options.directory, files);
  const manifest: Manifest = {
    node: hostname(),
    kernel: release(),
    guest: { name: guest.name, uuid: seen.uuid ?? null, resource: guest.resource ?? null },
    begun,
    ended: new Date().toISOString(),
    state: classification.state,
    reason: classification.reason,
    fault: seen.record?.fault ?? classification.fault ?? null,
    qemu: { pid: qemu.pid, arguments: qemu.argv },
    complete: missing.length === 0,
    files,
    missing,
    unreadable: unreadable.map(({ physical, bytes }) => ({ address: hex(physical), bytes })),
  };
  writeManifest(options.directory, manifest);
  return manifest;
}

/** Only a folder that was not there: nothing of another post-mortem is overwritten. */
function makeFolder(directory: string): void {
  try {
    const stranger = othersFolderIn(directory);
    if (stranger !== undefined) {
      throw new Error(`${stranger}: what is written there could be replaced`);
    }
    mkdirSync(dirname(directory), { recursive: true, mode: 0o700 });
    mkdirSync(directory, { mode: 0o700 });
  } catch (cause) {
    const why = errnoOf(cause) === 'EEXIST' ? 'it is there already' : messageOf(cause);
    throw new KvmhaError('file', `${directory} cannot be made: ${why}`, { cause });
  }
}

/**
 * Which domain libvirt is to dump.
 *
 * @throws KvmhaError `unreachable` where it cannot
 */
function dumpable({ uuid, observation }: Look): string {
  const { libvirt } = observation;
  if (libvirt.kind !== 'state' || uuid === undefined) {
    const why =
      libvirt.kind === 'silent' ? `libvirt does not answer (${libvirt.why})` : 'libvirt does not know it';
    throw new KvmhaError('unreachable', `the memory is dumped by way of libvirt, and ${why}`);
  }
  return uuid;
}

/** What /proc shows of the process, except its memory. */
function processText(pid: number): string {
  const read = (name: string) => {
    try {
      return readFileSync(`/proc/${pid}/${name}`, 'utf8').replaceAll('\0', ' ');
    } catch (error) {
      return `${messageOf(error)}\n`;
    }
  };
  const links = readdirSync(`/proc/${pid}/fd`).map((fd) => `${fd} -> ${linkOf(`/proc/${pid}/fd/${fd}`)}\n`);
  const parts = ['cmdline', 'status', 'limits', 'maps', 'wchan', 'stack'].map(
    (name) => `== ${name}\n${read(name)}\n`,
  );
  return `${parts.join('')}== fd\n${links.join('')}`;
}

/** What virsh answers to each question; where it answers with an error, that. */
async function libvirtText(guest: Guest, name: string, deadline: Deadline): Promise<string> {
  let text = '';
  for (const [command = '', ...options] of QUESTIONS) {
    const words = command === 'version' ? [command, ...options] : [command, name, ...options];
    const answer = await guest.virsh.command(words, deadline.within(PATIENCE)).catch((error: unknown) => {
      if (isKvmhaError(error, 'program-failed')) {
        return `${messageOf(error)}\n`;
      }
      throw error;
    });
    text += `== virsh ${words.join(' ')}\n${answer}\n`;
  }
  return text;
}

/** The end of the kernel's log, where memory and I/O errors of the host are; where it may not be read, why. */
async function kernelLog(deadline: Deadline): Promise<string> {
  const { exitCode, stdout, stderr } = await run('dmesg', ['--time-format', 'iso'], {
    deadline: deadline.within(PATIENCE),
  });
  return exitCode === 0 ? stdout.slice(-LOG_TAIL) : stderr;
}

/** What the journal tells of the guest, the oldest first. */
function eventsOf(name: string, uuid: string | undefined): string {
  return [`${JOURNAL}.1`, JOURNAL]
    .flatMap((path) => readIfThere(path).split('\n'))
    .filter((line) => isEventOf(line, name, uuid))
    .map((line) => `${line}\n`)
    .join('');
}

function isEventOf(line: string, name: string, uuid: string | undefined): boolean {
  try {
    const event: Partial<JournalEntry> | null = JSON.parse(line);
    return event?.guest === name || (uuid !== undefined && event?.uuid === uuid);
  } catch {
    return false; // A line that was cut off when the node was.
  }
}

function readIfThere(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (cause) {
    if (errnoOf(cause) === 'ENOENT') {
      return '';
    }
    throw new KvmhaError('file', `${path}: ${messageOf(cause)}`, { cause });
  }
}

function linkOf(path: string): string {
  try {
    return readlinkSync(path);
  } catch (error) {
    return messageOf(error);
  }
}

function tail(path: string, bytes: number): string {
  const file = openSync(path, 'r');
  try {
    const { size } = statSync(path);
    const buffer = Buffer.alloc(Math.min(size, bytes));
    const length = readSync(file, buffer, 0, buffer.length, size - buffer.length);
    return buffer.toString('utf8', 0, length);
  } finally {
    closeSync(file);
  }
}

async function describeFile(directory: string, name: string) {
  const path = join(directory, name);
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path, { highWaterMark: 1024 * 1024 })) {
    hash.update(chunk);
  }
  return { name, bytes: statSync(path).size, sha256: hash.digest('hex') };
}

function writeSums(directory: string, files: Manifest['files']): void {
  const path = join(directory, SUMS);
  const lines = files.map(({ name, sha256 }) => `${sha256}  ${name}\n`);
  try {
    writeFileSync(path, lines.join(''), { mode: 0o600, flag: 'wx', flush: true });
  } catch (cause) {
    throw new KvmhaError('file', `${path} cannot be written: ${messageOf(cause)}`, { cause });
  }
}

function writeManifest(directory: string, manifest: Manifest): void {
  const path = join(directory, 'manifest.json');
  try {
    writeFileSync(`${path}${PARTIAL}`, json(manifest), { mode: 0o600, flag: 'wx', flush: true });
    renameSync(`${path}${PARTIAL}`, path);
    const folder = openSync(directory, 'r');
    fsyncSync(folder);
    closeSync(folder);
  } catch (cause) {
    throw new KvmhaError('file', `${basename(path)} cannot be written: ${messageOf(cause)}`, { cause });
  }
}

function json(value: unknown): string {
  return `${JSON.stringify(value, null, 2)}\n`;
}

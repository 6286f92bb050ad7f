import { createHash } from 'node:crypto';
import {
  chmodSync,
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
  statfsSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { hostname } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { type Deadline, sleep } from '../deadline.ts';
import { errnoOf, isKvmhaError, KvmhaError, messageOf } from '../error.ts';
import { syncFile } from '../linux/sync.ts';
import type { QemuProcess } from '../qemu/qemu-process.ts';
import type { Json } from '../qemu/qmp.ts';
import { classify } from '../state/classify.ts';
import type { Guest } from './guest.ts';
import type { Look } from './look.ts';

export interface PostmortemOptions {
  /** Absolute path of the folder to be made for it. */
  readonly directory: string;
  readonly format: 'elf' | 'kdump-zlib';
  /** Why the memory is not dumped; undefined if it is. */
  readonly withoutMemory: string | undefined;
  /** Told how much of the memory is written, in bytes. */
  readonly onProgress: (done: number, total: number) => void;
}

/** What manifest.json says: it is written last, so that a folder without one is not whole. */
export interface Manifest {
  readonly node: string;
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

/** How much of the end of qemu's log is kept, in bytes. */
const LOG_TAIL = 256 * 1024;
/** Bytes that must stay free beside the memory: a dump's headers, the other files, and room for the node. */
const SPARE = 128 * 1024 * 1024;
/** Milliseconds for one question. */
const PATIENCE = 10_000;
/** Milliseconds between two looks at a dump's progress. */
const PROGRESS_PAUSE = 500;

/** The name of a memory dump that is not complete. */
const PARTIAL = '.partial';

/** The unfinished memory dump in a folder: whoever gives the collection up removes it. */
export function partialDump(directory: string): string {
  return join(directory, `memory${PARTIAL}`);
}

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
  if (seen.record !== undefined) {
    await keep('quiesce.json', () => json(seen.record));
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
  // QEMU serves one client at a time, and the cluster's monitor wants to ask, too.
  seen.monitor?.close();
  const name = seen.uuid ?? guest.name;
  await keep('domain.xml', () => guest.virsh.command(['dumpxml', name], deadline.within(PATIENCE)));
  const dump = options.format === 'elf' ? 'memory.elf' : 'memory.kdump';
  try {
    await dumpMemory(guest, seen, dump, options, deadline);
    names.push(dump);
  } catch (error) {
    rmSync(partialDump(options.directory), { force: true });
    if (!isKvmhaError(error)) {
      throw error;
    }
    missing.push({ name: dump, why: messageOf(error) });
  }
  const manifest: Manifest = {
    node: hostname(),
    guest: { name: guest.name, uuid: seen.uuid ?? null, resource: guest.resource ?? null },
    begun,
    ended: new Date().toISOString(),
    state: classification.state,
    reason: classification.reason,
    fault: seen.record?.fault ?? classification.fault ?? null,
    qemu: { pid: qemu.pid, arguments: qemu.argv },
    complete: missing.length === 0,
    files: await Promise.all(names.map((each) => describeFile(options.directory, each))),
    missing,
  };
  writeManifest(options.directory, manifest);
  return manifest;
}

/** Only a folder that was not there: nothing of another post-mortem is overwritten. */
function makeFolder(directory: string): void {
  try {
    mkdirSync(dirname(directory), { recursive: true, mode: 0o700 });
    mkdirSync(directory, { mode: 0o700 });
  } catch (cause) {
    const why = errnoOf(cause) === 'EEXIST' ? 'it is there already' : messageOf(cause);
    throw new KvmhaError('file', `${directory} cannot be made: ${why}`, { cause });
  }
}

/**
 * Writes the guest's memory by way of libvirt. Past it, over the guest's own QMP socket, a dump works as well, but when
 * it is done libvirt 9.0 hears DUMP_COMPLETED without having a job, and its daemon crashes (measured).
 *
 * @throws KvmhaError
 */
async function dumpMemory(
  guest: Guest,
  { uuid, observation }: Look,
  name: string,
  { directory, format, withoutMemory, onProgress }: PostmortemOptions,
  deadline: Deadline,
): Promise<void> {
  if (withoutMemory !== undefined) {
    throw new KvmhaError('program-failed', withoutMemory);
  }
  const { libvirt } = observation;
  if (libvirt.kind !== 'state' || uuid === undefined) {
    const why =
      libvirt.kind === 'silent' ? `libvirt does not answer (${libvirt.why})` : 'libvirt does not know it';
    throw new KvmhaError('unreachable', `the memory is dumped by way of libvirt, and ${why}`);
  }
  await assertSpace(guest, uuid, directory, deadline);
  const partial = partialDump(directory);
  // libvirt writes to a file that is there without changing its mode.
  writeFileSync(partial, '', { mode: 0o600, flag: 'wx' });
  const words = ['dump', '--memory-only', ...(format === 'elf' ? [] : ['--format', format])];
  const dumping = guest.virsh.command([...words, '--domain', uuid, '--file', partial], deadline);
  await watch(guest, uuid, dumping, onProgress, deadline);
  chmodSync(partial, 0o600);
  await syncFile(partial, deadline);
  renameSync(partial, join(directory, name));
}

async function assertSpace(guest: Guest, uuid: string, directory: string, deadline: Deadline): Promise<void> {
  const facts = await guest.virsh.information(uuid, deadline.within(PATIENCE));
  const memory = Number.parseInt(facts.get('Used memory') ?? facts.get('Max memory') ?? '', 10) * 1024;
  const { bavail, bsize } = statfsSync(directory);
  const free = bavail * bsize;
  if (!(free >= memory + SPARE)) {
    throw new KvmhaError(
      'file',
      `${directory} has ${mebibytes(free)} free, and the memory of ${guest.name} needs ` +
        `${Number.isNaN(memory) ? 'an amount that libvirt does not tell' : mebibytes(memory + SPARE)}`,
    );
  }
}

/** Until the dump has ended, tells how far it is, from `virsh domjobinfo`. */
async function watch(
  guest: Guest,
  uuid: string,
  dumping: Promise<unknown>,
  onProgress: PostmortemOptions['onProgress'],
  deadline: Deadline,
): Promise<void> {
  let ended = false;
  const end = () => {
    ended = true;
  };
  dumping.then(end, end);
  while (!ended && !deadline.passed()) {
    await Promise.race([sleep(PROGRESS_PAUSE), dumping.catch(() => undefined)]);
    const text = ended
      ? ''
      : await guest.virsh.command(['domjobinfo', uuid], deadline.within(PATIENCE)).catch(() => '');
    const [done, total] = [amount(text, 'Memory processed'), amount(text, 'Memory total')];
    if (done !== undefined && total !== undefined) {
      onProgress(done, total);
    }
  }
  await dumping;
}

/** "Memory total: 256.250 MiB" in bytes. */
function amount(text: string, key: string): number | undefined {
  const match = new RegExp(`^${key}:\\s+([0-9.]+) (B|KiB|MiB|GiB|TiB)`, 'm').exec(text);
  const power = ['B', 'KiB', 'MiB', 'GiB', 'TiB'].indexOf(match?.[2] ?? '');
  return match === null || power < 0 ? undefined : Number(match[1]) * 1024 ** power;
}

function mebibytes(bytes: number): string {
  return `${Math.round(bytes / 1024 / 1024)} MiB`;
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

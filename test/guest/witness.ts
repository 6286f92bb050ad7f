import { copyFileSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { Deadline } from '../../lib/deadline.ts';
import { runChecked } from '../../lib/run.ts';
import { buildOnce } from '../lab/build.ts';
import type { LabNode } from '../lab/client.ts';

/** What the guest of witness.s has written on a disk. */
export interface Witness {
  /** How often it booted from the disk. */
  readonly boots: number;
  /** Counts up over all boots: falls only when a write was lost or two guests write. */
  readonly ticks: number;
  /** The boot that the latest tick belongs to. */
  readonly tickBoot: number;
  /** Another number for each boot of each guest; it stays through a live migration. */
  readonly instance: number;
}

export type DiskFormat = 'raw' | 'qcow2';

export interface Place {
  /** The node that `path` belongs to; without it, this process's own files. */
  readonly node?: LabNode;
  readonly format?: DiskFormat;
}

export interface DiskOptions extends Place {
  /** Bytes, by default 4 MiB. */
  readonly size?: number;
  /** `boot` to boot the witness from; `data` for a further disk that it writes its ticks to; `blank` for neither. */
  readonly content?: 'boot' | 'data' | 'blank';
  /** As from the first boot. */
  readonly settings?: {
    readonly ignorePowerButton?: boolean;
    /** Keep the ib700 watchdog going, so that it fires when the guest hangs (key h). */
    readonly watchdog?: boolean;
    /** Dirty memory without end, at 7 MiB/s. */
    readonly dirty?: boolean;
  };
  /** `-o` of qemu-img create, as in `lazy_refcounts=on`. Only for qcow2. */
  readonly options?: string;
}

const DISK_TIMEOUT = 30_000;
const SMALLEST = 4 * 1024 * 1024;
const SETTINGS_AT = 508;
const BOOT_RECORD_AT = 8 * 512;
const TICK_RECORD_AT = 16 * 512;
const RECORD_SIZE = 16;
const MAGIC = 0x534e5457;

/** Assembles the guest's program. */
async function buildProgram(): Promise<string> {
  const source = join(import.meta.dirname, 'witness.s');
  const object = await buildOnce('witness.o', source, (from, to) => ['as', '--32', from, '-o', to]);
  return buildOnce('witness.bin', object, (from, to) => [
    ...(['ld', '-m', 'elf_i386', '-Ttext', '0x7c00', '--oformat', 'binary', from, '-o', to] as const),
  ]);
}

/** Makes a sparse disk image, by default one that boots the witness. Missing directories are made, too. */
export async function createDisk(path: string, options: DiskOptions = {}): Promise<void> {
  const { format = 'raw', size = SMALLEST, content = 'boot' } = options;
  if (size < SMALLEST || size % 512 !== 0) {
    throw new Error(`a disk has at least ${SMALLEST} bytes, and whole sectors`);
  }
  const file = outside(path, options);
  mkdirSync(dirname(file), { recursive: true });
  const raw = format === 'raw' ? file : `${file}.raw`;
  rmSync(file, { force: true });
  if (content === 'boot') {
    copyFileSync(await buildProgram(), raw);
  }
  const handle = await open(raw, content === 'boot' ? 'r+' : 'w');
  try {
    await handle.truncate(size);
    if (content === 'boot') {
      const { ignorePowerButton = false, watchdog = false, dirty = false } = options.settings ?? {};
      const settings = (ignorePowerButton ? 1 : 0) | (watchdog ? 2 : 0) | (dirty ? 4 : 0);
      await handle.write(Buffer.from([settings]), 0, 1, SETTINGS_AT);
    }
    if (content !== 'blank') {
      // On qcow2 this also allocates the clusters, so that ticks are written in place, and can be read from outside.
      const record = Buffer.alloc(512);
      record.writeUInt32LE(MAGIC);
      await handle.write(record, 0, 512, TICK_RECORD_AT);
      await handle.write(record, 0, 512, BOOT_RECORD_AT);
    }
  } finally {
    await handle.close();
  }
  if (format === 'qcow2') {
    const more = options.options === undefined ? [] : ['-o', options.options];
    try {
      await qemuTool(['qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2', ...more, raw, file]);
    } finally {
      rmSync(raw);
    }
  }
}

/** Makes a qcow2 image over another one, whose path is as the guest's host sees it. */
export async function createOverlay(
  path: string,
  backing: { readonly path: string; readonly format: DiskFormat },
  place: Place = {},
): Promise<void> {
  const base = ['-b', backing.path, '-F', backing.format];
  await qemuTool(['qemu-img', 'create', '-q', '-f', 'qcow2', ...base, path], place.node);
}

/** Reads what the witness has written, also while it runs. */
export async function readWitness(path: string, place: Place = {}): Promise<Witness> {
  const [boot, tick] = await Promise.all(
    [BOOT_RECORD_AT, TICK_RECORD_AT].map((offset) =>
      place.format === 'qcow2' ? readQcow2(path, offset, place.node) : readRaw(outside(path, place), offset),
    ),
  );
  return {
    boots: boot?.readUInt32LE(4) ?? 0,
    ticks: tick?.readUInt32LE(8) ?? 0,
    tickBoot: tick?.readUInt32LE(4) ?? 0,
    instance: tick?.readUInt32LE(12) ?? 0,
  };
}

/**
 * Waits until the witness has written `ticks` more ticks than it has now.
 *
 * @returns what it has written by then
 * @throws Error when it does not tick in time
 */
export async function waitForTicks(
  path: string,
  ticks: number,
  place: Place = {},
  deadline: Deadline = Deadline.in(DISK_TIMEOUT),
): Promise<Witness> {
  const start = await readWitness(path, place);
  const reached = await deadline.poll(50, async () => {
    const now = await readWitness(path, place);
    return now.ticks >= start.ticks + ticks ? now : undefined;
  });
  if (reached === undefined) {
    throw new Error(`the guest of ${path} does not tick: it had ${JSON.stringify(start)} and got no further`);
  }
  return reached;
}

/** The records of ticks in a piece of the guest's memory; the latest tick is one that it has written or was to write. */
export function findRecords(memory: Buffer): { boots: number; ticks: number; instance: number }[] {
  const magic = Buffer.alloc(4);
  magic.writeUInt32LE(MAGIC);
  const records = [];
  for (let at = memory.indexOf(magic); at >= 0; at = memory.indexOf(magic, at + 1)) {
    if (at + RECORD_SIZE <= memory.length) {
      const [boots, ticks, instance] = [4, 8, 12].map((offset) => memory.readUInt32LE(at + offset));
      records.push({ boots: boots ?? 0, ticks: ticks ?? 0, instance: instance ?? 0 });
    }
  }
  return records;
}

/** What the witness has said on its serial port, read from the file that `domainXml`'s `serial` names. */
export function readSerial(
  path: string,
  node?: LabNode,
): { boots: number; acknowledged: number; errors: number } {
  let text = '';
  try {
    text = readFileSync(node?.path(path) ?? path, 'latin1');
  } catch {
    // Nothing said yet.
  }
  const number = (line: string | undefined) => Number.parseInt(line?.slice(1, 9) ?? '0', 16);
  return {
    boots: number(text.match(/^B[0-9a-f]{8} /gm)?.at(-1)),
    acknowledged: number(text.match(/^T[0-9a-f]{8}\r\n/gm)?.at(-1)),
    errors: text.match(/^E[0-9a-f]{2}\r\n/gm)?.length ?? 0,
  };
}

function outside(path: string, place: Place): string {
  return place.node?.path(path) ?? path;
}

async function readRaw(file: string, offset: number): Promise<Buffer> {
  const handle = await open(file, 'r');
  try {
    const { buffer } = await handle.read(Buffer.alloc(RECORD_SIZE), 0, RECORD_SIZE, offset);
    return buffer;
  } finally {
    await handle.close();
  }
}

async function readQcow2(path: string, offset: number, node?: LabNode): Promise<Buffer> {
  const read = ['-c', `read -v ${offset} ${RECORD_SIZE}`];
  const printed = await qemuTool(['qemu-io', '-r', '-U', '-f', 'qcow2', ...read, path], node);
  // "00001000:  57 54 4e 53 ...  WTNS..."
  const bytes = /^[0-9a-f]{8}: {2}((?:[0-9a-f]{2} ){16})/m.exec(printed)?.[1];
  if (bytes === undefined) {
    throw new Error(`qemu-io did not read ${path}: ${printed.trim()}`);
  }
  return Buffer.from(bytes.replaceAll(' ', ''), 'hex');
}

function qemuTool(command: readonly [string, ...string[]], node?: LabNode): Promise<string> {
  if (node !== undefined) {
    return node.check(command, { timeout: DISK_TIMEOUT });
  }
  const [program, ...args] = command;
  return runChecked(program, args, { deadline: Deadline.in(DISK_TIMEOUT) });
}

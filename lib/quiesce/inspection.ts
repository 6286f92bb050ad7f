import type { Deadline } from '../deadline.ts';
import { KvmhaError } from '../error.ts';
import { type CommandLine, parseCommandLine } from '../qemu/command-line.ts';
import { isObject, type Json, type Monitor } from '../qemu/qmp.ts';

/** A block device of the guest, as `query-block` lists it. */
export interface BlockDevice {
  /** QOM path or id of the device (`qdev`); empty for a backend that no device uses. */
  readonly qdev: string;
  /** QOM type of the device: virtio-blk-device, ide-hd, ... */
  readonly type: string;
  /** Node name of the medium; undefined for an empty drive. */
  readonly node: string | undefined;
}

/** A node of the live block graph, as `query-named-block-nodes` lists it. */
export interface BlockNode {
  readonly name: string;
  /** Block driver: file, raw, qcow2, ... */
  readonly driver: string;
  readonly readOnly: boolean;
  /** `active` (QEMU 10 and newer); undefined where QEMU does not say. */
  readonly active: boolean | undefined;
  readonly filename: string;
  readonly virtualSize: number;
  readonly backingDepth: number;
  /** cache.no-flush: flushes are dropped (libvirt's cache='unsafe'). */
  readonly noFlush: boolean;
  /** cache.direct: the host page cache is bypassed. */
  readonly direct: boolean;
}

/** A device or object in the QOM tree. */
export interface QomChild {
  readonly id: string;
  readonly type: string;
}

/** Everything about one qemu that decides whether its guest can be made failover-safe. Plain data. */
export interface Inspection {
  readonly commandLine: CommandLine;
  readonly commands: ReadonlySet<string>;
  readonly blockDevices: readonly BlockDevice[];
  readonly nodes: readonly BlockNode[];
  /** Running jobs of any kind (`query-jobs`, `query-block-jobs`), by id and type. */
  readonly jobs: readonly string[];
  /** Block exports (`query-block-exports`), by id. */
  readonly exports: readonly string[];
  /** Devices made by -device and device_add. */
  readonly peripherals: readonly QomChild[];
  /** Objects made by -object and object-add, and the memory backends of the machine. */
  readonly objects: readonly QomChild[];
  /** Memory backends whose memory is shared with whoever opens the same file. */
  readonly sharedMemoryFiles: readonly string[];
}

/**
 * Asks a qemu for everything that `assess` needs. Changes nothing.
 *
 * @param argv the qemu process's arguments
 * @throws KvmhaError as `Monitor.execute` does, `protocol` when an answer is not of the QAPI schema's shape,
 *   `malformed` when the command line is none of libvirt's
 */
export async function inspect(
  argv: readonly string[],
  monitor: Monitor,
  deadline: Deadline,
): Promise<Inspection> {
  const ask = (command: string, args: { readonly [key: string]: Json } = {}) =>
    monitor.execute(command, args, deadline);
  const children = async (path: string) => qomChildren(await ask('qom-list', { path }));
  const objects = await children('/objects');
  return {
    commandLine: parseCommandLine(argv),
    commands: new Set(
      list(await ask('query-commands'), 'query-commands').map((entry) => text(entry, 'name')),
    ),
    blockDevices: await blockDevices(monitor, deadline),
    nodes: await blockNodes(monitor, deadline),
    jobs: [
      ...list(await ask('query-jobs'), 'query-jobs').map(
        (job) => `${text(job, 'id')} (${text(job, 'type')})`,
      ),
      ...list(await ask('query-block-jobs'), 'query-block-jobs').map((job) => text(job, 'device')),
    ],
    exports: list(await ask('query-block-exports'), 'query-block-exports').map((entry) => text(entry, 'id')),
    peripherals: [
      ...(await children('/machine/peripheral')),
      ...(await children('/machine/peripheral-anon')),
    ],
    objects,
    sharedMemoryFiles: await sharedMemoryFiles(objects, monitor, deadline),
  };
}

/** The nodes of the live block graph. */
export async function blockNodes(monitor: Monitor, deadline: Deadline): Promise<BlockNode[]> {
  const answer = await monitor.execute('query-named-block-nodes', { flat: true }, deadline);
  return list(answer, 'query-named-block-nodes').map((entry) => {
    const image = entry['image'];
    const cache = entry['cache'];
    if (!isObject(image) || !isObject(cache)) {
      throw new KvmhaError('protocol', 'query-named-block-nodes: a node without image or cache');
    }
    const active = entry['active'];
    return {
      name: text(entry, 'node-name'),
      driver: text(entry, 'drv'),
      readOnly: entry['ro'] === true,
      active: typeof active === 'boolean' ? active : undefined,
      filename: text(image, 'filename'),
      virtualSize: Number(image['virtual-size']),
      backingDepth: Number(entry['backing_file_depth']),
      noFlush: cache['no-flush'] !== false,
      direct: cache['direct'] === true,
    };
  });
}

async function blockDevices(monitor: Monitor, deadline: Deadline): Promise<BlockDevice[]> {
  const devices: BlockDevice[] = [];
  for (const entry of list(await monitor.execute('query-block', {}, deadline), 'query-block')) {
    const qdev = typeof entry['qdev'] === 'string' ? entry['qdev'] : '';
    const inserted = entry['inserted'];
    const type =
      qdev === '' ? '' : await monitor.execute('qom-get', { path: qdev, property: 'type' }, deadline);
    devices.push({
      qdev,
      type: typeof type === 'string' ? type : '',
      node: isObject(inserted) ? text(inserted, 'node-name') : undefined,
    });
  }
  return devices;
}

async function sharedMemoryFiles(
  objects: readonly QomChild[],
  monitor: Monitor,
  deadline: Deadline,
): Promise<string[]> {
  const paths: string[] = [];
  for (const object of objects.filter(({ type }) => type === 'memory-backend-file')) {
    const path = `/objects/${object.id}`;
    const share = await monitor.execute('qom-get', { path, property: 'share' }, deadline);
    if (share !== false) {
      paths.push(String(await monitor.execute('qom-get', { path, property: 'mem-path' }, deadline)));
    }
  }
  return paths;
}

/** `qom-list` names a child's type as `child<TYPE>`; other properties are no children. */
function qomChildren(answer: Json): QomChild[] {
  return list(answer, 'qom-list').flatMap((entry) => {
    const type = /^child<(.*)>$/.exec(text(entry, 'type'))?.[1];
    return type === undefined ? [] : [{ id: text(entry, 'name'), type }];
  });
}

function list(answer: Json, command: string): { readonly [key: string]: Json }[] {
  if (!Array.isArray(answer) || !answer.every((entry) => isObject(entry))) {
    throw new KvmhaError('protocol', `${command}: the answer is not a list of objects`);
  }
  return answer;
}

function text(entry: { readonly [key: string]: Json }, key: string): string {
  const value = entry[key];
  if (typeof value !== 'string') {
    throw new KvmhaError('protocol', `a QMP answer lacks "${key}"`);
  }
  return value;
}

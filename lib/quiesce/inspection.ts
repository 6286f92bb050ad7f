import type { Deadline } from '../deadline.ts';
import { KvmhaError } from '../error.ts';
import { type CommandLine, parseCommandLine } from '../qemu/command-line.ts';
import { isObject, type Json, type Monitor } from '../qemu/qmp.ts';

type JsonObject = { readonly [key: string]: Json };

/** A block device of the guest, as `query-block` lists it. */
export interface BlockDevice {
  /** QOM path or id of the device (`qdev`); empty for a backend that no device uses. */
  readonly qdev: string;
  /** QOM type of the device: virtio-blk-device, ide-hd, ... */
  readonly type: string;
  /** For a SCSI disk the adapter that it is on. */
  readonly adapter: Adapter | undefined;
  /** Node name of the medium; undefined for an empty drive. */
  readonly node: string | undefined;
}

/** What a SCSI disk is attached to. */
export interface Adapter {
  /** QOM type: virtio-scsi-device, lsi53c895a, ... */
  readonly type: string;
  /** Id of the iothread that it works in, if it has one. */
  readonly iothread: string | undefined;
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
  /** cache.no-flush: flushes are dropped (libvirt's cache='unsafe'). */
  readonly noFlush: boolean;
  /** cache.direct: the host page cache is bypassed. */
  readonly direct: boolean;
}

/** A use of a block node, as `x-debug-query-block-graph` lists it. */
export interface Edge {
  /** Name of the node that is used. */
  readonly node: string;
  /** What the user is: another node (`block-driver`), a device (`block-backend`), a job (`block-job`). */
  readonly parentType: string;
  /** Node name, qdev of a device, or id of a job. */
  readonly parent: string;
  /** What the node is to its user: file, backing, root, ... */
  readonly role: string;
  /** Whether the user may write to it. */
  readonly writes: boolean;
}

/** A device or object in the QOM tree. */
export interface QomChild {
  readonly id: string;
  readonly type: string;
}

/** What a memory-backend-file object uses. */
export interface MemoryFile {
  /** The file, or the folder of a file that has no name. */
  readonly path: string;
  /** Whether what the guest writes to its memory is written to the file. */
  readonly shared: boolean;
}

/** An end of a network connection within QEMU. */
export interface NetworkClient {
  readonly name: string;
  readonly type: string;
}

/** Everything about one qemu that decides whether its guest can be made failover-safe. Plain data. */
export interface Inspection {
  readonly commandLine: CommandLine;
  readonly commands: ReadonlySet<string>;
  readonly blockDevices: readonly BlockDevice[];
  readonly nodes: readonly BlockNode[];
  /** The live block graph; undefined where this QEMU cannot show it. */
  readonly graph: readonly Edge[] | undefined;
  /** Jobs of any kind (`query-jobs`), by id and type. */
  readonly jobs: readonly string[];
  /** Block exports (`query-block-exports`), by id. */
  readonly exports: readonly string[];
  /** `status` of query-migrate; undefined when there was no migration. */
  readonly migration: string | undefined;
  /** Devices made by -device and device_add. */
  readonly peripherals: readonly QomChild[];
  /** Objects made by -object and object-add, and the memory backends of the machine. */
  readonly objects: readonly QomChild[];
  /** The guest's network interfaces (type `nic`) and their backends (tap, user, ...). */
  readonly network: readonly NetworkClient[];
  /** Files or folders of the guest's memory. */
  readonly memoryFiles: readonly MemoryFile[];
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
  const ask = (command: string, args: JsonObject = {}) => monitor.execute(command, args, deadline);
  const children = async (path: string) => qomChildren(await ask('qom-list', { path }));
  const commands = new Set(
    list(await ask('query-commands'), 'query-commands').map((entry) => text(entry, 'name')),
  );
  const objects = await children('/objects');
  return {
    commandLine: parseCommandLine(argv),
    commands,
    blockDevices: await blockDevices(monitor, deadline),
    nodes: await blockNodes(monitor, deadline),
    graph: commands.has(GRAPH_COMMAND) ? blockGraph(await ask(GRAPH_COMMAND)) : undefined,
    jobs: jobs(await ask('query-jobs')),
    exports: list(await ask('query-block-exports'), 'query-block-exports').map((entry) => text(entry, 'id')),
    migration: migrationStatus(await ask('query-migrate')),
    peripherals: [
      ...(await children('/machine/peripheral')),
      ...(await children('/machine/peripheral-anon')),
    ],
    objects,
    network: network(await ask('human-monitor-command', { 'command-line': 'info network' })),
    memoryFiles: await memoryFiles(objects, monitor, deadline),
  };
}

/** "x-": QEMU may change it. What it answers is used only when it has the shape expected here. */
const GRAPH_COMMAND = 'x-debug-query-block-graph';

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
      noFlush: cache['no-flush'] !== false,
      direct: cache['direct'] === true,
    };
  });
}

/** A device, by its `qdev`, and the block node that it uses now; an empty drive uses none. */
export interface NodeUse {
  readonly qdev: string;
  readonly node: string | undefined;
}

/** What the guest's block devices use now. */
export async function nodesInUse(monitor: Monitor, deadline: Deadline): Promise<NodeUse[]> {
  const entries = list(await monitor.execute('query-block', {}, deadline), 'query-block');
  return entries.map((entry) => {
    const inserted = entry['inserted'];
    return { qdev: qdevOf(entry), node: isObject(inserted) ? text(inserted, 'node-name') : undefined };
  });
}

/**
 * How many requests each device has made of its medium since it was made, the failed ones included. While the
 * vCPUs stand still it does not change: a device that has made more has seen its guest run.
 */
export async function requestsMade(
  monitor: Monitor,
  deadline: Deadline,
): Promise<ReadonlyMap<string, number>> {
  const entries = list(await monitor.execute('query-blockstats', {}, deadline), 'query-blockstats');
  return new Map(entries.map((entry) => [qdevOf(entry), requestsIn(entry['stats'])]));
}

function requestsIn(stats: Json | undefined): number {
  if (!isObject(stats)) {
    throw new KvmhaError('protocol', 'query-blockstats: a device without statistics');
  }
  return Object.entries(stats)
    .filter(([key]) => key.endsWith('_operations'))
    .reduce((sum, [key, count]) => {
      if (typeof count !== 'number') {
        throw new KvmhaError('protocol', `query-blockstats: ${key} is no number`);
      }
      return sum + count;
    }, 0);
}

function qdevOf(entry: JsonObject): string {
  return typeof entry['qdev'] === 'string' ? entry['qdev'] : '';
}

async function blockDevices(monitor: Monitor, deadline: Deadline): Promise<BlockDevice[]> {
  const devices: BlockDevice[] = [];
  for (const { qdev, node } of await nodesInUse(monitor, deadline)) {
    const path = devicePath(qdev);
    const type = qdev === '' ? '' : await property(path, 'type', monitor, deadline);
    const adapter = type.startsWith('scsi-') ? await adapterOf(path, monitor, deadline) : undefined;
    devices.push({ qdev, type, adapter, node });
  }
  return devices;
}

/** A device with an id is named by it alone in `qdev`, and another object may have that id, too. */
export function devicePath(qdev: string): string {
  return qdev.startsWith('/') ? qdev : `/machine/peripheral/${qdev}`;
}

async function adapterOf(device: string, monitor: Monitor, deadline: Deadline): Promise<Adapter> {
  const bus = await property(device, 'parent_bus', monitor, deadline);
  const path = bus.slice(0, bus.lastIndexOf('/'));
  const type = await property(path, 'type', monitor, deadline);
  const iothread = type === 'virtio-scsi-device' ? await property(path, 'iothread', monitor, deadline) : '';
  return { type, iothread: iothread === '' ? undefined : iothread.slice(iothread.lastIndexOf('/') + 1) };
}

async function property(path: string, name: string, monitor: Monitor, deadline: Deadline): Promise<string> {
  const value = await monitor.execute('qom-get', { path, property: name }, deadline);
  if (typeof value !== 'string') {
    throw new KvmhaError('protocol', `qom-get: ${path} has no ${name} in words`);
  }
  return value;
}

function blockGraph(answer: Json): Edge[] {
  if (!isObject(answer)) {
    throw new KvmhaError('protocol', `${GRAPH_COMMAND}: the answer is not an object`);
  }
  const nodes = new Map(
    list(answer['nodes'], GRAPH_COMMAND).map((node) => [
      node['id'],
      { type: text(node, 'type'), name: text(node, 'name') },
    ]),
  );
  return list(answer['edges'], GRAPH_COMMAND).map((edge) => {
    const parent = nodes.get(edge['parent'] ?? null);
    const child = nodes.get(edge['child'] ?? null);
    if (parent === undefined || child === undefined) {
      throw new KvmhaError('protocol', `${GRAPH_COMMAND}: an edge without its nodes`);
    }
    const permissions = edge['perm'];
    return {
      node: child.name,
      parentType: parent.type,
      parent: parent.name,
      role: text(edge, 'name'),
      writes: !Array.isArray(permissions) || permissions.includes('write'),
    };
  });
}

/** A block job is a job, too. */
function jobs(answer: Json): string[] {
  return list(answer, 'query-jobs').map((job) => `${text(job, 'id')} (${text(job, 'type')})`);
}

function migrationStatus(answer: Json): string | undefined {
  const status = isObject(answer) ? answer['status'] : undefined;
  return typeof status === 'string' ? status : undefined;
}

/** There is no QMP command for this. A line for people: "net0: index=0,type=nic,model=virtio-net-pci,...". */
function network(answer: Json): NetworkClient[] {
  if (typeof answer !== 'string') {
    throw new KvmhaError('protocol', 'info network: the answer is not text');
  }
  return answer.split('\n').flatMap((line) => {
    const match = /([^\s:]+): index=\d+,type=([^\s,]+)/.exec(line);
    return match?.[1] === undefined || match[2] === undefined ? [] : [{ name: match[1], type: match[2] }];
  });
}

async function memoryFiles(
  objects: readonly QomChild[],
  monitor: Monitor,
  deadline: Deadline,
): Promise<MemoryFile[]> {
  const files: MemoryFile[] = [];
  for (const object of objects.filter(({ type }) => type === 'memory-backend-file')) {
    const backend = `/objects/${object.id}`;
    const share = await monitor.execute('qom-get', { path: backend, property: 'share' }, deadline);
    const path = await property(backend, 'mem-path', monitor, deadline);
    if (!path.startsWith('/')) {
      throw new KvmhaError('malformed', `memory backend ${object.id} has no absolute path: "${path}"`);
    }
    files.push({ path, shared: share !== false });
  }
  return files;
}

/** `qom-list` names a child's type as `child<TYPE>`; other properties are no children. */
function qomChildren(answer: Json): QomChild[] {
  return list(answer, 'qom-list').flatMap((entry) => {
    const type = /^child<(.*)>$/.exec(text(entry, 'type'))?.[1];
    return type === undefined ? [] : [{ id: text(entry, 'name'), type }];
  });
}

function list(answer: Json | undefined, command: string): JsonObject[] {
  if (!Array.isArray(answer) || !answer.every((entry) => isObject(entry))) {
    throw new KvmhaError('protocol', `${command}: the answer is not a list of objects`);
  }
  return answer;
}

function text(entry: JsonObject, key: string): string {
  const value = entry[key];
  if (typeof value !== 'string') {
    throw new KvmhaError('protocol', `a QMP answer lacks "${key}"`);
  }
  return value;
}

import type { ServerAddress } from '../linux/connections.ts';
import { isObject, type Json } from '../qemu/qmp.ts';
import {
  ADAPTERS,
  BLOCK_DEVICES,
  BLOCK_DRIVERS,
  DEVICES,
  FILE_DRIVERS,
  NET_BACKENDS,
  NETWORK_DRIVERS,
  NODE_OPTIONS,
  OBJECTS,
  OPTIONS,
  SHARED_MEMORY_FILE_SYSTEMS,
  UNPROVED_DEVICE_PROPERTIES,
} from './allow-list.ts';
import type { BlockDevice, BlockNode, Edge, Inspection } from './inspection.ts';
import { nbdFilename, nbdServer } from './network-disk.ts';

/** What a block node was opened with, as `-blockdev` and `blockdev-add` take it. */
export type NodeOptions = { readonly [key: string]: Json };

/** One medium to be taken out of qemu's hands. */
export interface Medium {
  /** What `query-block` calls the device. */
  readonly qdev: string;
  /** Its block nodes, each before those that it uses: the order in which they can be deleted. */
  readonly nodes: readonly string[];
  /** The options its upper node was opened with; undefined for a read-only medium, which is never reopened. */
  readonly options: NodeOptions | undefined;
  /** The options each of `nodes` was opened with, where they are known: those of a changed CD medium are not. */
  readonly nodeOptions: readonly (NodeOptions | null)[];
  /** The files of its nodes, its own before those of its backing chain. */
  readonly files: readonly string[];
  /** The servers of its nodes that are on the network, one for each. */
  readonly servers?: readonly ServerAddress[];
  readonly readOnly: boolean;
  /** Bypasses the host page cache (cache=none, directsync, the network): what QEMU flushed is on the storage. */
  readonly direct: boolean;
  /** The iothread in whose context QEMU wants every medium of this device to be. */
  readonly iothread: string | undefined;
}

/** How one guest is made failover-safe. */
export interface Plan {
  readonly media: readonly Medium[];
  /** Names of the guest's network interfaces, for `set_link`. */
  readonly interfaces: readonly string[];
  /** Files or folders of the guest's memory, which qemu keeps open. */
  readonly memory: readonly string[];
  /** The command of this QEMU that makes block nodes inactive. */
  readonly inactivate: Inactivation;
}
export type Inactivation = 'blockdev-set-active' | 'xen-save-devices-state';

export type Assessment =
  | { readonly kind: 'plan'; readonly plan: Plan }
  /** Why this guest cannot be proved safe, each in words for people. */
  | { readonly kind: 'refused'; readonly reasons: readonly string[] };

/**
 * Decides whether a guest can be made failover-safe, from the allow-list, and how.
 *
 * @param fileSystemOf statfs(2) type of the file system a path is on; undefined when it cannot be told
 */
export function assess(
  inspection: Inspection,
  fileSystemOf: (path: string) => number | undefined,
): Assessment {
  const { graph } = inspection;
  const found = inspection.blockDevices
    .filter((device) => device.node !== undefined)
    .map((device) => mediumOf(device, inspection, graph ?? []));
  const media = found.filter((medium) => typeof medium !== 'string');
  const refusedMedia = found.filter((medium) => typeof medium === 'string');
  const inactivate = inactivationOf(inspection);
  const reasons = [
    ...(inactivate === undefined ? ['this QEMU has no command that makes block nodes inactive'] : []),
    ...(graph === undefined
      ? ['this QEMU has no command that shows how its block nodes hang together']
      : refusedMedia),
    ...refusedDevices(inspection),
    ...refusedOptions(inspection),
    ...refusedNetwork(inspection),
    ...refusedMemory(inspection, fileSystemOf),
    ...(refusedMedia.length === 0 ? refusedNodes(inspection, media) : []),
    ...inspection.jobs.map((job) => `the job ${job} is not finished`),
    ...inspection.exports.map((id) => `the block export ${id} is served`),
    ...refusedMigration(inspection),
    ...(refusedMedia.length === 0 && media.every((medium) => medium.readOnly)
      ? ['the guest has no writable disk to carry a sentinel, so nothing would keep it from being resumed']
      : []),
  ];
  return inactivate === undefined || reasons.length > 0
    ? { kind: 'refused', reasons }
    : {
        kind: 'plan',
        plan: {
          media,
          interfaces: interfacesOf(inspection),
          memory: inspection.memoryFiles.map(({ path }) => path),
          inactivate,
        },
      };
}

/** blockdev-set-active is there from QEMU 10 on (or backported); before it, the Xen command does the same. */
function inactivationOf(inspection: Inspection): Inactivation | undefined {
  const commands: Inactivation[] = ['blockdev-set-active', 'xen-save-devices-state'];
  return commands.find((command) => inspection.commands.has(command));
}

function mediumOf(device: BlockDevice, inspection: Inspection, graph: readonly Edge[]): Medium | string {
  if (device.qdev === '') {
    return `block node ${device.node} belongs to no device, so it cannot be moved to a sentinel`;
  }
  const what = `device ${device.qdev}`;
  const refusal = refusedBlockDevice(device, inspection);
  if (refusal !== undefined) {
    return `${what} ${refusal}`;
  }
  const names = withAllBeneath(device.node ?? '', graph);
  const nodes: BlockNode[] = [];
  for (const name of names) {
    const node = inspection.nodes.find((candidate) => candidate.name === name);
    if (node === undefined) {
      return `${what}: its block node ${name} is not among the named ones`;
    }
    nodes.push(node);
  }
  const [top] = nodes;
  if (top === undefined) {
    return `${what}: its block node is not among the named ones`;
  }
  const { readOnly } = top;
  for (const node of nodes) {
    const reason =
      refusedNode(node, device.qdev, graph) ??
      (readOnly ? refusedReadOnlyNode(node, graph) : refusedWritableNode(node, top, inspection, graph));
    if (reason !== undefined) {
      return `${what}: ${reason}`;
    }
  }
  const files = nodes.filter((node) => FILE_DRIVERS.has(node.driver));
  const onNetwork = nodes.filter((node) => NETWORK_DRIVERS.has(node.driver));
  const servers = onNetwork.flatMap(({ name }) => nbdServer(optionsOf(name, inspection) ?? {}) ?? []);
  if (servers.length !== onNetwork.length) {
    return `${what}: how ${onNetwork.map(({ filename }) => filename).join(', ')} is reached has not been examined, or is not known`;
  }
  const storage = nodes.find(({ name }) => name === (beneathFile(top.name, graph) ?? top.name));
  return {
    qdev: device.qdev,
    nodes: names,
    options: readOnly ? undefined : optionsOf(top.name, inspection),
    nodeOptions: nodes.map((node) =>
      refusedOptionsOf(node, inspection, graph) === undefined
        ? (optionsOf(node.name, inspection) ?? null)
        : null,
    ),
    files: files.map((node) => node.filename),
    ...(servers.length === 0 ? {} : { servers }),
    readOnly,
    direct: storage !== undefined && (storage.direct || NETWORK_DRIVERS.has(storage.driver)),
    iothread: device.adapter?.iothread,
  };
}

function refusedBlockDevice({ type, adapter }: BlockDevice, { commands }: Inspection): string | undefined {
  if (!BLOCK_DEVICES.has(type)) {
    return `is a ${type}, whose medium nobody has shown to be movable`;
  }
  if (adapter !== undefined && !ADAPTERS.has(adapter.type)) {
    return `is on a ${adapter.type}, whose media nobody has shown to be movable`;
  }
  if (adapter?.iothread !== undefined && !commands.has('x-blockdev-set-iothread')) {
    return 'works in an iothread, and this QEMU has no command that moves a medium to one';
  }
  return undefined;
}

/** A node and all that it uses, each before those beneath it, the file of an image before its backing chain. */
function withAllBeneath(name: string, graph: readonly Edge[]): string[] {
  const beneath = graph
    .filter((edge) => edge.parent === name && edge.parentType === 'block-driver')
    .sort((one, other) => Number(one.role === 'backing') - Number(other.role === 'backing'));
  return [name, ...beneath.flatMap((edge) => withAllBeneath(edge.node, graph))];
}

function refusedNode(node: BlockNode, qdev: string, graph: readonly Edge[]): string | undefined {
  if (node.name.startsWith('#')) {
    return `${node.filename} was opened without a name for its block node, so it cannot be let go by name`;
  }
  if (!BLOCK_DRIVERS.has(node.driver)) {
    return `block driver ${node.driver} (node ${node.name}) has not been shown to be safe`;
  }
  const beneath = graph.filter((edge) => edge.parent === node.name && edge.parentType === 'block-driver');
  const roles = beneath.map(({ role }) => role).filter((role) => role !== 'file' && role !== 'backing');
  if (roles[0] !== undefined) {
    return `block node ${node.name} has a "${roles[0]}" beside its file`;
  }
  if (beneath.length === 0 && !FILE_DRIVERS.has(node.driver) && !NETWORK_DRIVERS.has(node.driver)) {
    return `its lowest block node ${node.name} is not a file, nor on the network`;
  }
  const users = graph.filter((edge) => edge.node === node.name);
  const [user] = users;
  if (user === undefined || users.length !== 1) {
    return `block node ${node.name} has ${users.length} users`;
  }
  if (user.parentType === 'block-job' || (user.parentType === 'block-backend' && user.parent !== qdev)) {
    return `block node ${node.name} is used by ${user.parentType} ${user.parent}`;
  }
  return FD_SET.test(node.filename)
    ? `${node.filename} was passed to qemu as a descriptor, which stays open when its node is deleted`
    : undefined;
}

/** libvirt hands over files that qemu may not open itself as members of a set of descriptors (add-fd). */
const FD_SET = /^\/dev\/fd/;

function refusedReadOnlyNode(node: BlockNode, graph: readonly Edge[]): string | undefined {
  return isWritten(node, graph) ? `block node ${node.name} of a read-only medium is written to` : undefined;
}

function isWritten(node: BlockNode, graph: readonly Edge[]): boolean {
  return graph.some((edge) => edge.node === node.name && edge.writes);
}

/** Of a writable medium the upper image alone is written to, and every node was given on the command line. */
function refusedWritableNode(
  node: BlockNode,
  top: BlockNode,
  inspection: Inspection,
  graph: readonly Edge[],
): string | undefined {
  const refusal = refusedOptionsOf(node, inspection, graph);
  if (refusal !== undefined) {
    return refusal;
  }
  const isUpper = node === top || beneathFile(top.name, graph) === node.name;
  if (!isUpper && isWritten(node, graph)) {
    return `block node ${node.name} of its backing chain is written to`;
  }
  if (isUpper && (node.noFlush || top.noFlush)) {
    return `${node.filename} is used with cache=unsafe: flushes are dropped, so nothing proves durability`;
  }
  return undefined;
}

/** Why a node cannot be opened as it is now: its options are not on the command line, or not examined. */
function refusedOptionsOf(
  node: BlockNode,
  inspection: Inspection,
  graph: readonly Edge[],
): string | undefined {
  const options = optionsOf(node.name, inspection);
  if (options === undefined) {
    return (
      `its block node ${node.name} is not on qemu's command line (a snapshot, copy, media change or hot-plug ` +
      'since the start), so the options it was opened with are not known'
    );
  }
  const beneath = graph.filter((edge) => edge.parent === node.name && edge.parentType === 'block-driver');
  const now = (role: string) => beneath.find((edge) => edge.role === role)?.node ?? null;
  const differences = [
    options['driver'] === node.driver ? undefined : `driver ${node.driver}`,
    filenameGiven(node, options) === node.filename ? undefined : `filename ${node.filename}`,
    (options['file'] ?? null) === now('file') ? undefined : `file ${now('file')}`,
    (options['backing'] ?? null) === now('backing') ? undefined : `backing ${now('backing')}`,
    cacheOption(options, 'direct') === node.direct ? undefined : `cache.direct ${node.direct}`,
  ].filter((difference) => difference !== undefined);
  if (differences.length > 0) {
    return `block node ${node.name} now has ${differences.join(', ')}, other than on qemu's command line`;
  }
  const encrypt = options['encrypt'];
  if (isObject(encrypt) && encrypt['format'] !== 'luks') {
    return `block node ${node.name} is encrypted by ${JSON.stringify(encrypt['format'])}, which has not been shown to be safe`;
  }
  const unknown = Object.keys(options).find((key) => !NODE_OPTIONS.has(key));
  return unknown === undefined
    ? undefined
    : `block node ${node.name} has the option "${unknown}", which has not been shown to be safe`;
}

/** What QEMU calls the image of a node that was opened with these options; an image format has its file's. */
function filenameGiven(node: BlockNode, options: NodeOptions): Json | undefined {
  if (FILE_DRIVERS.has(node.driver)) {
    return options['filename'];
  }
  return NETWORK_DRIVERS.has(node.driver) ? nbdFilename(options) : node.filename;
}

function beneathFile(top: string, graph: readonly Edge[]): string | undefined {
  return graph.find(
    (edge) => edge.parent === top && edge.parentType === 'block-driver' && edge.role === 'file',
  )?.node;
}

function optionsOf(name: string, { commandLine }: Inspection): NodeOptions | undefined {
  return commandLine.blockdevs.find((options) => options['node-name'] === name);
}

function cacheOption(options: NodeOptions, key: string): boolean {
  const cache = options['cache'];
  return isObject(cache) && cache[key] === true;
}

function refusedDevices(inspection: Inspection): string[] {
  return [
    ...inspection.peripherals
      .filter(({ type }) => !DEVICES.has(type))
      .map(
        ({ id, type }) => `device ${id} is a ${type}, which is not on the list of devices known to be safe`,
      ),
    ...inspection.objects
      .filter(({ type }) => !OBJECTS.has(type))
      .map(
        ({ id, type }) => `object ${id} is a ${type}, which is not on the list of objects known to be safe`,
      ),
  ];
}

function refusedOptions(inspection: Inspection): string[] {
  return inspection.commandLine.options.flatMap(({ name, value }) => {
    if (!OPTIONS.has(name)) {
      return [`qemu was started with -${name}, which is not on the list of options known to be safe`];
    }
    const property = UNPROVED_DEVICE_PROPERTIES.find((each) => value?.includes(each));
    if (name === 'device' && property !== undefined) {
      return [`a device has the property ${property}, with which nobody has shown that media can be moved`];
    }
    return [];
  });
}

function refusedMemory(inspection: Inspection, fileSystemOf: (path: string) => number | undefined): string[] {
  return inspection.memoryFiles
    .filter(({ path, shared }) => shared && !SHARED_MEMORY_FILE_SYSTEMS.has(fileSystemOf(path) ?? 0))
    .map(
      ({ path }) =>
        `the guest's memory is shared through the file ${path}, which is not on a memory file system`,
    );
}

/** A migration that is under way hands the guest and its images over by itself. */
function refusedMigration({ migration }: Inspection): string[] {
  const over = [undefined, 'none', 'completed', 'failed', 'cancelled'];
  return over.includes(migration) ? [] : [`a migration is under way (${migration})`];
}

/** Every node must be part of a medium that is moved: another one would stay open. */
function refusedNodes(inspection: Inspection, media: readonly Medium[]): string[] {
  const moved = new Set(media.flatMap((medium) => medium.nodes));
  return inspection.nodes
    .filter((node) => !moved.has(node.name))
    .map((node) => `block node ${node.name} (${node.filename}) would stay open in qemu`);
}

function refusedNetwork({ network }: Inspection): string[] {
  return network
    .filter(({ type }) => type !== 'nic' && !NET_BACKENDS.has(type))
    .map(
      ({ name, type }) =>
        `network backend ${name} is a ${type}, which may go on after the vCPUs have stopped`,
    );
}

function interfacesOf({ network }: Inspection): string[] {
  return network.filter(({ type }) => type === 'nic').map(({ name }) => name);
}

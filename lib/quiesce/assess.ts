import { isObject, type Json } from '../qemu/qmp.ts';
import {
  BLOCK_DEVICES,
  BLOCK_DRIVERS,
  DEVICES,
  NET_BACKENDS,
  OBJECTS,
  OPTIONS,
  SHARED_MEMORY_FILE_SYSTEMS,
} from './allow-list.ts';
import type { BlockDevice, BlockNode, Inspection } from './inspection.ts';

type NodeOptions = { readonly [key: string]: Json };

/** One medium to be taken out of qemu's hands. */
export interface Medium {
  /** What `qom-set` calls the device. */
  readonly qdev: string;
  /** Its nodes from the one the device uses down to the file, each with the options it was opened with. */
  readonly chain: readonly { readonly name: string; readonly options: NodeOptions }[];
  readonly filename: string;
  /** Bytes; the sentinel is made as large. */
  readonly virtualSize: number;
  readonly readOnly: boolean;
  /** Bypasses the host page cache (cache=none, directsync): what QEMU flushed is on the storage. */
  readonly direct: boolean;
}

/** How one guest is made failover-safe. */
export interface Plan {
  readonly media: readonly Medium[];
  /** Ids of the guest's network interfaces, for `set_link`. */
  readonly interfaces: readonly string[];
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
  const media = inspection.blockDevices
    .filter((device) => device.node !== undefined)
    .map((device) => mediumOf(device, inspection));
  const inactivate = inactivationOf(inspection);
  const plan: Plan | undefined =
    inactivate === undefined
      ? undefined
      : {
          media: media.filter((medium) => typeof medium !== 'string'),
          interfaces: interfacesOf(inspection),
          inactivate,
        };
  const reasons = [
    ...(inactivate === undefined ? ['this QEMU has no command that makes block nodes inactive'] : []),
    ...media.filter((medium) => typeof medium === 'string'),
    ...refusedDevices(inspection),
    ...refusedOptions(inspection),
    ...refusedMemory(inspection, fileSystemOf),
    ...(media.every((medium) => typeof medium !== 'string')
      ? refusedNodes(inspection, plan?.media ?? [])
      : []),
    ...inspection.jobs.map((job) => `the block job ${job} is running`),
    ...inspection.exports.map((id) => `the block export ${id} is served`),
    ...(plan?.media.every((medium) => medium.readOnly)
      ? ['the guest has no writable disk to carry a sentinel, so nothing would keep it from being resumed']
      : []),
  ];
  return plan === undefined || reasons.length > 0 ? { kind: 'refused', reasons } : { kind: 'plan', plan };
}

/** blockdev-set-active is there from QEMU 10 on (or backported); before it, the Xen command does the same. */
function inactivationOf(inspection: Inspection): Inactivation | undefined {
  const commands: Inactivation[] = ['blockdev-set-active', 'xen-save-devices-state'];
  return commands.find((command) => inspection.commands.has(command));
}

function mediumOf(device: BlockDevice, inspection: Inspection): Medium | string {
  const what = device.qdev === '' ? `block node ${device.node}` : `device ${device.qdev}`;
  if (device.qdev === '') {
    return `${what} belongs to no device, so it cannot be moved to a sentinel`;
  }
  if (!BLOCK_DEVICES.has(device.type)) {
    return `${what} is a ${device.type}, whose medium nobody has shown to be movable`;
  }
  const chain: { name: string; options: NodeOptions }[] = [];
  const nodes: BlockNode[] = [];
  let name = device.node;
  while (name !== undefined) {
    const node = inspection.nodes.find((candidate) => candidate.name === name);
    const options = inspection.commandLine.blockdevs.find((candidate) => candidate['node-name'] === name);
    if (node === undefined) {
      return `${what}: its block node ${name} is not among the named ones`;
    }
    if (options === undefined) {
      return (
        `${what}: its block node ${name} is not on qemu's command line (a snapshot, copy, media change or ` +
        'hot-plug since the start), so it cannot be reopened with its own options'
      );
    }
    const refusal = refusedNode(node, options);
    if (refusal !== undefined) {
      return `${what}: ${refusal}`;
    }
    chain.push({ name, options });
    nodes.push(node);
    const file = options['file'];
    if (isObject(file)) {
      return `${what}: its block node ${name} has a nested "file" that cannot be reopened by name`;
    }
    name = typeof file === 'string' ? file : undefined;
  }
  const [first] = nodes;
  const last = nodes.at(-1);
  if (first === undefined || last === undefined || last.driver !== 'file') {
    return `${what}: its lowest block node is not a file`;
  }
  return {
    qdev: device.qdev,
    chain,
    filename: last.filename,
    virtualSize: first.virtualSize,
    readOnly: first.readOnly,
    direct: last.direct,
  };
}

function refusedNode(node: BlockNode, options: NodeOptions): string | undefined {
  if (!BLOCK_DRIVERS.has(node.driver)) {
    return `block driver ${node.driver} (node ${node.name}) has not been shown to be safe`;
  }
  if (options['driver'] !== node.driver) {
    return `node ${node.name} is ${node.driver} now but ${String(options['driver'])} on qemu's command line`;
  }
  if (node.driver === 'file' && options['filename'] !== node.filename) {
    return `node ${node.name} is ${node.filename} now but ${String(options['filename'])} on qemu's command line`;
  }
  if (node.backingDepth > 0) {
    return `${node.filename} has a backing file`;
  }
  if (node.noFlush && !node.readOnly) {
    return `${node.filename} is used with cache=unsafe: flushes are dropped, so nothing proves durability`;
  }
  return undefined;
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
    if (name === 'netdev' && !NET_BACKENDS.has(typeOf(value))) {
      return [
        `a network interface uses -netdev ${typeOf(value)}, which may go on after the vCPUs have stopped`,
      ];
    }
    return [];
  });
}

/** The `type` of an option value in either syntax: `{"type":"tap",...}` or `tap,...`. */
function typeOf(value: string | undefined): string {
  const json = /^\s*\{/.test(value ?? '') ? /"type"\s*:\s*"([^"]*)"/.exec(value ?? '')?.[1] : undefined;
  return json ?? (value ?? '').split(',')[0] ?? '';
}

function refusedMemory(inspection: Inspection, fileSystemOf: (path: string) => number | undefined): string[] {
  return inspection.sharedMemoryFiles
    .filter((path) => !SHARED_MEMORY_FILE_SYSTEMS.has(fileSystemOf(path) ?? 0))
    .map(
      (path) => `the guest's memory is shared through the file ${path}, which is not on a memory file system`,
    );
}

/** Every node must be part of a medium that is moved: another one would stay open. */
function refusedNodes(inspection: Inspection, media: readonly Medium[]): string[] {
  const moved = new Set(media.flatMap((medium) => medium.chain.map(({ name }) => name)));
  return inspection.nodes
    .filter((node) => !moved.has(node.name))
    .map((node) => `block node ${node.name} (${node.filename}) would stay open in qemu`);
}

/** Network interfaces are the devices that a `-device` gives a `netdev`. */
function interfacesOf(inspection: Inspection): string[] {
  return inspection.peripherals.filter(({ type }) => NETWORK_INTERFACE.test(type)).map(({ id }) => id);
}

const NETWORK_INTERFACE = /^(virtio-net-|e1000|igb$|rtl8139$|ne2k_pci$|pcnet$|vmxnet3$)/;

import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { errnoOf } from '../error.ts';
import { type Counter, parseAerCounter } from './counters.ts';
import type { HostError, Severity } from './host-error.ts';
import { cleaned } from './ras-event.ts';

/** What this kernel counts, and what it does not. */
export interface Counted {
  readonly counters: readonly Counter[];
  /** What there is no counter of, with the reason, for people. */
  readonly missing: readonly string[];
}

/** Reads the kernel's counters of hardware errors. @param root where sysfs is mounted */
export function readCounters(root = '/sys'): Counted {
  const memory = memoryControllers(root);
  const pci = pciDevices(root);
  const pages = lostPages(root);
  return {
    counters: [...memory, ...pci, ...pages],
    missing: [
      ...(memory.length > 0 ? [] : ['memory controllers (no EDAC driver)']),
      ...(pci.length > 0 ? [] : ['PCI Express devices (no AER)']),
      ...(pages.length > 0 ? [] : ['lost pages of memory (the kernel does not count them)']),
    ],
  };
}

/** Documentation/ABI/testing/sysfs-devices-edac. DIMMs are `rankN` where the driver counts ranks. */
function memoryControllers(root: string): Counter[] {
  const directory = join(root, 'devices/system/edac/mc');
  return list(directory, /^mc\d+$/).flatMap((controller) => {
    const dimms = list(join(directory, controller), /^(dimm|rank)\d+$/);
    const counter = (severity: Severity, letters: 'ce' | 'ue') => {
      const count = readNumber(join(directory, controller, `${letters}_count`));
      const parts = dimms.map((dimm) => {
        const path = join(directory, controller, dimm);
        const label = cleaned(read(join(path, 'dimm_label')) ?? '') || dimm;
        return [label, readNumber(join(path, `dimm_${letters}_count`)) ?? 0] as const;
      });
      return count === undefined
        ? []
        : {
            key: `${controller} ${severity}`,
            kind: 'memory' as const,
            source: 'edac counters',
            severity,
            component: controller,
            count,
            parts: Object.fromEntries(parts),
          };
    };
    return [counter('corrected', 'ce'), counter('uncorrected', 'ue')].flat();
  });
}

const AER_FILES: readonly (readonly [string, Severity])[] = [
  ['aer_dev_correctable', 'corrected'],
  ['aer_dev_nonfatal', 'uncorrected'],
  ['aer_dev_fatal', 'fatal'],
];

function pciDevices(root: string): Counter[] {
  const directory = join(root, 'bus/pci/devices');
  return list(directory, /./).flatMap((device) =>
    AER_FILES.flatMap(([file, severity]) => {
      const counter = parseAerCounter(read(join(directory, device, file)) ?? '');
      return counter === undefined
        ? []
        : {
            key: `${device} ${severity}`,
            kind: 'pci' as const,
            source: 'aer counters',
            severity,
            component: device,
            count: counter.total,
            parts: counter.parts,
            numaNode: numaNodeOfDevice(device, root),
          };
    }),
  );
}

/** Documentation/ABI/testing/sysfs-memory-failure, since Linux 6.3. */
function lostPages(root: string): Counter[] {
  const directory = join(root, 'devices/system/node');
  const parts = list(directory, /^node\d+$/).flatMap((node) => {
    const total = readNumber(join(directory, node, 'memory_failure/total'));
    return total === undefined ? [] : [[`NUMA node ${node.slice(4)}`, total] as const];
  });
  return parts.length === 0
    ? []
    : [
        {
          key: 'pages',
          kind: 'page',
          source: 'memory failure counters',
          severity: 'uncorrected',
          component: 'memory',
          count: parts.reduce((sum, [, total]) => sum + total, 0),
          parts: Object.fromEntries(parts),
        },
      ];
}

/** An error with the NUMA node that its address, or its device, belongs to, where that is known. */
export function located(error: HostError, root = '/sys'): HostError {
  const { address, kind, component } = error;
  const numaNode =
    address !== undefined
      ? numaNodeOfAddress(address, root)
      : kind === 'pci'
        ? numaNodeOfDevice(component, root)
        : undefined;
  return numaNode === undefined ? error : { ...error, numaNode };
}

/** By the blocks of memory that sysfs shows of each node (Documentation/admin-guide/mm/memory-hotplug.rst). */
function numaNodeOfAddress(address: bigint, root: string): number | undefined {
  const size = read(join(root, 'devices/system/memory/block_size_bytes'))?.trim() ?? '';
  if (!/^[0-9a-f]{1,12}$/i.test(size) || Number.parseInt(size, 16) === 0) {
    return undefined;
  }
  const block = `memory${address / BigInt(`0x${size}`)}`;
  const nodes = join(root, 'devices/system/node');
  const found = list(nodes, /^node\d+$/).find((node) => existsSync(join(nodes, node, block)));
  return found === undefined ? undefined : Number(found.slice(4));
}

function numaNodeOfDevice(device: string, root: string): number | undefined {
  // The name can come from an event: it must not lead out of the folder.
  if (!/^[0-9a-f:.]+$/i.test(device) || device.includes('..')) {
    return undefined;
  }
  const node = Number(read(join(root, 'bus/pci/devices', device, 'numa_node')) ?? -1);
  return Number.isInteger(node) && node >= 0 ? node : undefined;
}

function list(directory: string, names: RegExp): string[] {
  try {
    return readdirSync(directory).filter((name) => names.test(name));
  } catch {
    // What is not there, or is not a folder, holds nothing.
    return [];
  }
}

function readNumber(path: string): number | undefined {
  const text = read(path)?.trim() ?? '';
  return /^\d{1,15}$/.test(text) ? Number(text) : undefined;
}

/** What a file holds; undefined where it cannot be read: a device can go while it is looked at. */
function read(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    if (errnoOf(error) === undefined) {
      throw error;
    }
    return undefined;
  }
}

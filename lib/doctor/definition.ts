import type { Element } from '@xmldom/xmldom';
import { elements, select, text } from '../cluster/xml.ts';
import { type DomainXml, describeDomain, parseDomain } from '../libvirt/domain-xml.ts';
import { ADAPTERS, BLOCK_DEVICES, BLOCK_DRIVERS } from '../quiesce/allow-list.ts';

/** What a domain's XML says, as far as the doctor judges it. */
export interface GuestDefinition extends DomainXml {
  readonly machine: string | undefined;
  /** The mode of `<cpu>`; undefined where there is none. */
  readonly cpuMode: string | undefined;
  readonly onPoweroff: string | undefined;
  readonly bridges: readonly string[];
  /** What could not be proved failover-safe, each in words: judged by the XML alone, without QEMU. */
  readonly unprovable: readonly string[];
}

/**
 * Reads a domain's XML.
 *
 * @throws KvmhaError `malformed` as `parseDomainXml`
 */
export async function parseDefinition(xml: string, origin: string): Promise<GuestDefinition> {
  const domain = await parseDomain(xml, origin);
  const [type] = select(domain, 'os/type');
  const [cpu] = select(domain, 'cpu');
  return {
    ...describeDomain(domain),
    machine: text(type, 'machine'),
    cpuMode: cpu === undefined ? undefined : (text(cpu, 'mode') ?? 'custom'),
    onPoweroff: select(domain, 'on_poweroff')[0]?.textContent ?? undefined,
    bridges: select(domain, 'devices/interface').flatMap((each) =>
      text(each, 'type') === 'bridge' ? (text(select(each, 'source')[0], 'bridge') ?? []) : [],
    ),
    unprovable: unprovableIn(domain),
  };
}

/** Devices of libvirt's XML that QEMU implements by one that is not on the allow-list, with what that is. */
const REFUSED_ELEMENTS: Readonly<Record<string, string>> = {
  hostdev: 'a device of the host, which goes on by itself (DMA) when the vCPUs stand still',
  redirdev: 'a redirected USB device',
  filesystem: 'a folder of the host, which is written to past the block layer',
  tpm: 'a TPM, whose state is in a program beside QEMU',
  shmem: 'memory that is shared with others',
  smartcard: 'a smart card',
  vsock: 'a vsock, which the host serves by itself',
  crypto: 'a crypto device',
  nvram: 'a device for variables of its own',
};

const REFUSED_MEMORY = ['nvdimm', 'virtio-pmem', 'virtio-mem', 'sgx-epc'];
const REFUSED_INTERFACES = [
  'vhostuser',
  'hostdev',
  'vdpa',
  'udp',
  'mcast',
  'server',
  'client',
  'internal',
  'vds',
];

/** The adapter (QOM type) of each model of `<controller type='scsi'>`; without a model libvirt chooses lsilogic. */
const SCSI_MODELS: Readonly<Record<string, string>> = {
  'virtio-scsi': 'virtio-scsi-device',
  'virtio-transitional': 'virtio-scsi-device',
  'virtio-non-transitional': 'virtio-scsi-device',
  lsilogic: 'lsi53c895a',
  auto: 'lsi53c895a',
};

/** The device (QOM type) that QEMU has for a disk on each bus. */
const DISK_DEVICES: Readonly<Record<string, string>> = {
  virtio: 'virtio-blk-device',
  ide: 'ide-hd',
  sata: 'ide-hd',
  scsi: 'scsi-hd',
  usb: 'usb-storage',
  fdc: 'floppy',
  sd: 'sd-card',
};

/**
 * Why a guest could not be proved failover-safe, by its XML: the same allow-list that QEMU's own word is judged by
 * once the guest runs, which finds more.
 */
function unprovableIn(domain: Element): string[] {
  const devices = select(domain, 'devices').flatMap(elements);
  const disks = devices.filter(({ tagName }) => tagName === 'disk');
  return [
    ...devices.flatMap(refusedDevice),
    ...disks.flatMap(refusedDisk),
    ...(disks.some(isWritableDisk)
      ? []
      : ['the guest has no writable disk to carry a sentinel, so nothing would keep it from being resumed']),
  ];
}

function refusedDevice(device: Element): string[] {
  const { tagName } = device;
  const refusal = REFUSED_ELEMENTS[tagName];
  if (refusal !== undefined) {
    return [`<${tagName}> is ${refusal}`];
  }
  const kind = text(device, 'type') ?? '';
  const model = text(device, 'model') ?? '';
  if (tagName === 'interface' && REFUSED_INTERFACES.includes(kind)) {
    return [`<interface type='${kind}'> may go on after the vCPUs have stopped`];
  }
  if (tagName === 'memory' && REFUSED_MEMORY.includes(model)) {
    return [`<memory model='${model}'> is a disk, or memory, past the block layer`];
  }
  if (tagName === 'controller' && kind === 'scsi' && !ADAPTERS.has(SCSI_MODELS[model || 'auto'] ?? model)) {
    return [`<controller type='scsi' model='${model}'> has not been shown to be safe`];
  }
  return [];
}

function isWritableDisk(disk: Element): boolean {
  const device = text(disk, 'device') ?? 'disk';
  return device === 'disk' && select(disk, 'readonly').length === 0;
}

function refusedDisk(disk: Element): string[] {
  const target = text(select(disk, 'target')[0], 'dev') ?? '?';
  const [driver] = select(disk, 'driver');
  const [source] = select(disk, 'source');
  const device = text(disk, 'device') ?? 'disk';
  const type = text(disk, 'type') ?? 'file';
  const bus = text(select(disk, 'target')[0], 'bus') ?? 'virtio';
  const protocol = text(source, 'protocol') ?? '';
  const format = text(driver, 'type') ?? 'raw';
  const kind = DISK_DEVICES[bus] ?? bus;
  const refusals = [
    device === 'lun' ? "is a LUN that is passed through (device='lun'): commands bypass the block layer" : '',
    device === 'floppy' ? 'is a floppy' : '',
    ['nvme', 'vhostuser', 'vhostvdpa'].includes(type) ? `is of type ${type}` : '',
    type === 'network' && !BLOCK_DRIVERS.has(protocol)
      ? `is on the network (${protocol}): a request of a lost connection may still be carried out`
      : '',
    protocol === 'nbd' && text(source, 'tls') === 'yes'
      ? 'is on the network by TLS, which has not been examined'
      : '',
    device === 'disk' && !BLOCK_DEVICES.has(kind) ? `is a ${kind}` : '',
    BLOCK_DRIVERS.has(format) ? '' : `is in the format ${format}`,
    text(driver, 'cache') === 'unsafe' && device === 'disk'
      ? 'is used with cache=unsafe: flushes are dropped'
      : '',
    text(driver, 'copy_on_read') === 'on' ? 'is copied when it is read (copy_on_read)' : '',
    text(driver, 'iothread_vq_mapping') !== undefined || select(disk, 'driver/iothreads').length > 0
      ? 'has its queues in several iothreads'
      : '',
    [...select(disk, 'encryption'), ...select(disk, 'source/encryption')].some(
      (encryption) => text(encryption, 'format') !== 'luks',
    )
      ? 'is encrypted by something else than LUKS'
      : '',
    select(disk, 'source/slices').length > 0 ? 'is a slice of its image' : '',
    select(disk, 'transient').length > 0 ? 'is transient' : '',
  ];
  return refusals.filter((refusal) => refusal !== '').map((refusal) => `disk ${target} ${refusal}`);
}

/** A disk of a domain. What is not said is what a careful operator would choose: no host cache, stop on errors. */
export interface Disk {
  /** A file, or a block device with `type` "block". */
  readonly path?: string;
  /** Where an NBD server listens, a UNIX socket or `HOST:PORT`; `path` then is the image that it serves. */
  readonly nbd?: string;
  readonly type?: 'file' | 'block';
  readonly format?: 'raw' | 'qcow2';
  readonly bus?: 'virtio' | 'ide' | 'scsi' | 'sata';
  readonly device?: 'disk' | 'cdrom' | 'floppy' | 'lun';
  readonly cache?: 'none' | 'writethrough' | 'writeback' | 'directsync' | 'unsafe' | 'default';
  readonly errorPolicy?: 'stop' | 'report' | 'ignore' | 'enospace' | 'default';
  readonly readErrorPolicy?: 'stop' | 'report' | 'ignore' | 'default';
  readonly readonly?: boolean;
  readonly shareable?: boolean;
  readonly serial?: string;
  /** By default the next free name of the bus. */
  readonly target?: string;
  /** Further attributes of `<driver>`, as in `iothread='1' discard='unmap'`. */
  readonly driver?: string;
  /** Further elements of `<disk>`. */
  readonly elements?: string;
}

export interface Domain {
  readonly name: string;
  readonly uuid?: string;
  /** MiB. */
  readonly memory?: number;
  readonly vcpus?: number;
  readonly type?: 'qemu' | 'kvm';
  readonly machine?: string;
  readonly disks?: readonly Disk[];
  readonly onCrash?: 'destroy' | 'restart' | 'preserve' | 'coredump-destroy' | 'coredump-restart';
  readonly onReboot?: 'restart' | 'destroy';
  readonly onPoweroff?: 'destroy' | 'restart';
  /** A pvpanic device, for the witness's keys p and c. */
  readonly pvpanic?: boolean;
  /** An ib700 watchdog and what it does. */
  readonly watchdog?: 'pause' | 'reset' | 'poweroff' | 'shutdown' | 'dump' | 'none' | 'inject-nmi';
  /** A network card for each, on this bridge of the node (br0 is the lab's). */
  readonly bridges?: readonly string[];
  /** The file that the serial port writes to, instead of a terminal nobody reads. */
  readonly serial?: string;
  /** Variables for the qemu process (see test/fault/fault.ts). */
  readonly env?: Readonly<Record<string, string>>;
  /** Arguments for the qemu process. */
  readonly args?: readonly string[];
  /** Further elements of `<os>`, of `<devices>` and of `<domain>`. */
  readonly os?: string;
  readonly devices?: string;
  readonly elements?: string;
}

const TARGETS = { virtio: 'vd', ide: 'hd', scsi: 'sd', sata: 'sd' } as const;

/** The libvirt definition of a small guest. Every disk gets a boot order: the BIOS overlooks those without. */
export function domainXml(domain: Domain): string {
  const { name, uuid, memory = 32, vcpus = 1, type = 'qemu', machine = 'pc', disks = [] } = domain;
  const buses = disks.map((disk) => disk.bus ?? 'virtio');
  return `\
<domain type='${type}' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>${xmlText(name)}</name>
${uuid === undefined ? '' : `  <uuid>${uuid}</uuid>\n`}\
  <memory unit='MiB'>${memory}</memory>
  <vcpu>${vcpus}</vcpu>
  <os>
    <type arch='x86_64' machine='${machine}'>hvm</type>
${domain.os ?? ''}\
  </os>
  <features>
    <acpi/>
  </features>
  <on_poweroff>${domain.onPoweroff ?? 'destroy'}</on_poweroff>
  <on_reboot>${domain.onReboot ?? 'restart'}</on_reboot>
  <on_crash>${domain.onCrash ?? 'destroy'}</on_crash>
  <devices>
${disks.map((disk, index) => diskXml(disk, targetOf(buses, index), index + 1)).join('')}\
${buses.includes('scsi') ? "    <controller type='scsi' model='virtio-scsi'/>\n" : ''}\
    <controller type='usb' model='none'/>
${(domain.bridges ?? []).map(interfaceXml).join('')}\
${serialXml(domain.serial)}\
${domain.watchdog === undefined ? '' : `    <watchdog model='ib700' action='${domain.watchdog}'/>\n`}\
${domain.pvpanic ? "    <panic model='isa'/>\n" : ''}\
    <memballoon model='none'/>
${domain.devices ?? ''}\
  </devices>
${domain.elements ?? ''}\
${commandLineXml(domain)}\
</domain>
`;
}

function targetOf(buses: readonly (keyof typeof TARGETS)[], index: number): string {
  const prefix = TARGETS[buses[index] ?? 'virtio'];
  const before = buses.slice(0, index).filter((bus) => TARGETS[bus] === prefix).length;
  return `${prefix}${'abcdefghijklmnop'[before]}`;
}

function diskXml(disk: Disk, target: string, order: number): string {
  const { format = 'raw', bus = 'virtio', device = 'disk', cache = 'none', errorPolicy = 'stop' } = disk;
  const readErrorPolicy = disk.readErrorPolicy ?? (errorPolicy === 'enospace' ? 'stop' : errorPolicy);
  const driver = [
    `name='qemu' type='${format}'`,
    cache === 'default' ? '' : `cache='${cache}'`,
    errorPolicy === 'default' ? '' : `error_policy='${errorPolicy}'`,
    readErrorPolicy === 'default' ? '' : `rerror_policy='${readErrorPolicy}'`,
    disk.driver ?? '',
  ];
  return `\
    <disk type='${disk.nbd === undefined ? (disk.type ?? 'file') : 'network'}' device='${device}'>
      <driver ${driver.filter(Boolean).join(' ')}/>
${sourceXml(disk)}\
      <target dev='${disk.target ?? target}' bus='${bus}'/>
${device === 'disk' ? `      <boot order='${order}'/>\n` : ''}\
${disk.serial === undefined ? '' : `      <serial>${xmlText(disk.serial)}</serial>\n`}\
${disk.readonly || device === 'cdrom' ? '      <readonly/>\n' : ''}\
${disk.shareable ? '      <shareable/>\n' : ''}\
${disk.elements ?? ''}\
    </disk>
`;
}

function sourceXml(disk: Disk): string {
  if (disk.nbd !== undefined) {
    return `\
      <source protocol='nbd'>
        ${nbdHost(disk.nbd)}
      </source>
`;
  }
  // Without a path: a drive without a medium.
  const attribute = disk.type === 'block' ? 'dev' : 'file';
  return disk.path === undefined ? '' : `      <source ${attribute}='${xmlText(disk.path)}'/>\n`;
}

function nbdHost(address: string): string {
  const [host = '', port = ''] = address.split(':');
  return address.startsWith('/')
    ? `<host transport='unix' socket='${xmlText(address)}'/>`
    : `<host name='${xmlText(host)}' port='${port}'/>`;
}

function interfaceXml(bridge: string): string {
  return `\
    <interface type='bridge'>
      <source bridge='${xmlText(bridge)}'/>
      <model type='virtio'/>
    </interface>
`;
}

function serialXml(path: string | undefined): string {
  return path === undefined
    ? "    <serial type='pty'/>\n"
    : `    <serial type='file'>\n      <source path='${xmlText(path)}' append='on'/>\n    </serial>\n`;
}

function commandLineXml({ env = {}, args = [] }: Domain): string {
  const lines = [
    ...args.map((value) => `    <qemu:arg value='${xmlText(value)}'/>\n`),
    ...Object.entries(env).map(
      ([name, value]) => `    <qemu:env name='${name}' value='${xmlText(value)}'/>\n`,
    ),
  ];
  return lines.length === 0 ? '' : `  <qemu:commandline>\n${lines.join('')}  </qemu:commandline>\n`;
}

function xmlText(text: string): string {
  return text.replace(/[<>&'"]/g, (character) => `&#${character.charCodeAt(0)};`);
}

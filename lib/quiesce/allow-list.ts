/**
 * What a guest may consist of and still be made failover-safe. A device, object or option that is not listed
 * here is refused by its name: what nobody has examined may keep writing, sharing memory or moving data by DMA
 * after the vCPUs have stopped.
 */

/** Devices with a medium that can be moved to a sentinel (QOM types as the QOM tree says). */
export const BLOCK_DEVICES: ReadonlySet<string> = new Set([
  'virtio-blk-device',
  'ide-hd',
  'ide-cd',
  'scsi-hd',
  'scsi-cd',
  'cfi.pflash01', // firmware and its variables
]);

/** SCSI adapters (QOM types) whose disks can be moved to a sentinel. */
export const ADAPTERS: ReadonlySet<string> = new Set(['virtio-scsi-device', 'lsi53c895a']);

/** Properties of `-device` with which the listed devices work in another way than was examined. */
export const UNPROVED_DEVICE_PROPERTIES: readonly string[] = ['iothread-vq-mapping'];

/** Devices made by `-device` or `device_add`. None of them touches storage but through the block layer. */
export const DEVICES: ReadonlySet<string> = new Set([
  // disks: their media are judged node by node
  'virtio-blk-pci',
  'virtio-blk-pci-transitional',
  'virtio-blk-pci-non-transitional',
  'ide-hd',
  'ide-cd',
  'scsi-hd',
  'scsi-cd',
  // buses and controllers
  'ahci',
  'ich9-ahci',
  'piix3-ide',
  'virtio-scsi-pci',
  'virtio-scsi-pci-transitional',
  'virtio-scsi-pci-non-transitional',
  'lsi',
  'lsi53c895a',
  'pci-bridge',
  'pcie-pci-bridge',
  'pcie-root-port',
  'ioh3420',
  'x3130-upstream',
  'xio3130-downstream',
  'i82801b11-bridge',
  'pxb-pcie',
  'virtio-serial-pci',
  'virtserialport',
  'virtconsole',
  'isa-serial',
  'pci-serial',
  'isa-parallel',
  'isa-debugcon',
  // USB, without redirection and without storage
  'piix3-usb-uhci',
  'piix4-usb-uhci',
  'ich9-usb-ehci1',
  'ich9-usb-uhci1',
  'ich9-usb-uhci2',
  'ich9-usb-uhci3',
  'usb-ehci',
  'nec-usb-xhci',
  'qemu-xhci',
  'usb-hub',
  'usb-tablet',
  'usb-kbd',
  'usb-mouse',
  // display, input, sound
  'VGA',
  'cirrus-vga',
  'bochs-display',
  'secondary-vga',
  'qxl',
  'qxl-vga',
  'vmware-svga',
  'virtio-vga',
  'virtio-gpu-pci',
  'virtio-keyboard-pci',
  'virtio-mouse-pci',
  'virtio-tablet-pci',
  'AC97',
  'ES1370',
  'sb16',
  'intel-hda',
  'ich9-intel-hda',
  'hda-duplex',
  'hda-output',
  'hda-micro',
  // network: the backends are judged by NET_BACKENDS
  'virtio-net-pci',
  'virtio-net-pci-transitional',
  'virtio-net-pci-non-transitional',
  'e1000',
  'e1000e',
  'igb',
  'rtl8139',
  'ne2k_pci',
  'pcnet',
  'vmxnet3',
  // memory made of the guest's own RAM, watchdogs, entropy, information
  'pc-dimm',
  'virtio-balloon-pci',
  'virtio-balloon-pci-transitional',
  'virtio-balloon-pci-non-transitional',
  'virtio-rng-pci',
  'virtio-rng-pci-transitional',
  'virtio-rng-pci-non-transitional',
  'pvpanic',
  'pvpanic-pci',
  'vmcoreinfo',
  'vmgenid',
  'i6300esb',
  'ib700',
  'intel-iommu',
]);

/** Objects made by `-object` or `object-add`, and the machine's own memory backends. */
export const OBJECTS: ReadonlySet<string> = new Set([
  'secret',
  'secret_keyring',
  'iothread',
  'memory-backend-ram',
  'memory-backend-memfd',
  'memory-backend-file', // only private, or on memory file systems: see SHARED_MEMORY_FILE_SYSTEMS
  'rng-random',
  'rng-builtin',
  'rng-egd',
  'tls-creds-x509',
  'tls-creds-psk',
  'tls-creds-anon',
  'authz-list',
  'authz-list-file',
  'authz-pam',
  'authz-simple',
]);

/** Network backends whose host side stops with the vCPUs or forwards only what the guest sent. */
export const NET_BACKENDS: ReadonlySet<string> = new Set(['tap', 'bridge', 'user', 'hubport']);

/** Block drivers of the nodes that a disk may consist of. */
export const BLOCK_DRIVERS: ReadonlySet<string> = new Set([
  'raw',
  'qcow2',
  'file',
  'host_device',
  'nbd',
  'luks',
]);

/** Those of them that open a file or block device of the host. */
export const FILE_DRIVERS: ReadonlySet<string> = new Set(['file', 'host_device']);

/** Those that speak to a server on the network. */
export const NETWORK_DRIVERS: ReadonlySet<string> = new Set(['nbd']);

/** Options of `-blockdev` that may be given to a node of a writable disk. */
export const NODE_OPTIONS: ReadonlySet<string> = new Set([
  'driver',
  'node-name',
  'filename',
  'file',
  'backing',
  'read-only',
  'auto-read-only',
  'cache',
  'discard',
  'detect-zeroes',
  'aio',
  'locking',
  // of LUKS, by itself and in qcow2
  'key-secret',
  'encrypt',
  // of NBD
  'server',
  'export',
  'reconnect-delay',
]);

/** Options of QEMU's command line that add nothing to what the other lists judge. */
export const OPTIONS: ReadonlySet<string> = new Set([
  'name',
  'S',
  'object',
  'machine',
  'M',
  'accel',
  'enable-kvm',
  'cpu',
  'm',
  'overcommit',
  'smp',
  'numa',
  'uuid',
  'display',
  'nographic',
  'no-user-config',
  'nodefaults',
  'chardev',
  'mon',
  'qmp',
  'serial',
  'parallel',
  'monitor',
  'rtc',
  'no-shutdown',
  'no-reboot',
  'no-hpet',
  'no-acpi',
  'boot',
  'device',
  'blockdev',
  'netdev',
  'audiodev',
  'vnc',
  'spice',
  'vga',
  'global',
  'watchdog-action',
  'action',
  'sandbox',
  'msg',
  'smbios',
  'add-fd',
  'fw_cfg',
  'acpitable',
  'kernel',
  'initrd',
  'append',
  'dtb',
  'bios',
  'L',
  'k',
  'usb',
  'incoming',
  'nic',
  'd',
  'D',
  'trace',
  'compat',
  'pidfile',
  'runas',
  'run-with',
]);

/** statfs(2) magic numbers of file systems that are memory: tmpfs, ramfs, hugetlbfs (linux/magic.h). */
export const SHARED_MEMORY_FILE_SYSTEMS: ReadonlySet<number> = new Set([0x01021994, 0x858458f6, 0x958458f6]);

/**
 * statfs(2) magic numbers of the file systems on which every write to a file shows in its times, whichever host has
 * written: local ones (ext4, xfs, btrfs, tmpfs, overlay), and NFS, whose server keeps the times (RFC 8881, 5.8.2) and
 * is asked for them with AT_STATX_FORCE_SYNC.
 */
export const FILE_SYSTEMS_THAT_TELL: ReadonlySet<number> = new Set([
  0xef53, 0x58465342, 0x9123683e, 0x01021994, 0x794c7630, 0x6969,
]);

import type { DiskXml } from '../../libvirt/domain-xml.ts';
import type { Facts, FileAccess, GuestFacts, HostFacts, ImageFacts } from '../facts.ts';
import type { Finding } from '../finding.ts';
import { isShared, type Mount } from '../mounts.ts';

type Found = Omit<Finding, 'subject'>[];

/** A rule on each disk that the guest's XML has. */
function ofDisk(
  judge: (disk: DiskXml, guest: GuestFacts, facts: Facts) => Found,
): (guest: GuestFacts, facts: Facts) => Finding[] {
  return (guest, facts) =>
    guest.definition.kind === 'known'
      ? guest.definition.value.disks
          .filter(({ device }) => device === 'disk')
          .flatMap((disk) => judge(disk, guest, facts))
          .map((finding) => ({ ...finding, subject: guest.name }))
      : [];
}

/** A rule on each image that can be looked at. */
function ofImage(
  judge: (image: ImageFacts, guest: GuestFacts, facts: Facts) => Found,
): (guest: GuestFacts, facts: Facts) => Finding[] {
  return (guest, facts) =>
    guest.images
      .flatMap((image) => judge(image, guest, facts))
      .map((finding) => ({ ...finding, subject: guest.name }));
}

function ofMount(judge: (mount: Mount, image: ImageFacts, facts: Facts, guest: GuestFacts) => Found) {
  return ofImage((image, guest, facts) => {
    const mount =
      image.file.kind === 'known' && image.file.value.kind === 'file' ? image.file.value.mount : undefined;
    return mount === undefined ? [] : judge(mount, image, facts, guest);
  });
}

function driverLine({ driver }: DiskXml): string {
  const { name = 'qemu', type = 'raw' } = driver;
  return `<driver name='${name}' type='${type}' cache='none' error_policy='stop' rerror_policy='stop'/>`;
}

function fixOf(disk: DiskXml, { config }: GuestFacts): string {
  return `${driverLine(disk)}    for disk ${disk.target.dev} in ${config ?? 'its XML (virsh edit)'}, for its next start`;
}

/** What QEMU does about an error, by the next start's XML: libvirt applies error_policy to reads, too. */
export const errorPolicy = ofDisk((disk, guest) => {
  const { error_policy: writes, rerror_policy: reads = writes } = disk.driver;
  if (disk.readonly || (writes === undefined && guest.setErrorPolicy)) {
    return [];
  }
  const bad = [
    writes === 'stop' ? undefined : `error_policy is ${writes ?? 'not set'}`,
    reads === 'stop' ? undefined : `rerror_policy is ${reads ?? 'not set'}`,
  ].filter((each) => each !== undefined);
  return bad.length === 0
    ? []
    : [
        {
          rule: 'error-policy',
          severity: 'error',
          reason: `${bad.join(' and ')} on disk ${disk.target.dev}: QEMU passes errors of the storage on to the guest instead of stopping it, and it does not fail over`,
          fix: fixOf(disk, guest),
        },
      ];
});

/** The same of a guest that was started without what the agent adds. */
export function errorPolicyNow(guest: GuestFacts): Finding[] {
  if (guest.running?.definition.kind !== 'known' || guest.running.preserved) {
    return [];
  }
  const { definition } = guest;
  return guest.running.definition.value.disks.flatMap((disk): Finding[] => {
    const { error_policy: writes } = disk.driver;
    // What the XML itself says is wrong is found by the rule above.
    const configured =
      definition.kind === 'known'
        ? definition.value.disks.find(({ target }) => target.dev === disk.target.dev)?.driver.error_policy
        : undefined;
    return disk.device !== 'disk' || disk.readonly || writes !== undefined || configured !== undefined
      ? []
      : [
          {
            rule: 'error-policy-now',
            severity: 'warning',
            subject: guest.name,
            reason: `it runs without error_policy on disk ${disk.target.dev}, because it was not started by kvmha: until its next start QEMU passes errors of the storage on to it`,
            fix: `crm_resource --restart --resource ${guest.resource?.id ?? guest.name}    # when it may be stopped for a moment`,
          },
        ];
  });
}

export const cacheMode = ofDisk((disk, guest) => {
  const { cache } = disk.driver;
  // unsafe is refused by the proof, which says so.
  return disk.readonly || cache === 'none' || cache === 'directsync' || cache === 'unsafe'
    ? []
    : [
        {
          rule: 'cache-mode',
          severity: 'warning',
          reason: `cache is ${cache ?? 'not set (writeback)'} on disk ${disk.target.dev}: what is in the host's page cache must be synced before it may fail over, and libvirt refuses to migrate it live on most storage`,
          fix: fixOf(disk, guest),
        },
      ];
});

export const imageMissing = ofImage(({ target, path, file }, _, { node }) =>
  file.kind === 'known'
    ? []
    : [
        {
          rule: 'image-unseen',
          severity: 'error',
          reason: `the image ${path} of disk ${target} cannot be looked at on ${node} (${file.why})`,
          fix: `mount the storage it is on, and see: stat ${path}`,
        },
      ],
);

export const localStorage = ofMount((mount, { path, target, readOnly }, { cluster }) => {
  const nodes = cluster.kind === 'known' ? cluster.value.configuration.nodes.length : 0;
  if (isShared(mount) || nodes < 2) {
    return [];
  }
  const moves =
    cluster.kind === 'known' &&
    cluster.value.configuration.resources.some(
      ({ agent, parameters }) =>
        agent === 'ocf:heartbeat:Filesystem' && parameters.get('directory') === mount.point,
    );
  return [
    {
      rule: 'local-storage',
      severity: moves || readOnly ? 'warning' : 'error',
      reason: moves
        ? `${path} (disk ${target}) is on ${mount.type}, which one node at a time can mount: it fails over only after that file system, and is never migrated live`
        : `${path} (disk ${target}) is on ${mount.type} at ${mount.point}, a local file system: other nodes do not see what is written to it`,
      fix: 'move the image to storage that all nodes share: NFS 4, a cluster file system, or a block device',
    },
  ];
});

/** Mount options with which fcntl(2) locks, which QEMU takes on its images, are the node's own (nfs(5), gfs2(5)). */
const LOCAL_LOCKS: Readonly<Record<string, RegExp>> = {
  nfs: /^(nolock|local_lock=(all|posix))$/,
  nfs4: /^local_lock=(all|posix)$/,
  gfs2: /^(localflocks|lockproto=lock_nolock)$/,
  ocfs2: /^localflocks$/,
};

export const localLocks = ofMount(({ type, options, point, source }, { path, target }) => {
  const local = options.find((option) => LOCAL_LOCKS[type]?.test(option));
  return local === undefined
    ? []
    : [
        {
          rule: 'local-locks',
          severity: 'error',
          reason: `${path} (disk ${target}) is on ${type} mounted with ${local}: QEMU's locks on images stay on this node, and do not keep a second QEMU on another one away`,
          fix: `mount ${source} on ${point} without ${local}, and take it out of /etc/fstab`,
        },
      ];
});

export const nfsVersion = ofMount(({ type, options, point, source }, { path, target }) => {
  const version = options.find((option) => option.startsWith('vers='))?.slice('vers='.length);
  return type !== 'nfs' || version === undefined || version.startsWith('4')
    ? []
    : [
        {
          rule: 'nfs-version',
          severity: 'note',
          reason: `${path} (disk ${target}) is on NFS ${version}, whose locks (NLM) outlive a node that has crashed until the server hears of its reboot`,
          fix: `mount -t nfs4 ${source} ${point}    # and in /etc/fstab`,
        },
      ];
});

/** QEMU's locks on a file in /dev are this host's own. */
export const unlockedDevice = ofImage(({ file, path, target, readOnly, shareable }, _, { host, cluster }) =>
  file.kind === 'known' &&
  file.value.kind === 'block' &&
  !readOnly &&
  !shareable &&
  host.lockManager === undefined &&
  cluster.kind === 'known' &&
  cluster.value.configuration.nodes.length > 1
    ? [
        {
          rule: 'unlocked-device',
          severity: 'note',
          reason: `${path} (disk ${target}) is a block device, on which QEMU's locks do not reach other nodes: nothing but the cluster keeps a second QEMU off it`,
          fix: 'lock_manager = "lockd" in /etc/libvirt/qemu.conf, and a lock space in qemu-lockd.conf (docs/storage.md)',
        },
      ]
    : [],
);

/** A soft mount gives up on a write that the server may still carry out. */
export const softMount = ofMount(({ type, options, point, source }, { path, target }) =>
  (type === 'nfs' || type === 'nfs4') && options.includes('soft')
    ? [
        {
          rule: 'soft-mount',
          severity: 'error',
          reason: `${path} (disk ${target}) is on NFS mounted soft: a write that timed out here is an error to QEMU, and may still reach the image after the guest runs elsewhere`,
          fix: `mount -o remount,hard ${point}    # and hard instead of soft in /etc/fstab, for ${source}`,
        },
      ]
    : [],
);

export const imageAccess = ofImage((image, _, { host }) => {
  if (image.file.kind === 'unknown' || host.qemuUser.uid === 0) {
    return [];
  }
  const [own, ...folders] = image.file.value.access;
  const closed = folders.find((folder) => !allows(folder, host.qemuUser, 0o1));
  if (closed !== undefined) {
    return [
      {
        rule: 'image-access',
        severity: 'error',
        reason: `qemu's user ${host.qemuUser.name} may not enter ${closed.path}, and cannot open the image ${image.path} of disk ${image.target}`,
        fix: `chmod o+x ${closed.path}`,
      },
    ];
  }
  const wanted = image.readOnly ? 0o4 : 0o6;
  // With dynamic ownership libvirt makes it the owner at the start.
  return own === undefined || host.dynamicOwnership || allows(own, host.qemuUser, wanted)
    ? []
    : [
        {
          rule: 'image-access',
          severity: 'error',
          reason: `qemu's user ${host.qemuUser.name} may not ${image.readOnly ? 'read' : 'write'} the image ${image.path} of disk ${image.target}, and dynamic_ownership is off (qemu.conf)`,
          fix: `chown ${host.qemuUser.name} ${image.path}`,
        },
      ];
});

/** Whether a mode lets a user do what the bits of `wanted` (read 4, write 2, enter 1) say. */
export function allows({ mode, uid, gid }: FileAccess, user: HostFacts['qemuUser'], wanted: number): boolean {
  const bits = user.uid === uid ? mode >> 6 : user.groups.includes(gid) ? mode >> 3 : mode;
  return user.uid === 0 || (bits & wanted) === wanted;
}

/** Two guests that write to one image destroy it, whatever the cluster does. */
export function sameImage(guest: GuestFacts, { guests }: Facts): Finding[] {
  const before = guests.slice(0, guests.indexOf(guest));
  return guest.images.flatMap((image): Finding[] => {
    const other = before.find(
      ({ images, name }) =>
        name !== guest.name &&
        images.some((each) => each.path === image.path && !(each.shareable || each.readOnly)),
    );
    return other === undefined || image.readOnly || image.shareable
      ? []
      : [
          {
            rule: 'same-image',
            severity: 'error',
            subject: guest.name,
            reason: `its disk ${image.target} is ${image.path}, which ${other.name} writes to as well`,
            fix: `give one of them an image of its own    # or <readonly/>, or <shareable/> for a cluster file system in both`,
          },
        ];
  });
}

export const DISK_RULES = [
  errorPolicy,
  errorPolicyNow,
  cacheMode,
  imageMissing,
  localStorage,
  localLocks,
  nfsVersion,
  unlockedDevice,
  softMount,
  imageAccess,
  sameImage,
] as const;

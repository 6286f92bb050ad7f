import type { Facts } from '../facts.ts';
import type { Finding } from '../finding.ts';
import { compareVersions } from '../versions.ts';

/** The oldest and the latest QEMU and libvirt that the proof was measured on (docs/proof.md). */
const EXAMINED = { qemu: '7.2.0', libvirt: '9.0.0' } as const;
/** blockdev-reopen is stable from 6.1 on; libvirt names block nodes (-blockdev) from 6.0 on. */
const LEAST = { qemu: '6.1.0', libvirt: '6.0.0' } as const;

export function libvirtSilent({ libvirt, node }: Facts): Finding[] {
  return libvirt.kind === 'known'
    ? []
    : [
        {
          rule: 'libvirt-silent',
          severity: 'error',
          subject: node,
          reason: `libvirt does not answer, so that no guest can be started or migrated here, and much could not be judged (${libvirt.why})`,
          fix: 'systemctl restart libvirtd    # or virtqemud, where the host has the modular daemons',
        },
      ];
}

export function qemuVersion({ libvirt, node }: Facts): Finding[] {
  return versionFinding(
    'qemu',
    'QEMU',
    libvirt.kind === 'known' ? libvirt.value.qemuVersion : undefined,
    node,
  );
}

export function libvirtVersion({ libvirt, node }: Facts): Finding[] {
  return versionFinding(
    'libvirt',
    'libvirt',
    libvirt.kind === 'known' ? libvirt.value.libvirtVersion : undefined,
    node,
  );
}

function versionFinding(
  key: 'qemu' | 'libvirt',
  name: string,
  version: string | undefined,
  node: string,
): Finding[] {
  if (version === undefined || compareVersions(version, EXAMINED[key]) >= 0) {
    return [];
  }
  const tooOld = compareVersions(version, LEAST[key]) < 0;
  return [
    {
      rule: `${key}-version`,
      severity: tooOld ? 'error' : 'warning',
      subject: node,
      reason: tooOld
        ? `${name} ${version} cannot do what a proof needs (${LEAST[key]} and later can): every fault ends in the guest being destroyed`
        : `${name} ${version} is older than ${EXAMINED[key]}, the oldest that the proof was measured on`,
      fix: `upgrade ${name} to ${EXAMINED[key]} or later`,
    },
  ];
}

/** libvirt refuses a migration to a host that has the source's uuid. */
export function sameHostUuid({ libvirt, others, node }: Facts): Finding[] {
  return [...others].flatMap(([name, other]): Finding[] =>
    libvirt.kind === 'known' && other.kind === 'known' && other.value.uuid === libvirt.value.uuid
      ? [
          {
            rule: 'same-host-uuid',
            severity: 'error',
            subject: node,
            reason: `libvirt has the host uuid ${libvirt.value.uuid} on ${node} and on ${name}, and refuses migrations between them`,
            fix: `echo "host_uuid = \\"$(uuidgen)\\"" >>/etc/libvirt/libvirtd.conf && systemctl restart libvirtd    # on one of the two`,
          },
        ]
      : [],
  );
}

export function otherNodeSilent({ unreachable, node: here }: Facts): Finding[] {
  return unreachable.map(({ node, uri, why, guests }) => ({
    rule: 'other-node-silent',
    severity: 'warning',
    subject: here,
    reason: `the libvirt of ${node} cannot be reached from ${here} as a live migration of ${guests.join(', ')} would reach it (${why})`,
    fix: `virsh --connect ${uri} uri    # must succeed as root on ${here}; the parameters migration_transport and remoteuri say how`,
  }));
}

export function differentQemu({ libvirt, others, node }: Facts): Finding[] {
  return [...others].flatMap(([name, other]): Finding[] => {
    const [own, its] = [libvirt, other].map((each) =>
      each.kind === 'known' ? each.value.qemuVersion : undefined,
    );
    return own === undefined || its === undefined || own === its
      ? []
      : [
          {
            rule: 'different-qemu',
            severity: 'note',
            subject: node,
            reason: `QEMU is ${own} on ${node} and ${its} on ${name}: a guest migrates to the older one only with a machine type that it has`,
            fix: 'give the guests a machine type with a version that all nodes have',
          },
        ];
  });
}

export function libvirtGuests({ host, node }: Facts): Finding[] {
  const { enabled, onBoot, onShutdown } = host.libvirtGuests;
  if (!enabled) {
    return [];
  }
  const suspends = onShutdown === 'suspend';
  const starts = onBoot === 'start';
  return [
    {
      rule: 'libvirt-guests',
      severity: suspends || starts ? 'error' : 'warning',
      subject: node,
      reason:
        `libvirt-guests is enabled: when ${node} shuts down it ${suspends ? 'saves' : 'shuts down'} the guests while the cluster migrates them` +
        `${starts ? ', and at boot it starts them past the cluster' : ''}`,
      // Not --now: stopping the service is what does it.
      fix: 'systemctl disable libvirt-guests    # not with --now, which would end all guests at once',
    },
  ];
}

export function clockIsNotKept({ host, node }: Facts): Finding[] {
  return host.clockIsKept
    ? []
    : [
        {
          rule: 'clock-not-kept',
          severity: 'note',
          subject: node,
          reason: `no program that keeps the clock runs on ${node}: the journals of the nodes cannot be compared once the clocks differ`,
          fix: 'apt install chrony    # or systemctl enable --now systemd-timesyncd',
        },
      ];
}

/** Seconds by which nodes' clocks may differ, and answers take their time. */
const CLOCK_TOLERANCE = 5;

export function clockAhead({ cluster, now, node }: Facts): Finding[] {
  if (cluster.kind !== 'known') {
    return [];
  }
  const latest = new Map<string, number>();
  for (const { node: name, changed } of cluster.value.configuration.history) {
    latest.set(name, Math.max(latest.get(name) ?? 0, changed ?? 0));
  }
  return [...latest].flatMap(([name, moment]): Finding[] =>
    name === node || moment <= now + CLOCK_TOLERANCE
      ? []
      : [
          {
            rule: 'clock-ahead',
            severity: 'warning',
            subject: name,
            reason: `${name} dates an operation ${Math.round(moment - now)} seconds in the future of ${node}: failure-timeout, saved states and journals need clocks that agree`,
            fix: 'chronyc makestep    # on both nodes',
          },
        ],
  );
}

export function noWatcher({ host, node, guests }: Facts): Finding[] {
  const { watcher } = host;
  if (watcher.kind === 'unknown') {
    return [
      {
        rule: 'watcher-silent',
        severity: 'warning',
        subject: node,
        reason: `the watcher of ${node} does not answer (${watcher.why})`,
        fix: 'crm_resource --restart --resource kvm-watch    # or systemctl restart kvmha-watch',
      },
    ];
  }
  return watcher.value === 'answers' || guests.length === 0
    ? []
    : [
        {
          rule: 'no-watcher',
          severity: 'warning',
          subject: node,
          reason: `no watcher runs on ${node}: a fault waits for the next monitor, and memory failures of the host are not heard of at all`,
          fix: 'crm configure primitive kvm-watch ocf:kvmha:KvmWatch && crm configure clone kvm-watch-clone kvm-watch meta allow-unhealthy-nodes=true    # or pcs resource create kvm-watch ocf:kvmha:KvmWatch clone meta allow-unhealthy-nodes=true',
        },
      ];
}

/** sanlock kills the domains whose leases it cannot renew, which is fencing at a time of its own. */
export function sanlock({ host, node }: Facts): Finding[] {
  return host.lockManager !== 'sanlock'
    ? []
    : [
        {
          rule: 'sanlock',
          severity: 'warning',
          subject: node,
          reason:
            'libvirt uses sanlock (qemu.conf): when the storage of its leases is lost it ends guests that would have been preserved, unless <on_lockfailure> says otherwise',
          fix: '<on_lockfailure>ignore</on_lockfailure>    in the XML of the guests, or lock_manager = "lockd" in /etc/libvirt/qemu.conf',
        },
      ];
}

export function lostLocks({ host, node }: Facts): Finding[] {
  return host.recoversLostLocks
    ? [
        {
          rule: 'lost-locks',
          severity: 'error',
          subject: node,
          reason: `nfs.recover_lost_locks is on: after ${node} was cut off, its kernel takes the locks on images again that another node has had since, and writes on`,
          fix: 'echo N >/sys/module/nfs/parameters/recover_lost_locks    # and remove nfs.recover_lost_locks=1 from /etc/modprobe.d and the kernel command line',
        },
      ]
    : [];
}

export const HOST_RULES = [
  libvirtSilent,
  qemuVersion,
  libvirtVersion,
  sameHostUuid,
  otherNodeSilent,
  differentQemu,
  libvirtGuests,
  clockIsNotKept,
  clockAhead,
  noWatcher,
  sanlock,
  lostLocks,
] as const;

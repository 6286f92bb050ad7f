import { KVM_GUEST } from '../../cluster/configuration.ts';
import { hasReplacedName, SOCKET_DIRECTORY } from '../../guest/sockets.ts';
import type { GuestDefinition } from '../definition.ts';
import type { Facts, GuestFacts } from '../facts.ts';
import type { Finding } from '../finding.ts';

type Found = Omit<Finding, 'subject'>[];
type Rule = (guest: GuestFacts, facts: Facts) => Finding[];

function ofGuest(judge: (guest: GuestFacts, facts: Facts) => Found): Rule {
  return (guest, facts) => judge(guest, facts).map((finding) => ({ ...finding, subject: guest.name }));
}

/** A rule on what the guest will be started from. */
function ofDefinition(judge: (definition: GuestDefinition, guest: GuestFacts, facts: Facts) => Found): Rule {
  return ofGuest((guest, facts) =>
    guest.definition.kind === 'known' ? judge(guest.definition.value, guest, facts) : [],
  );
}

function inXml({ config }: GuestFacts, line: string): string {
  return `${line}    in ${config ?? 'its XML (virsh edit)'}, for its next start`;
}

export const unreadableDefinition = ofGuest(({ definition, config }, { libvirt }) =>
  // Of a guest that no resource runs, libvirt alone has the XML; that it is silent is a finding of its own.
  definition.kind === 'known' || (config === undefined && libvirt.kind === 'unknown')
    ? []
    : [
        {
          rule: 'unreadable-definition',
          severity: 'error',
          reason: `its XML cannot be read here, so that it cannot be started here (${definition.why})`,
          fix: `virt-xml-validate ${config ?? 'FILE'}    # and copy it to every node, or onto the shared storage`,
        },
      ],
);

export const noResource = ofGuest(({ resource, name, running }, { cluster }) =>
  resource === undefined && cluster.kind === 'known'
    ? [
        {
          rule: 'no-resource',
          severity: running === undefined ? 'note' : 'warning',
          reason: 'it is no resource of the cluster, and does not fail over',
          fix: `virsh dumpxml --inactive ${name} >/etc/kvmha/${name}.xml; kvmha configure /etc/kvmha/${name}.xml`,
        },
      ]
    : [],
);

export const policyErrors = ofGuest(({ policy, policyPath }) =>
  policy.kind === 'known'
    ? []
    : [
        {
          rule: 'policy-error',
          severity: 'error',
          reason: `its policy cannot be used (${policy.why})`,
          fix: `kvmha policy check ${policyPath}`,
        },
      ],
);

export const neverQuiesced = ofGuest(({ policy, policyPath }) =>
  policy.kind === 'known' && !policy.value.quiesce.enabled
    ? [
        {
          rule: 'never-quiesced',
          severity: 'warning',
          reason:
            'the policy says quiesce.enabled: false: a guest that a fault has hit is destroyed, or its node fenced',
          fix: `quiesce: { enabled: true }    in ${policyPath}`,
        },
      ]
    : [],
);

export const nodesNotAsked = ofGuest(({ policy, policyPath }) =>
  policy.kind === 'known' && !policy.value.quiesce.requireEligibleNode
    ? [
        {
          rule: 'nodes-not-asked',
          severity: 'note',
          reason:
            'the policy says quiesce.require-eligible-node: false: it is quiesced, and cannot go on, also where no other node can start it',
          fix: `quiesce: { require-eligible-node: true }    in ${policyPath}`,
        },
      ]
    : [],
);

export const onlyObserved = ofGuest(({ policy, policyPath }) =>
  policy.kind === 'known' && policy.value.watch.mode === 'observe'
    ? [
        {
          rule: 'only-observed',
          severity: 'note',
          reason: 'the policy says watch.mode: observe: the watcher only writes down what it would do',
          fix: `watch: { mode: act }    in ${policyPath}`,
        },
      ]
    : [],
);

export const autostart = ofGuest(({ domain, name }) =>
  domain?.autostart
    ? [
        {
          rule: 'autostart',
          severity: 'error',
          reason: 'libvirt starts it by itself when this node boots, also while it runs on another one',
          fix: `virsh autostart --disable ${name}`,
        },
      ]
    : [],
);

export const managedSave = ofGuest(({ domain, name }) =>
  domain?.managedSave
    ? [
        {
          rule: 'managed-save',
          severity: 'error',
          reason:
            'libvirt keeps a managed save of it here, and kvmha refuses to start it here: the save would set its memory back behind its disks',
          fix: `virsh managedsave-remove ${name}`,
        },
      ]
    : [],
);

export const persistentDefinition = ofGuest(({ domain, name, config }) =>
  domain?.persistent && config !== undefined
    ? [
        {
          rule: 'persistent-definition',
          severity: 'note',
          reason:
            'libvirt has a persistent definition of it here, with which it can be started past the cluster',
          fix: config.startsWith('/etc/libvirt/')
            ? `cp ${config} /etc/kvmha/ on every node, name that file in the parameter config, and only then: virsh undefine ${name}    # it deletes ${config}`
            : `virsh undefine ${name}`,
        },
      ]
    : [],
);

export const preservedHere = ofGuest(({ running, name }, { node }) =>
  running?.preserved
    ? [
        {
          rule: 'preserved-here',
          severity: 'warning',
          reason: `${node} keeps a preserved copy of it, and it cannot run here until that is released`,
          fix: `kvmha postmortem ${name} --then-release    # or kvmha release ${name}`,
        },
      ]
    : [],
);

export const cannotBeProved = ofGuest((guest) => {
  const { running, definition } = guest;
  if (running !== undefined && running.refusals.kind === 'unknown') {
    return [
      {
        rule: 'not-assessed',
        severity: 'warning',
        reason: `its QEMU could not be asked what it consists of (${running.refusals.why})`,
        fix: `kvmha proof ${guest.name}`,
      },
    ];
  }
  const reasons =
    running?.refusals.kind === 'known'
      ? running.refusals.value
      : definition.kind === 'known'
        ? definition.value.unprovable
        : [];
  return reasons.map((reason) => ({
    rule: 'cannot-be-proved',
    severity: 'error',
    reason: `it could not be proved failover-safe, and a fault ends in its being destroyed: ${reason}`,
    fix: 'see docs/proof.md for what can be proved, and take out or replace what cannot',
  }));
});

export const noOwnSocket = ofGuest(({ running, resource }) =>
  running !== undefined && !running.preserved && !running.ownSocket && resource?.agent === KVM_GUEST
    ? [
        {
          rule: 'no-own-socket',
          severity: 'note',
          reason:
            'it was not started by kvmha and has no QMP socket for it: it is asked through libvirt, which is slower, and not while libvirtd hangs',
          fix: `crm_resource --restart --resource ${resource.id}    # when it may be stopped for a moment`,
        },
      ]
    : [],
);

export const longName = ofGuest(({ name, running }, { libvirt }) =>
  hasReplacedName(name) &&
  running?.ownSocket !== true &&
  libvirt.kind === 'known' &&
  libvirt.value.confinement.includes('apparmor')
    ? [
        {
          rule: 'long-name',
          severity: 'warning',
          reason: `its name is too long for the path of a QMP socket, and AppArmor by itself lets its qemu make no socket of another name: it may not start`,
          fix: `echo '"${SOCKET_DIRECTORY}/*/long-*.pid" rwk,' >>/etc/apparmor.d/local/abstractions/libvirt-qemu    # on each node`,
        },
      ]
    : [],
);

export const noDestination = ofGuest(({ destination }) =>
  destination === undefined || destination.kind === 'node'
    ? []
    : [
        {
          rule: 'no-destination',
          severity: destination.kind === 'nowhere' ? 'error' : 'warning',
          reason:
            destination.kind === 'nowhere'
              ? `if it failed here now, no other node would start it: ${destination.why}`
              : `whether another node would start it is not known: ${destination.why}`,
          fix: 'crm_mon -1rA and crm_simulate -sL show what keeps it from the other nodes',
        },
      ],
);

export const onCrash = ofDefinition(({ on_crash: action }, guest) =>
  action === 'restart' || action === 'coredump-restart' || action === 'rename-restart'
    ? [
        {
          rule: 'on-crash',
          severity: 'warning',
          reason: `on_crash is ${action}: libvirt boots it again by itself when its kernel panics, and the cluster does not learn of it`,
          fix: inXml(guest, '<on_crash>destroy</on_crash>'),
        },
      ]
    : [],
);

export const onReboot = ofDefinition(({ on_reboot: action }, guest) =>
  action !== undefined && action !== 'restart'
    ? [
        {
          rule: 'on-reboot',
          severity: 'warning',
          reason: `on_reboot is ${action}: a reboot from inside the guest is a failure to the cluster, and closes this node to it`,
          fix: inXml(guest, '<on_reboot>restart</on_reboot>'),
        },
      ]
    : [],
);

export const onPoweroff = ofDefinition(({ onPoweroff: action }, guest) =>
  action !== undefined && action !== 'destroy'
    ? [
        {
          rule: 'on-poweroff',
          severity: 'error',
          reason: `on_poweroff is ${action}: a stop asks the guest to shut down, and libvirt does not let it end`,
          fix: inXml(guest, '<on_poweroff>destroy</on_poweroff>'),
        },
      ]
    : [],
);

export const machineAlias = ofDefinition(({ machine }, guest, { libvirt }) => {
  if (machine !== undefined && /-\d/.test(machine)) {
    return [];
  }
  const name = machine ?? 'pc';
  const stands = libvirt.kind === 'known' ? libvirt.value.machineAliases.get(name) : undefined;
  return [
    {
      rule: 'machine-alias',
      severity: 'warning',
      reason: `its machine type ${machine ?? '(none, so pc)'} has no version${stands === undefined ? '' : `, and is ${stands} here`}: after a start on a node with a later QEMU it cannot migrate to one with an earlier`,
      fix: inXml(guest, `<type arch='x86_64' machine='${stands ?? `${name}-VERSION`}'>hvm</type>`),
    },
  ];
});

const CPU_OF_THE_HOST = ['host-passthrough', 'host-model', 'maximum'];

export const cpuModel = ofDefinition(({ cpuMode }, guest, { libvirt, others, node }) => {
  if (cpuMode === undefined || !CPU_OF_THE_HOST.includes(cpuMode) || libvirt.kind === 'unknown') {
    return [];
  }
  return [...others].flatMap(([name, other]): Found => {
    if (other.kind === 'known' && other.value.cpu === libvirt.value.cpu) {
      return [];
    }
    const differ = other.kind === 'known';
    return [
      {
        rule: 'cpu-model',
        severity: differ ? 'error' : 'note',
        reason: differ
          ? `its CPU is ${cpuMode}, and the processors of ${node} and ${name} differ: a live migration fails, or the guest crashes after it`
          : `its CPU is ${cpuMode}, and whether ${name} has the same processor could not be asked`,
        fix: inXml(
          guest,
          '<cpu mode=\'custom\'><model>MODEL</model></cpu>, MODEL from "virsh hypervisor-cpu-baseline" over all nodes,',
        ),
      },
    ];
  });
});

export const noKvm = ofDefinition(({ type }, _, { host, node }) =>
  type === 'kvm' && !host.hasKvm
    ? [
        {
          rule: 'no-kvm',
          severity: 'error',
          reason: `${node} has no /dev/kvm, and it cannot be started here`,
          fix: 'modprobe kvm_intel    # or kvm_amd; virtualization must be on in the firmware',
        },
      ]
    : [],
);

export const missingHere = ofGuest(({ missing }, { node }) =>
  missing.map((what) => ({
    rule: 'missing-here',
    severity: 'error',
    reason: `${what}, which its XML names, is not on ${node}: it cannot be started here`,
    fix: `make ${what} on ${node}, as it is on the node where the guest runs`,
  })),
);

/** What confines QEMU decides whether it may open a sentinel and make its sockets; only a guest that runs shows it. */
export const confined = ofGuest(({ running, name }) =>
  running?.label === undefined
    ? []
    : [
        {
          rule: 'confined',
          severity: running.ownSocket ? 'note' : 'warning',
          reason: `its qemu is confined (${running.label})${running.ownSocket ? ', and has its QMP socket; that it may open a sentinel shows when it is quiesced' : ', and has no QMP socket of its own'}`,
          fix: `ausearch -m avc -c qemu-system-x86; dmesg | grep apparmor    # then kvmha quiesce ${name} in a maintenance window`,
        },
      ],
);

export const GUEST_RULES = [
  unreadableDefinition,
  noResource,
  policyErrors,
  neverQuiesced,
  nodesNotAsked,
  onlyObserved,
  autostart,
  managedSave,
  persistentDefinition,
  preservedHere,
  cannotBeProved,
  noOwnSocket,
  longName,
  noDestination,
  onCrash,
  onReboot,
  onPoweroff,
  machineAlias,
  cpuModel,
  noKvm,
  missingHere,
  confined,
] as const;

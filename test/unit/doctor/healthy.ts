import { type ClusterConfiguration, parseConfiguration } from '../../../lib/cluster/configuration.ts';
import { type GuestDefinition, parseDefinition } from '../../../lib/doctor/definition.ts';
import {
  type ClusterFacts,
  type Facts,
  type FileFacts,
  type GuestFacts,
  type HostFacts,
  type Hypervisor,
  type ImageFacts,
  known,
  type RunningFacts,
} from '../../../lib/doctor/facts.ts';
import type { Mount } from '../../../lib/doctor/mounts.ts';
import { DEFAULT_POLICY } from '../../../lib/policy.ts';

export const HEALTHY_XML = `\
<domain type='kvm'>
  <name>web</name>
  <uuid>6b766d68-610a-4c61-8000-0000000000ff</uuid>
  <os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os>
  <cpu mode='custom'><model>Broadwell</model></cpu>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' cache='none' error_policy='stop' rerror_policy='stop'/>
      <source file='/srv/images/web.qcow2'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <interface type='bridge'><source bridge='br0'/><model type='virtio'/></interface>
  </devices>
</domain>`;

export const HEALTHY_CIB = `\
<cib epoch="1" num_updates="0" admin_epoch="0">
  <configuration>
    <crm_config>
      <cluster_property_set id="options">
        <nvpair id="stonith-enabled" name="stonith-enabled" value="true"/>
      </cluster_property_set>
    </crm_config>
    <nodes><node id="1" uname="node1"/><node id="2" uname="node2"/></nodes>
    <resources>
      <primitive id="fence" class="stonith" type="fence_ipmilan"/>
      <primitive id="web" class="ocf" provider="kvmha" type="KvmGuest">
        <instance_attributes id="web-parameters">
          <nvpair id="web-config" name="config" value="/srv/images/web.xml"/>
        </instance_attributes>
        <operations>
          <op name="start" timeout="90s" interval="0" id="web-start"/>
          <op name="stop" timeout="90s" interval="0" id="web-stop"/>
          <op name="monitor" timeout="30s" interval="10s" id="web-monitor"/>
          <op name="migrate_to" timeout="120s" interval="0" id="web-migrate_to"/>
          <op name="migrate_from" timeout="60s" interval="0" id="web-migrate_from"/>
        </operations>
        <meta_attributes id="web-meta">
          <nvpair name="allow-migrate" value="true" id="web-meta-1"/>
          <nvpair name="multiple-active" value="stop_unexpected" id="web-meta-2"/>
          <nvpair name="migration-threshold" value="1" id="web-meta-3"/>
        </meta_attributes>
      </primitive>
    </resources>
    <constraints>
      <rsc_location id="web-where-not-preserved" rsc="web">
        <rule score="-INFINITY" id="web-rule">
          <expression operation="eq" attribute="kvmha-preserved-web" value="1" id="web-expression"/>
        </rule>
      </rsc_location>
    </constraints>
  </configuration>
  <status>
    <node_state id="2" uname="node2">
      <lrm id="2"><lrm_resources>
        <lrm_resource id="web" type="KvmGuest" class="ocf" provider="kvmha">
          <lrm_rsc_op id="web_last_0" operation="monitor" rc-code="7" exit-reason="" last-rc-change="1000"/>
        </lrm_resource>
      </lrm_resources></lrm>
    </node_state>
  </status>
</cib>`;

const NFS: Mount = {
  point: '/srv/images',
  type: 'nfs4',
  source: 'nas:/images',
  options: ['rw', 'vers=4.2', 'hard', 'local_lock=none'],
};

const FILE: FileFacts = {
  kind: 'file',
  access: [
    { path: '/srv/images/web.qcow2', mode: 0o600, uid: 64055, gid: 64055 },
    { path: '/srv/images', mode: 0o755, uid: 0, gid: 0 },
    { path: '/', mode: 0o755, uid: 0, gid: 0 },
  ],
  mount: NFS,
};

const HYPERVISOR: Hypervisor = {
  uuid: '6b766d68-610a-4c61-8000-000000000001',
  libvirtVersion: '9.0.0',
  qemuVersion: '7.2.22',
  cpu: 'Intel Broadwell',
  machineAliases: new Map([['pc', 'pc-i440fx-7.2']]),
  confinement: [],
};

const HOST: HostFacts = {
  clockIsKept: true,
  hasKvm: true,
  libvirtGuests: { enabled: false, onBoot: 'ignore', onShutdown: 'shutdown' },
  watcher: known('answers'),
  qemuUser: { name: 'libvirt-qemu', uid: 64055, groups: [64055, 109] },
  dynamicOwnership: true,
  recoversLostLocks: false,
  lockManager: undefined,
};

/** What differs from a node and a cluster with which nothing is wrong. */
export interface Fault {
  readonly facts?: Partial<Facts>;
  readonly host?: Partial<HostFacts>;
  readonly libvirt?: Partial<Hypervisor>;
  readonly other?: Partial<Hypervisor>;
  readonly cluster?: Partial<ClusterFacts>;
  /** Replacements in the configuration of the cluster, each of exactly one place. */
  readonly cib?: readonly (readonly [from: string, to: string])[];
  readonly xml?: readonly (readonly [from: string, to: string])[];
  readonly guest?: Partial<GuestFacts>;
  readonly image?: Partial<ImageFacts>;
  readonly file?: Partial<FileFacts>;
  readonly mount?: Partial<Mount>;
  /** That the guest runs here, with this of it. */
  readonly running?: Partial<RunningFacts>;
  /** Replacements in the XML of the guest as it runs. */
  readonly live?: readonly (readonly [from: string, to: string])[];
}

function replaced(text: string, replacements: readonly (readonly [string, string])[] = []): string {
  return replacements.reduce((result, [from, to]) => {
    if (result.split(from).length !== 2) {
      throw new Error(`"${from}" is there ${result.split(from).length - 1} times`);
    }
    return result.replace(from, to);
  }, text);
}

/** A node and a cluster with which nothing is wrong but `fault`. */
export async function factsWith(fault: Fault = {}): Promise<Facts> {
  const configuration: ClusterConfiguration = await parseConfiguration(replaced(HEALTHY_CIB, fault.cib));
  const definition: GuestDefinition = await parseDefinition(replaced(HEALTHY_XML, fault.xml), 'web.xml');
  const live = await parseDefinition(replaced(HEALTHY_XML, fault.live), 'web');
  const [disk] = definition.disks;
  const image: ImageFacts = {
    target: 'vda',
    path: disk?.source.file ?? '',
    readOnly: disk?.readonly ?? false,
    shareable: disk?.shareable ?? false,
    hangs: false,
    file: known({ ...FILE, mount: { ...NFS, ...fault.mount }, ...fault.file }),
    ...fault.image,
  };
  const guest: GuestFacts = {
    name: 'web',
    uuid: definition.uuid,
    resource: configuration.resources.find(({ id }) => id === 'web'),
    config: '/srv/images/web.xml',
    definition: known(definition),
    parameterProblems: [],
    setErrorPolicy: true,
    policy: known(DEFAULT_POLICY),
    policyPath: '/etc/kvmha/policy.yaml',
    domain: { persistent: false, autostart: false, managedSave: false },
    images: [image],
    running:
      fault.running === undefined && fault.live === undefined
        ? undefined
        : {
            pid: 4711,
            ownSocket: true,
            preserved: false,
            refusals: known([]),
            definition: known(live),
            label: undefined,
            ...fault.running,
          },
    destination: { kind: 'node', why: '' },
    missing: [],
    ...fault.guest,
  };
  return {
    node: 'node1',
    now: 1000,
    host: { ...HOST, ...fault.host },
    libvirt: known({ ...HYPERVISOR, ...fault.libvirt }),
    cluster: known({ configuration, hasController: true, quorum: true, ...fault.cluster }),
    others: new Map([
      ['node2', known({ ...HYPERVISOR, uuid: '6b766d68-610a-4c61-8000-000000000002', ...fault.other })],
    ]),
    clusterHangs: false,
    unreachable: [],
    guests: [guest],
    ...fault.facts,
  };
}

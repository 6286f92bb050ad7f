import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import { type Facts, type GuestFacts, known, unknown } from '../../../lib/doctor/facts.ts';
import { type Finding, SEVERITIES, type Severity } from '../../../lib/doctor/finding.ts';
import { judge } from '../../../lib/doctor/judge.ts';
import * as cluster from '../../../lib/doctor/rules/cluster.ts';
import * as disk from '../../../lib/doctor/rules/disk.ts';
import * as guest from '../../../lib/doctor/rules/guest.ts';
import * as host from '../../../lib/doctor/rules/host.ts';
import * as resource from '../../../lib/doctor/rules/resource.ts';
import { DEFAULT_POLICY } from '../../../lib/policy.ts';
import { type Fault, factsWith } from './healthy.ts';

type GuestRule = (guest: GuestFacts, facts: Facts) => Finding[];
type AnyRule = ((facts: Facts) => Finding[]) | GuestRule;

interface Case {
  readonly what: string;
  readonly fault: Fault;
  /** What is found: the severity, the rule's name, and what the reason or the fix says. */
  readonly found: readonly (readonly [Severity, string, ...RegExp[]])[];
}

const MONITOR = '<op name="monitor" timeout="30s" interval="10s" id="web-monitor"/>';
const MIGRATE_TO = '<op name="migrate_to" timeout="120s" interval="0" id="web-migrate_to"/>';
const STOP = '<op name="stop" timeout="90s" interval="0" id="web-stop"/>';
const START = '<op name="start" timeout="90s" interval="0" id="web-start"/>';
const DRIVER = "cache='none' error_policy='stop' rerror_policy='stop'";
const OPTION = '<nvpair id="stonith-enabled" name="stonith-enabled" value="true"/>';
const option = (name: string, value: string) =>
  [OPTION, `${OPTION}<nvpair id="${name}" name="${name}" value="${value}"/>`] as const;
const WATCHER = '<primitive id="watch" class="ocf" provider="kvmha" type="KvmWatch"/>';
const watcher = (meta: string) =>
  [
    '</primitive>\n    </resources>',
    `</primitive><clone id="watch-clone">${meta}${WATCHER}</clone></resources>`,
  ] as const;
const policy = (changes: Partial<typeof DEFAULT_POLICY>): Fault => ({
  guest: { policy: known({ ...DEFAULT_POLICY, ...changes }) },
});
const NOT_ASKED = unknown('nobody answers');

/** For each rule the faults that it finds. That it finds nothing in the healthy facts is tested once, for all. */
const CASES: ReadonlyMap<AnyRule, readonly Case[]> = new Map<AnyRule, readonly Case[]>([
  // The host.
  [
    host.libvirtSilent,
    [
      {
        what: 'libvirt does not answer',
        fault: { facts: { libvirt: NOT_ASKED } },
        found: [['error', 'libvirt-silent', /nobody answers/, /systemctl restart libvirtd/]],
      },
    ],
  ],
  [
    host.qemuVersion,
    [
      {
        what: 'a QEMU that was not examined',
        fault: { libvirt: { qemuVersion: '6.2.0' }, other: { qemuVersion: '6.2.0' } },
        found: [['warning', 'qemu-version', /6\.2\.0 is older than 7\.2\.0/]],
      },
      {
        what: 'a QEMU without blockdev-reopen',
        fault: { libvirt: { qemuVersion: '5.2.0' }, other: { qemuVersion: '5.2.0' } },
        found: [['error', 'qemu-version', /cannot do what a proof needs/]],
      },
      {
        what: 'nothing wrong with a later one',
        fault: { libvirt: { qemuVersion: '10.0.2' }, other: { qemuVersion: '10.0.2' } },
        found: [],
      },
    ],
  ],
  [
    host.libvirtVersion,
    [
      {
        what: 'an old libvirt',
        fault: { libvirt: { libvirtVersion: '5.9.0' } },
        found: [['error', 'libvirt-version']],
      },
    ],
  ],
  [
    host.sameHostUuid,
    [
      {
        what: 'two nodes with one host uuid',
        fault: { other: { uuid: '6b766d68-610a-4c61-8000-000000000001' } },
        found: [['error', 'same-host-uuid', /on node1 and on node2/, /libvirtd\.conf/]],
      },
    ],
  ],
  [
    host.otherNodeSilent,
    [
      {
        what: 'a node that no migration reaches',
        fault: {
          facts: {
            unreachable: [
              { node: 'node2', uri: 'qemu+ssh://node2/system', why: 'no route', guests: ['web', 'db'] },
            ],
          },
        },
        found: [
          [
            'warning',
            'other-node-silent',
            /libvirt of node2 .* of web, db would reach it \(no route\)/,
            /^virsh --connect qemu\+ssh:\/\/node2\/system uri/m,
          ],
        ],
      },
    ],
  ],
  [
    host.differentQemu,
    [
      {
        what: 'nodes with different QEMUs',
        fault: { other: { qemuVersion: '10.0.2' } },
        found: [['note', 'different-qemu', /7\.2\.22 on node1 and 10\.0\.2 on node2/]],
      },
    ],
  ],
  [
    host.libvirtGuests,
    [
      {
        what: 'libvirt-guests beside the cluster',
        fault: { host: { libvirtGuests: { enabled: true, onBoot: 'ignore', onShutdown: 'shutdown' } } },
        found: [
          ['warning', 'libvirt-guests', /shuts down the guests/, /disable libvirt-guests +# not with --now/],
        ],
      },
      {
        what: 'libvirt-guests that saves, or starts, guests',
        fault: { host: { libvirtGuests: { enabled: true, onBoot: 'start', onShutdown: 'suspend' } } },
        found: [['error', 'libvirt-guests', /saves the guests.*starts them past the cluster/]],
      },
    ],
  ],
  [
    host.clockIsNotKept,
    [
      {
        what: 'no time daemon',
        fault: { host: { clockIsKept: false } },
        found: [['note', 'clock-not-kept']],
      },
    ],
  ],
  [
    host.clockAhead,
    [
      {
        what: 'a node whose clock is ahead',
        fault: { facts: { now: 900 } },
        found: [['warning', 'clock-ahead', /100 seconds in the future of node1/]],
      },
      { what: 'nothing within a few seconds', fault: { facts: { now: 998 } }, found: [] },
    ],
  ],
  [
    host.noWatcher,
    [
      {
        what: 'no watcher',
        fault: { host: { watcher: known('none') } },
        found: [['warning', 'no-watcher', /ocf:kvmha:KvmWatch/]],
      },
      {
        what: 'a watcher that hangs',
        fault: { host: { watcher: NOT_ASKED } },
        found: [['warning', 'watcher-silent']],
      },
    ],
  ],
  [
    host.sanlock,
    [
      {
        what: 'sanlock',
        fault: { host: { lockManager: 'sanlock' } },
        found: [['warning', 'sanlock', /<on_lockfailure>/]],
      },
      { what: 'nothing wrong with lockd', fault: { host: { lockManager: 'lockd' } }, found: [] },
    ],
  ],
  [
    host.lostLocks,
    [
      {
        what: 'locks that are taken again',
        fault: { host: { recoversLostLocks: true } },
        found: [['error', 'lost-locks', /recover_lost_locks/]],
      },
    ],
  ],

  // The cluster.
  [
    cluster.noCluster,
    [
      {
        what: 'no cluster',
        fault: { facts: { cluster: NOT_ASKED } },
        found: [['warning', 'no-cluster', /systemctl start pacemaker/]],
      },
      {
        what: 'a cluster that hangs, which must not be restarted',
        fault: { facts: { cluster: NOT_ASKED, clusterHangs: true } },
        found: [['warning', 'no-cluster', /nobody answers\)\njournalctl/]],
      },
    ],
  ],
  [
    cluster.noController,
    [
      {
        what: 'no quorum',
        fault: { cluster: { quorum: false } },
        found: [['error', 'no-quorum', /no quorum/]],
      },
    ],
  ],
  [
    cluster.stonithDisabled,
    [
      {
        what: 'fencing that is switched off',
        fault: { cib: [['name="stonith-enabled" value="true"', 'name="stonith-enabled" value="false"']] },
        found: [['error', 'stonith-disabled', /crm_attribute --name stonith-enabled --update true/]],
      },
    ],
  ],
  [
    cluster.noFenceDevice,
    [
      {
        what: 'no fence device',
        fault: { cib: [['<primitive id="fence" class="stonith" type="fence_ipmilan"/>', '']] },
        found: [['error', 'no-fence-device']],
      },
    ],
  ],
  [
    cluster.quorumIgnored,
    [
      {
        what: 'no-quorum-policy=ignore',
        fault: { cib: [option('no-quorum-policy', 'ignore')] },
        found: [['warning', 'quorum-ignored']],
      },
    ],
  ],
  [
    cluster.inMaintenance,
    [
      {
        what: 'maintenance mode',
        fault: { cib: [option('maintenance-mode', 'true')] },
        found: [['warning', 'maintenance-mode', /crm_attribute --name maintenance-mode --delete/]],
      },
    ],
  ],
  [
    cluster.stopAllResources,
    [
      {
        what: 'stop-all-resources',
        fault: { cib: [option('stop-all-resources', 'true')] },
        found: [['warning', 'stop-all-resources']],
      },
    ],
  ],
  [
    cluster.oneNode,
    [
      {
        what: 'a cluster of one node',
        fault: { cib: [['<node id="2" uname="node2"/>', '']] },
        found: [['warning', 'one-node']],
      },
    ],
  ],
  [
    cluster.watcherMovedAway,
    [
      {
        what: 'a watcher that leaves a red node',
        fault: { cib: [option('node-health-strategy', 'migrate-on-red'), watcher('')] },
        found: [
          [
            'warning',
            'watcher-moved-away',
            /--resource watch-clone --meta --set-parameter allow-unhealthy-nodes --parameter-value true/,
          ],
        ],
      },
      {
        what: 'nothing wrong with one that stays there',
        fault: {
          cib: [
            option('node-health-strategy', 'only-green'),
            watcher(
              '<meta_attributes id="wm"><nvpair id="wa" name="allow-unhealthy-nodes" value="true"/></meta_attributes>',
            ),
          ],
        },
        found: [],
      },
      { what: 'nothing wrong where health moves nothing', fault: { cib: [watcher('')] }, found: [] },
    ],
  ],
  [
    cluster.virtualDomain,
    [
      {
        what: 'a guest of VirtualDomain',
        fault: {
          cib: [
            [
              'provider="kvmha" type="KvmGuest">\n        <inst',
              'provider="heartbeat" type="VirtualDomain">\n        <inst',
            ],
          ],
        },
        found: [['note', 'virtual-domain', /kvmha configure web --apply/]],
      },
    ],
  ],
  [
    cluster.closedNodes,
    [
      {
        what: 'a node that lacks the agent',
        fault: { cib: [['rc-code="7" exit-reason=""', 'rc-code="5" exit-reason="no such file"']] },
        found: [
          [
            'error',
            'closed-node',
            /node2 cannot run web.*no such file/,
            /--cleanup --resource web --node node2/,
          ],
        ],
      },
    ],
  ],

  // The resource.
  [
    resource.noPreservedRule,
    [
      {
        what: 'no rule on the preserved copy',
        fault: { cib: [['<rule score="-INFINITY"', '<rule score="100"']] },
        found: [
          [
            'error',
            'no-preserved-rule',
            /crm configure location web-where-not-preserved web rule -inf: kvmha-preserved-web eq 1/,
          ],
        ],
      },
      {
        what: 'a rule on another guest',
        fault: { cib: [['attribute="kvmha-preserved-web"', 'attribute="kvmha-preserved-db"']] },
        found: [['error', 'no-preserved-rule']],
      },
    ],
  ],
  [
    resource.migrationThreshold,
    [
      {
        what: 'another migration-threshold',
        fault: { cib: [['name="migration-threshold" value="1"', 'name="migration-threshold" value="3"']] },
        found: [
          [
            'warning',
            'migration-threshold',
            /is 3/,
            /--set-parameter migration-threshold --parameter-value 1/,
          ],
        ],
      },
    ],
  ],
  [
    resource.multipleActive,
    [
      {
        what: 'another multiple-active',
        fault: { cib: [['value="stop_unexpected"', 'value="stop_start"']] },
        found: [['warning', 'multiple-active', /is stop_start/]],
      },
    ],
  ],
  [
    resource.allowMigrate,
    [
      {
        what: 'no live migration',
        fault: { cib: [['<nvpair name="allow-migrate" value="true" id="web-meta-1"/>', '']] },
        found: [['warning', 'allow-migrate']],
      },
    ],
  ],
  [
    resource.unmanaged,
    [
      {
        what: 'a guest that is not managed',
        fault: {
          cib: [
            [
              '<meta_attributes id="web-meta">',
              '<meta_attributes id="web-meta"><nvpair id="m" name="is-managed" value="false"/>',
            ],
          ],
        },
        found: [['warning', 'unmanaged']],
      },
    ],
  ],
  [
    resource.noMonitor,
    [
      { what: 'no monitor', fault: { cib: [[MONITOR, '']] }, found: [['error', 'no-monitor']] },
      {
        what: 'a monitor that is switched off',
        fault: { cib: [[MONITOR, MONITOR.replace('/>', ' enabled="false"/>')]] },
        found: [['error', 'no-monitor']],
      },
      {
        what: 'only one for role Stopped',
        fault: { cib: [[MONITOR, MONITOR.replace('/>', ' role="Stopped"/>')]] },
        found: [['error', 'no-monitor']],
      },
    ],
  ],
  [
    resource.rareMonitor,
    [
      {
        what: 'a monitor every five minutes',
        fault: { cib: [[MONITOR, MONITOR.replace('10s', '5min')]] },
        found: [['warning', 'rare-monitor', /every 300 s/]],
      },
    ],
  ],
  [
    resource.shortTimeouts,
    [
      {
        what: 'a short timeout',
        fault: { cib: [[START, START.replace('90s', '1min')]] },
        found: [
          ['warning', 'short-timeout', /start is 60 s, and 90 s/, /<op id="web-start" timeout="90s"\/>/],
        ],
      },
      {
        what: 'an operation that is not configured',
        fault: { cib: [[MIGRATE_TO, '']] },
        found: [['warning', 'short-timeout', /migrate_to is not configured/]],
      },
    ],
  ],
  [
    resource.stopWithoutReserve,
    [
      {
        what: 'a stop without time to shut down',
        fault: policy({ stop: { forcedEndReserve: 90 } }),
        found: [['error', 'stop-without-reserve', /90 s and the policy's stop\.forced-end-reserve 90 s/]],
      },
    ],
  ],
  [
    resource.failureIgnored,
    [
      {
        what: 'a failed stop that is ignored',
        fault: { cib: [[STOP, STOP.replace('/>', ' on-fail="ignore"/>')]] },
        found: [['error', 'failure-ignored', /may run twice/, /on-fail="fence"/]],
      },
      {
        what: 'a failed monitor that is ignored',
        fault: { cib: [[MONITOR, MONITOR.replace('/>', ' on-fail="ignore"/>')]] },
        found: [['error', 'failure-ignored', /on-fail="restart"/]],
      },
    ],
  ],
  [
    resource.stoppedMonitor,
    [
      {
        what: 'a monitor for role Stopped without stop_unexpected',
        fault: {
          cib: [
            ['value="stop_unexpected"', 'value="block"'],
            [
              MONITOR,
              `${MONITOR}<op name="monitor" role="Stopped" interval="31s" timeout="30s" id="web-stopped"/>`,
            ],
          ],
        },
        found: [['warning', 'stopped-monitor']],
      },
    ],
  ],
  [
    resource.wrongParameters,
    [
      {
        what: 'a parameter that is wrong',
        fault: { guest: { parameterProblems: ['policy: cannot read the file'] } },
        found: [['error', 'wrong-parameter', /cannot be started on node1: policy: cannot read/]],
      },
    ],
  ],

  // The guest.
  [
    guest.unreadableDefinition,
    [
      {
        what: 'an XML that is not here',
        fault: { guest: { definition: unknown('ENOENT'), images: [] } },
        found: [['error', 'unreadable-definition', /ENOENT/]],
      },
      {
        what: 'nothing wrong with one that a silent libvirt alone has',
        fault: {
          guest: { definition: NOT_ASKED, config: undefined, images: [] },
          facts: { libvirt: NOT_ASKED },
        },
        found: [],
      },
    ],
  ],
  [
    guest.noResource,
    [
      {
        what: 'a guest that no resource runs',
        fault: { guest: { resource: undefined } },
        found: [['note', 'no-resource', /kvmha configure/]],
      },
      {
        what: 'one that runs here',
        fault: { guest: { resource: undefined }, running: {} },
        found: [['warning', 'no-resource']],
      },
    ],
  ],
  [
    guest.policyErrors,
    [
      {
        what: 'a policy with an error',
        fault: { guest: { policy: unknown('policy.yaml:2: quiese is not a known key') } },
        found: [['error', 'policy-error', /quiese is not a known key/, /kvmha policy check/]],
      },
    ],
  ],
  [
    guest.neverQuiesced,
    [
      {
        what: 'quiescing that is switched off',
        fault: policy({ quiesce: { ...DEFAULT_POLICY.quiesce, enabled: false } }),
        found: [['warning', 'never-quiesced']],
      },
    ],
  ],
  [
    guest.nodesNotAsked,
    [
      {
        what: 'other nodes that are not asked',
        fault: policy({ quiesce: { ...DEFAULT_POLICY.quiesce, requireEligibleNode: false } }),
        found: [['note', 'nodes-not-asked']],
      },
    ],
  ],
  [
    guest.onlyObserved,
    [
      {
        what: 'a watcher that only observes',
        fault: policy({ watch: { ...DEFAULT_POLICY.watch, mode: 'observe' } }),
        found: [['note', 'only-observed']],
      },
    ],
  ],
  [
    guest.autostart,
    [
      {
        what: 'autostart',
        fault: { guest: { domain: { persistent: false, autostart: true, managedSave: false } } },
        found: [['error', 'autostart', /virsh autostart --disable web/]],
      },
    ],
  ],
  [
    guest.managedSave,
    [
      {
        what: 'a managed save',
        fault: { guest: { domain: { persistent: false, autostart: false, managedSave: true } } },
        found: [['error', 'managed-save', /virsh managedsave-remove web/]],
      },
    ],
  ],
  [
    guest.persistentDefinition,
    [
      {
        what: 'a persistent definition',
        fault: { guest: { domain: { persistent: true, autostart: false, managedSave: false } } },
        found: [['note', 'persistent-definition', /^virsh undefine web$/m]],
      },
      {
        what: 'one that is the configuration itself, which undefine would delete',
        fault: {
          guest: {
            domain: { persistent: true, autostart: false, managedSave: false },
            config: '/etc/libvirt/qemu/web.xml',
          },
        },
        found: [['note', 'persistent-definition', /^cp .* only then: virsh undefine web/m]],
      },
    ],
  ],
  [
    guest.preservedHere,
    [
      {
        what: 'a preserved copy',
        fault: { running: { preserved: true } },
        found: [['warning', 'preserved-here', /kvmha release web/]],
      },
    ],
  ],
  [
    guest.cannotBeProved,
    [
      {
        what: 'what its QEMU tells is refused',
        fault: {
          running: { refusals: known(['device fs0 is a vhost-user-fs-pci', 'it is on the network']) },
        },
        found: [
          ['error', 'cannot-be-proved', /fs0/],
          ['error', 'cannot-be-proved', /on the network/],
        ],
      },
      {
        what: 'what the XML of a stopped guest shows to be refused',
        fault: {
          xml: [
            ["<interface type='bridge'>", "<hostdev mode='subsystem' type='pci'/><interface type='bridge'>"],
          ],
        },
        found: [['error', 'cannot-be-proved', /<hostdev>/]],
      },
      {
        what: 'a QEMU that does not answer',
        fault: { running: { refusals: NOT_ASKED } },
        found: [['warning', 'not-assessed', /kvmha proof web/]],
      },
    ],
  ],
  [
    guest.noOwnSocket,
    [
      {
        what: 'a guest that was adopted',
        fault: { running: { ownSocket: false } },
        found: [['note', 'no-own-socket', /crm_resource --restart --resource web/]],
      },
    ],
  ],
  [
    guest.longName,
    [
      {
        what: 'a name too long for a socket, where AppArmor goes by the name',
        fault: { guest: { name: 'w'.repeat(100) }, libvirt: { confinement: ['apparmor'] } },
        found: [['warning', 'long-name', /local\/abstractions\/libvirt-qemu/]],
      },
      {
        what: 'nothing wrong with it without AppArmor',
        fault: { guest: { name: 'w'.repeat(100) }, libvirt: { confinement: [] } },
        found: [],
      },
      {
        what: 'nothing wrong with a name that fits',
        fault: { guest: { name: 'w'.repeat(71) }, libvirt: { confinement: ['apparmor'] } },
        found: [],
      },
    ],
  ],
  [
    guest.noDestination,
    [
      {
        what: 'no node to fail over to',
        fault: { guest: { destination: { kind: 'nowhere', why: 'node2 is in standby' } } },
        found: [['error', 'no-destination', /node2 is in standby/]],
      },
      {
        what: 'a scheduler that does not answer',
        fault: { guest: { destination: { kind: 'unknown', why: 'crm_simulate hangs' } } },
        found: [['warning', 'no-destination', /crm_simulate hangs/]],
      },
    ],
  ],
  [
    guest.onCrash,
    [
      {
        what: 'on_crash=restart',
        fault: { xml: [['<on_crash>destroy', '<on_crash>restart']] },
        found: [['warning', 'on-crash', /<on_crash>destroy<\/on_crash>/]],
      },
      {
        what: 'nothing wrong with preserve',
        fault: { xml: [['<on_crash>destroy', '<on_crash>preserve']] },
        found: [],
      },
    ],
  ],
  [
    guest.onReboot,
    [
      {
        what: 'on_reboot=destroy',
        fault: { xml: [['<on_reboot>restart', '<on_reboot>destroy']] },
        found: [['warning', 'on-reboot', /<on_reboot>restart<\/on_reboot>/]],
      },
    ],
  ],
  [
    guest.onPoweroff,
    [
      {
        what: 'on_poweroff=restart',
        fault: { xml: [['<on_poweroff>destroy', '<on_poweroff>restart']] },
        found: [['error', 'on-poweroff', /<on_poweroff>destroy<\/on_poweroff>/]],
      },
    ],
  ],
  [
    guest.machineAlias,
    [
      {
        what: 'a machine type without a version',
        fault: { xml: [["machine='pc-q35-7.2'", "machine='pc'"]] },
        found: [['warning', 'machine-alias', /pc-i440fx-7\.2 here/, /machine='pc-i440fx-7\.2'/]],
      },
      {
        what: 'no machine type',
        fault: { xml: [[" machine='pc-q35-7.2'", '']] },
        found: [['warning', 'machine-alias', /none, so pc/]],
      },
    ],
  ],
  [
    guest.cpuModel,
    [
      {
        what: 'the CPU of the host, where hosts differ',
        fault: { xml: [["mode='custom'", "mode='host-passthrough'"]], other: { cpu: 'Intel Skylake' } },
        found: [['error', 'cpu-model', /host-passthrough, and the processors of node1 and node2 differ/]],
      },
      {
        what: 'nothing where they are the same',
        fault: { xml: [["mode='custom'", "mode='host-model'"]] },
        found: [],
      },
    ],
  ],
  [
    guest.noKvm,
    [
      {
        what: 'a host without KVM',
        fault: { host: { hasKvm: false } },
        found: [['error', 'no-kvm', /modprobe/]],
      },
    ],
  ],
  [
    guest.missingHere,
    [
      {
        what: 'a bridge that is not here',
        fault: { guest: { missing: ['the bridge br0'] } },
        found: [['error', 'missing-here', /the bridge br0/]],
      },
    ],
  ],
  [
    guest.confined,
    [
      {
        what: 'a confined guest',
        fault: { running: { label: 'system_u:system_r:svirt_t:s0:c1,c2' } },
        found: [['note', 'confined', /svirt_t/]],
      },
      {
        what: 'one that could not make its socket',
        fault: { running: { label: 'libvirt-6b76 (enforce)', ownSocket: false } },
        found: [['warning', 'confined', /no QMP socket/]],
      },
    ],
  ],

  // Disks.
  [
    disk.errorPolicy,
    [
      {
        what: 'errors that are passed to the guest',
        fault: { xml: [[DRIVER, "cache='none' error_policy='report'"]] },
        found: [
          [
            'error',
            'error-policy',
            /error_policy is report and rerror_policy is report on disk vda/,
            /error_policy='stop' rerror_policy='stop'/,
          ],
        ],
      },
      {
        what: 'read errors that are ignored',
        fault: { xml: [["rerror_policy='stop'", "rerror_policy='ignore'"]] },
        found: [['error', 'error-policy', /: QEMU passes|rerror_policy is ignore/]],
      },
      { what: 'nothing where the agent adds them', fault: { xml: [[DRIVER, "cache='none'"]] }, found: [] },
      {
        what: 'that they are not set where the agent must not add them',
        fault: { xml: [[DRIVER, "cache='none'"]], guest: { setErrorPolicy: false } },
        found: [['error', 'error-policy', /error_policy is not set/]],
      },
    ],
  ],
  [
    disk.errorPolicyNow,
    [
      {
        what: 'a guest that runs without them',
        fault: { xml: [[DRIVER, "cache='none'"]], live: [[DRIVER, "cache='none'"]] },
        found: [['warning', 'error-policy-now', /disk vda/]],
      },
    ],
  ],
  [
    disk.cacheMode,
    [
      {
        what: 'a host page cache',
        fault: { xml: [["cache='none'", "cache='writeback'"]] },
        found: [['warning', 'cache-mode', /cache is writeback on disk vda/, /cache='none'/]],
      },
      {
        what: "that it is libvirt's default",
        fault: { xml: [["cache='none' ", '']] },
        found: [['warning', 'cache-mode', /not set \(writeback\)/]],
      },
    ],
  ],
  [
    disk.imageMissing,
    [
      {
        what: 'an image that is not here',
        fault: { image: { file: unknown('No such file or directory') } },
        found: [['error', 'image-unseen', /web\.qcow2 of disk vda.*No such file/]],
      },
    ],
  ],
  [
    disk.localStorage,
    [
      {
        what: 'a local file system',
        fault: { mount: { type: 'ext4' } },
        found: [['error', 'local-storage', /ext4 at \/srv\/images/]],
      },
      {
        what: 'one that the cluster moves',
        fault: {
          mount: { type: 'xfs' },
          cib: [
            [
              '<primitive id="fence"',
              '<primitive id="fs" class="ocf" provider="heartbeat" type="Filesystem"><instance_attributes id="fs-i"><nvpair id="fs-d" name="directory" value="/srv/images"/></instance_attributes></primitive><primitive id="fence"',
            ],
          ],
        },
        found: [['warning', 'local-storage', /one node at a time can mount/]],
      },
      {
        what: 'nothing on a node of its own',
        fault: { mount: { type: 'ext4' }, facts: { cluster: NOT_ASKED } },
        found: [],
      },
    ],
  ],
  [
    disk.localLocks,
    [
      {
        what: 'NFS whose locks are local',
        fault: { mount: { type: 'nfs', options: ['vers=3', 'hard', 'nolock', 'local_lock=all'] } },
        found: [['error', 'local-locks', /nfs mounted with nolock/]],
      },
      {
        what: 'GFS2 whose locks are local',
        fault: { mount: { type: 'gfs2', options: ['rw', 'localflocks'] } },
        found: [['error', 'local-locks', /gfs2 mounted with localflocks/]],
      },
      {
        what: 'nothing wrong with flock(2) locks that are local, which QEMU does not take',
        fault: { mount: { type: 'nfs', options: ['vers=3', 'local_lock=flock'] } },
        found: [],
      },
    ],
  ],
  [
    disk.nfsVersion,
    [
      {
        what: 'NFS 3',
        fault: { mount: { type: 'nfs', options: ['vers=3', 'hard', 'local_lock=none'] } },
        found: [['note', 'nfs-version']],
      },
    ],
  ],
  [
    disk.unlockedDevice,
    [
      {
        what: 'a block device that nothing locks',
        fault: { file: { kind: 'block' } },
        found: [['note', 'unlocked-device', /qemu-lockd\.conf/]],
      },
      {
        what: 'nothing wrong with one that lockd locks',
        fault: { file: { kind: 'block' }, host: { lockManager: 'lockd' } },
        found: [],
      },
    ],
  ],
  [
    disk.softMount,
    [
      {
        what: 'NFS mounted soft',
        fault: { mount: { options: ['vers=4.2', 'soft'] } },
        found: [['error', 'soft-mount', /remount,hard \/srv\/images/]],
      },
    ],
  ],
  [
    disk.imageAccess,
    [
      {
        what: 'a folder that qemu may not enter',
        fault: {
          file: {
            access: [
              { path: '/srv/images/web.qcow2', mode: 0o600, uid: 64055, gid: 64055 },
              { path: '/srv/images', mode: 0o700, uid: 0, gid: 0 },
            ],
          },
        },
        found: [['error', 'image-access', /may not enter \/srv\/images/, /chmod o\+x \/srv\/images/]],
      },
      {
        what: 'an image that qemu may not write',
        fault: {
          host: { dynamicOwnership: false },
          file: { access: [{ path: '/srv/images/web.qcow2', mode: 0o640, uid: 0, gid: 109 }] },
        },
        found: [['error', 'image-access', /may not write/, /chown libvirt-qemu/]],
      },
      {
        what: 'nothing where libvirt hands it over',
        fault: { file: { access: [{ path: '/srv/images/web.qcow2', mode: 0o600, uid: 0, gid: 0 }] } },
        found: [],
      },
    ],
  ],
]);

describe('a healthy cluster', () => {
  it('has no findings, whether its guest runs here or not', async () => {
    assert.deepEqual(judge(await factsWith()), []);
    assert.deepEqual(judge(await factsWith({ running: {} })), []);
  });
});

const RULES = [
  ...host.HOST_RULES,
  ...cluster.CLUSTER_RULES,
  ...resource.RESOURCE_RULES,
  ...guest.GUEST_RULES,
  ...disk.DISK_RULES,
] as const;
const NAMES = new Map<unknown, string>(
  [host, cluster, resource, guest, disk].flatMap((module) =>
    Object.entries(module).map(([name, rule]) => [rule, name] as const),
  ),
);

/** What one rule alone finds. */
function findings(rule: AnyRule, facts: Facts): Finding[] {
  return isAboutGuests(rule) ? facts.guests.flatMap((each) => rule(each, facts)) : rule(facts);
}

function isAboutGuests(rule: AnyRule): rule is GuestRule {
  return [...resource.RESOURCE_RULES, ...guest.GUEST_RULES, ...disk.DISK_RULES].some((each) => each === rule);
}

for (const [rule, cases] of CASES) {
  describe(`the rule ${NAMES.get(rule)}`, () => {
    for (const { what, fault, found } of cases) {
      it(`finds ${what}`, async () => {
        const seen = findings(rule, await factsWith(fault));
        assert.deepEqual(
          seen.map(({ severity, rule: name }) => [severity, name]),
          found.map(([severity, name]) => [severity, name]),
        );
        for (const [index, [, , ...patterns]] of found.entries()) {
          const { reason, fix } = seen[index] as Finding;
          for (const pattern of patterns) {
            assert.match(`${reason}\n${fix}`, pattern);
          }
          assert.notEqual(fix, '');
          assert.doesNotMatch(reason, /\.$|undefined/);
        }
      });
    }
  });
}

describe('two guests', () => {
  async function twoGuests(change: (guest: GuestFacts) => GuestFacts): Promise<Facts> {
    const facts = await factsWith();
    const [first] = facts.guests;
    assert.ok(first);
    return { ...facts, guests: [first, change(first)] };
  }
  const resourceOf = (each: GuestFacts, id: string) =>
    each.resource === undefined ? undefined : { ...each.resource, id };

  it('are found to be the same domain', async () => {
    const facts = await twoGuests((each) => ({ ...each, resource: resourceOf(each, 'web2') }));
    const [finding, ...more] = cluster.sameDomain(facts);
    assert.deepEqual(more, []);
    assert.match(finding?.reason ?? '', /resources web and web2 are the same domain web/);
  });

  it('are found to write to one image, unless it is read-only or shareable', async () => {
    const facts = await twoGuests((each) => ({ ...each, name: 'db' }));
    const found = facts.guests.flatMap((each) => disk.sameImage(each, facts));
    assert.deepEqual(
      found.map(({ subject, rule }) => [subject, rule]),
      [['db', 'same-image']],
    );
    for (const change of [{ readOnly: true }, { shareable: true }]) {
      const shared = await twoGuests((each) => ({
        ...each,
        name: 'db',
        images: each.images.map((image) => ({ ...image, ...change })),
      }));
      assert.deepEqual(
        shared.guests.flatMap((each) => disk.sameImage(each, shared)),
        [],
      );
    }
  });

  it('are told apart where one is asked about', async () => {
    const facts = await twoGuests((each) => ({
      ...each,
      name: 'db',
      resource: resourceOf(each, 'db'),
      policy: unknown('no'),
    }));
    const subjects = (only?: string) => new Set(judge(facts, only).map(({ subject }) => subject));
    assert.ok(subjects('db').has('db'));
    assert.ok(!subjects('web').has('db'));
  });
});

describe('docs/doctor.md', () => {
  it('names every rule, with the worst that it finds', () => {
    const manual = readFileSync(new URL('../../../docs/doctor.md', import.meta.url), 'utf8');
    const rows = [...manual.matchAll(/^\| (`.*`) \| (\w+) \|/gm)].map(([, names = '', worst = '']) => ({
      names: [...names.matchAll(/`([^`]+)`/g)].map((match) => match[1] ?? ''),
      worst,
    }));
    const found = new Map<string, Severity>([
      ['same-domain', 'error'],
      ['same-image', 'error'],
    ]);
    for (const [severity, rule] of [...CASES.values()].flatMap((cases) =>
      cases.flatMap((each) => each.found),
    )) {
      const before = found.get(rule) ?? 'note';
      found.set(rule, SEVERITIES.indexOf(severity) < SEVERITIES.indexOf(before) ? severity : before);
    }
    assert.deepEqual(rows.flatMap(({ names }) => names).sort(), [...found.keys()].sort());
    for (const { names, worst } of rows) {
      const severities = names.map((name) => SEVERITIES.indexOf(found.get(name) ?? 'note'));
      assert.equal(worst, SEVERITIES[Math.min(...severities)], names.join());
    }
  });
});

describe('the rules', () => {
  it('have a test each', () => {
    const tested = new Set<unknown>([...CASES.keys(), cluster.sameDomain, disk.sameImage]);
    assert.deepEqual(
      RULES.filter((rule) => !tested.has(rule)).map((rule) => NAMES.get(rule)),
      [],
    );
  });

  it('put the worst first', async () => {
    const facts = await factsWith({
      host: { clockIsKept: false, watcher: known('none') },
      cluster: { quorum: false },
    });
    assert.deepEqual(
      judge(facts).map(({ severity }) => severity),
      ['error', 'warning', 'note'],
    );
  });
});

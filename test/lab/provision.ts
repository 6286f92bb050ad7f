import { chmodSync, mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';

/** The lab's network; node N has the host part N. */
const NETWORK = '10.77.0';

export function nodeNames(count: number): string[] {
  return Array.from({ length: count }, (_, index) => `node${index + 1}`);
}

/** The address of node `number`, counted from 1. */
export function addressOf(number: number): string {
  return `${NETWORK}.${number}`;
}

export interface Provision {
  /** Counted from 1. */
  readonly number: number;
  readonly nodes: readonly string[];
  /** Lines for /etc/libvirt/qemu.conf behind the lab's own, so that they win. */
  readonly qemuConf: string;
  /** The Node.js binary and the file that make up the fence agent. */
  readonly node: string;
  readonly fenceAgent: string;
  /** The scripts beside this file that a node gets as commands. */
  readonly scripts: string;
}

/**
 * Writes below `root` the files that make a copy of the host's root into a node. Process 1 of the node lays them
 * over the root at its first boot, after it has removed what the host itself had there.
 */
export function provision(root: string, what: Provision): void {
  for (const [path, content] of Object.entries(files(what))) {
    const file = join(root, path);
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, content);
    if (path.includes('/sbin/') || path.includes('/bin/')) {
      chmodSync(file, 0o755);
    }
  }
}

function files(what: Provision): Record<string, string> {
  const { number, nodes } = what;
  const address = addressOf(number);
  return {
    '/etc/hostname': `${nodes[number - 1]}\n`,
    '/etc/hosts': [
      '127.0.0.1 localhost',
      ...nodes.map((name, index) => `${addressOf(index + 1)} ${name}`),
      '',
    ].join('\n'),
    '/etc/resolv.conf': '',
    '/etc/libvirt/libvirtd.conf': `\
listen_tls = 0
listen_tcp = 1
auth_tcp = "none"
auth_unix_ro = "none"
auth_unix_rw = "none"
# Migration refuses a target with the same UUID, and without machine firmware tables every node would have the host's.
host_uuid = "6b766d68-610a-4c61-8000-00000000000${number}"
log_outputs = "3:file:/var/log/libvirt/libvirtd.log"
`,
    // No cgroups and no mount namespace per guest: both belong to the host here. migration_address as a number,
    // because the target hands it to the source. A line of qemuConf overrides its counterpart.
    '/etc/libvirt/qemu.conf': override(
      `\
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
namespaces = []
cgroup_controllers = []
stdio_handler = "logd"
migration_address = "${address}"
`,
      what.qemuConf,
    ),
    '/etc/corosync/corosync.conf': corosyncConf(nodes),
    // dc-deadtime is how long a cold cluster waits for more nodes before its first election: 20 s by default.
    '/var/lib/pacemaker/cib/cib.xml': `\
<cib crm_feature_set="3.16.1" validate-with="pacemaker-3.9" epoch="1" num_updates="0" admin_epoch="0">
  <configuration>
    <crm_config>
      <cluster_property_set id="cib-bootstrap-options">
        <nvpair id="cib-bootstrap-options-dc-deadtime" name="dc-deadtime" value="2s"/>
      </cluster_property_set>
    </crm_config>
    <nodes/>
    <resources/>
    <constraints/>
  </configuration>
  <status/>
</cib>
`,
    '/usr/sbin/fence_kvmha_lab': `#!/bin/sh\nexec '${what.node}' '${what.fenceAgent}' "$@"\n`,
    '/usr/bin/systemctl': `#!/bin/sh\nexec /bin/bash '${what.scripts}/systemctl.sh' "$@"\n`,
  };
}

function override(own: string, more: string): string {
  const keys = new Set([...more.matchAll(/^\s*(\w+)\s*=/gm)].map((match) => match[1]));
  const kept = own.split('\n').filter((line) => !keys.has(line.split(' ')[0]));
  return `${kept.join('\n')}${more}\n`;
}

function corosyncConf(nodes: readonly string[]): string {
  const members = nodes.map(
    (name, index) => `\
  node {
    name: ${name}
    nodeid: ${index + 1}
    ring0_addr: ${addressOf(index + 1)}
  }
`,
  );
  return `\
totem {
  version: 2
  cluster_name: kvmha-lab
  transport: knet
  crypto_cipher: none
  crypto_hash: none
  token: 1000
}
nodelist {
${members.join('')}}
quorum {
  provider: corosync_votequorum
${nodes.length === 2 ? '  two_node: 1\n' : ''}}
logging {
  to_stderr: no
  to_syslog: no
  to_logfile: yes
  logfile: /var/log/corosync/corosync.log
  timestamp: hires
}
`;
}

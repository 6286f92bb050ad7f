/**
 * Records what Pacemaker's programs print about a real cluster in every state that lib/cluster tells apart, for
 * the unit tests. Run it again with another version of Pacemaker:
 *
 *   node test/cluster/record.ts [DIRECTORY]
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { crmMonArguments, parseClusterView } from '../../lib/cluster/cluster-view.ts';
import { bannedId, withBans } from '../../lib/cluster/destination.ts';
import { Deadline, sleep } from '../../lib/deadline.ts';
import { Lab } from '../lab/client.ts';
import { scriptedAgent } from './scripted-agent.ts';

const directory = resolve(process.argv[2] ?? join(import.meta.dirname, '../unit/cluster/recorded'));
mkdirSync(directory, { recursive: true });

/** An agent whose stop fails or takes long when a file says so. */
const AGENT = scriptedAgent(
  'Guest',
  '[ -e /run/kvmhatest-fail ] && exit 1; while [ -e /run/kvmhatest-wait ]; do sleep 0.1; done',
);

const FENCE_AGENT = `#!/bin/sh
read -r line
case $line in
  *metadata) cat <<END
<?xml version="1.0"?>
<resource-agent name="fence_never" shortdesc="Test">
<longdesc>Test</longdesc>
<vendor-url>https://example.org</vendor-url>
<parameters><parameter name="action" unique="0" required="1"><content type="string" default="off"/></parameter></parameters>
<actions><action name="off"/><action name="reboot"/><action name="monitor"/><action name="metadata"/></actions>
</resource-agent>
END
  ;;
  *monitor | *status) ;;
  *) sleep 60; exit 1 ;;
esac
exit 0
`;

await using lab = await Lab.up({ nodes: 3, cluster: true });
const node = lab.node(1);
const sh = (command: string, on = node) => on.check(['sh', '-c', command]);

async function record(name: string, resource = 'g1', from = node): Promise<void> {
  const { stdout } = await from.exec(['crm_mon', ...crmMonArguments(resource)]);
  writeFileSync(join(directory, `${name}.xml`), stdout);
}

/** The view at this moment, and what the scheduler says of the resource banned from this node. */
async function recordWhatIf(name: string, resource = 'g1', from = node): Promise<void> {
  await record(name, resource, from);
  const xml = await from.check(['crm_mon', ...crmMonArguments(resource)]);
  const view = await parseClusterView(xml, resource, from.name);
  if (view.kind !== 'cluster') {
    throw new Error(view.why);
  }
  const cib = await from.check(['cibadmin', '--query', '--local']);
  const stdout = await from.check(['crm_simulate', '--xml-pipe', '--run', '--output-as=xml'], {
    input: withBans(cib, bannedId(view), [from.name]),
  });
  writeFileSync(join(directory, `${name}.what-if.xml`), stdout);
}

/** Waits until crm_mon's XML about `resource` matches. */
async function until(pattern: RegExp, resource = 'g1', from = node): Promise<void> {
  let last = '';
  const met = await Deadline.in(60_000).poll(100, async () => {
    last = (await from.exec(['crm_mon', ...crmMonArguments(resource)])).stdout;
    return pattern.test(last) || undefined;
  });
  if (!met) {
    throw new Error(`crm_mon never matched ${pattern}:\n${last}`);
  }
}

const settled = () => node.check(['crm_resource', '--wait'], { timeout: 60_000 });

for (const each of lab.nodes) {
  each.write('/usr/lib/ocf/resource.d/kvmhatest/Guest', AGENT);
  await sh('chmod 755 /usr/lib/ocf/resource.d/kvmhatest/Guest', each);
}
node.write(
  '/root/configuration',
  `property stonith-enabled=false
rsc_defaults resource-stickiness=10
primitive g1 ocf:kvmhatest:Guest op monitor interval=10s meta migration-threshold=1
primitive g2 ocf:kvmhatest:Guest op monitor interval=10s
primitive ip2 ocf:kvmhatest:Guest
group grp2 g2 ip2
primitive c1 ocf:kvmhatest:Guest
clone cl1 c1
primitive u1 ocf:kvmhatest:Guest
clone clu1 u1 meta globally-unique=true clone-max=2
location prefer g1 50: node1
location prefer2 grp2 50: node1
location rule1 g1 rule -inf: kvmha-preserved-g1 eq 1
`,
);
await node.check(['crm', 'configure', 'load', 'update', '/root/configuration']);
await until(/id="g1"[^>]*>\s*<node name="node1"/);
await settled();

await recordWhatIf('healthy');
await record('no-such-resource', 'nope');
await recordWhatIf('group-member', 'ip2');
await recordWhatIf('clone', 'c1');
const place = /node\d/.exec(await sh('crm_resource --resource u1:1 --locate'))?.[0];
await recordWhatIf('unique-clone', 'u1:1', lab.node(place ?? ''));
await sh(`attrd_updater -n kvmha-preserved-g1 -U 1 -N node2`);
await sh(`attrd_updater -n kvmha-fault-g1 -U "I/O error <vda> & 'more'" -N node2`);
await until(/kvmha-fault/);
await recordWhatIf('preserved-on-node2');
await sh(`attrd_updater -n kvmha-preserved-g1 -D -N node2; attrd_updater -n kvmha-fault-g1 -D -N node2`);

await sh('crm_resource -r g1 --meta -p is-managed -v false');
await recordWhatIf('unmanaged');
await sh('crm_resource -r g1 --meta -d is-managed');
await sh('crm_resource -r g1 --meta -p maintenance -v true');
await record('resource-maintenance');
await sh('crm_resource -r g1 --meta -d maintenance');
await sh('crm_attribute -n maintenance-mode -v true');
await until(/maintenance-mode="true"/);
await record('cluster-maintenance');
await sh('crm_attribute -n maintenance-mode -D');
await sh('crm_attribute -N node1 -n maintenance -v true');
await until(/name="node1"[^>]*maintenance="true"/);
await record('node-maintenance');
await sh('crm_attribute -N node1 -n maintenance -D');
await settled();

await sh('crm_attribute -N node2 -n standby -v on; crm_attribute -N node3 -n standby -v on');
await settled();
await recordWhatIf('others-in-standby');
await sh('crm_attribute -N node2 -n standby -D; crm_attribute -N node3 -n standby -D');
await settled();
await sh('crm configure location never2 g1 -inf: node2; crm configure location never3 g1 -inf: node3');
await settled();
await recordWhatIf('banned-elsewhere');
await sh('crm configure delete never2 never3');
await settled();

// The stop waits, so that what happens to the resource can be seen.
await sh('touch /run/kvmhatest-wait');
await sh('crm_attribute -N node1 -n standby -v on');
await until(/name="node1"[^>]*standby="true"/);
await record('standby');
await sh('crm_attribute -N node1 -n standby -D; rm /run/kvmhatest-wait');
await settled();
await until(/id="g1"[^>]*>\s*<node name="node1"/);

await sh('touch /run/kvmhatest-fail; crm_resource -r g1 --meta -p target-role -v Stopped');
await until(/id="g1"[^>]*blocked="true"/);
await record('blocked');
await sh('rm /run/kvmhatest-fail; crm_resource -r g1 -C');
await until(/id="g1"[^>]*active="false"/);
await settled();
await record('stopped');
await sh('crm_resource -r g1 --meta -d target-role');
await until(/id="g1"[^>]*>\s*<node name="node1"/);

await sh(
  'crm_attribute -n stop-orphan-resources -v false; cibadmin --delete-all --xpath "//rsc_location[@rsc=\'g1\']" --force',
);
await sh('cibadmin --delete --xpath "//primitive[@id=\'g1\']"');
await until(/id="g1"[^>]*orphaned="true"/);
await record('orphaned');
await node.check(['crm', 'configure', 'load', 'update', '/root/configuration']);
await sh('crm_attribute -n stop-orphan-resources -D');
await until(/id="g1"[^>]*orphaned="false"[^>]*>\s*<node name="node1"/);
await settled();

// One node stops its cluster software: offline. Shutting down is what this node sees while its stop waits.
const other = lab.node(2);
await sh('systemctl stop pacemaker', other);
await until(/name="node2"[^>]*online="false"/);
await recordWhatIf('node-offline');
await record('no-cluster', 'g1', other);
await sh('systemctl start pacemaker', other);
await until(/current_dc present="false"/, 'g1', other);
await record('no-controller', 'g1', other);
await until(/name="node2"[^>]*online="true"/);
await settled();
await sh('touch /run/kvmhatest-wait');
const stopping = sh('systemctl stop pacemaker');
await until(/name="node1"[^>]*shutdown="true"/);
await record('shutting-down');
await sh('rm /run/kvmhatest-wait');
await stopping;
await sh('systemctl start pacemaker');
await until(/id="g1"[^>]*>\s*<node name="node1"/);
await settled();

// With a fence device that never comes to an end a node that fell silent stays unclean.
for (const each of lab.nodes) {
  each.write('/usr/sbin/fence_never', FENCE_AGENT);
  await sh('chmod 755 /usr/sbin/fence_never', each);
}
await sh('crm configure primitive never stonith:fence_never params pcmk_host_list="node1 node2 node3"');
await sh('crm_attribute -n stonith-enabled -v true');
await settled();
await other.powerOff();
await until(/name="node2"[^>]*unclean="true"/);
await recordWhatIf('node-unclean');
await lab.node(3).powerOff();
await until(/with_quorum="false"/);
await sleep(1_000);
await recordWhatIf('no-quorum');

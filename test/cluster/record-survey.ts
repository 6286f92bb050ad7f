/**
 * Records what crm_mon and the CIB say of guests and watchers in a real cluster, for the unit tests of `kvmha status`.
 * Run it again with another version of Pacemaker:
 *
 *   node test/cluster/record-survey.ts [DIRECTORY]
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { SURVEY_IN_CIB, SURVEY_IN_MON } from '../../lib/cluster/survey.ts';
import { Cluster, WATCHERS } from './support.ts';

const directory = resolve(process.argv[2] ?? join(import.meta.dirname, '../unit/cluster/recorded'));
mkdirSync(directory, { recursive: true });

await using cluster = await Cluster.up({ nodes: 2 });
const [node1, node2] = [cluster.node(1), cluster.node(2)];

async function record(name: string): Promise<void> {
  await cluster.settled();
  for (const [suffix, program, args] of [
    ['xml', 'crm_mon', SURVEY_IN_MON],
    ['cib.xml', 'cibadmin', SURVEY_IN_CIB],
  ] as const) {
    const { stdout } = await node1.exec([program, ...args]);
    writeFileSync(join(directory, `${name}.${suffix}`), stdout);
  }
}

await cluster.configure(WATCHERS);
const [, db] = await cluster.startGuests([
  ['web', { prefers: ['node1'] }],
  ['db', { prefers: ['node2'] }],
  ['app', { prefers: ['node2'] }],
]);
await record('survey-healthy');

db.fault(node2).set('W', db.disk);
await db.runsOn('node1');
await cluster.sh(`attrd_updater -n '#health-memory' -U red -N node2`);
await cluster.sh(`crm_attribute --node node1 --name '#health-disk' --update yellow`);
await cluster.sh('crm_resource -r app --meta -p target-role -v Stopped');
await record('survey-preserved');

await cluster.sh('crm_attribute -n node-health-strategy -v migrate-on-red');
await record('survey-health-strategy');

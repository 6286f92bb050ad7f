import type { Element } from '@xmldom/xmldom';
import type { Deadline } from '../deadline.ts';
import { isKvmhaError, messageOf } from '../error.ts';
import { ask, type NoAnswer } from './ask.ts';
import {
  type ClusterResource,
  type ClusterState,
  describeCluster,
  describePrimitive,
  nameOfThisNode,
  type Primitive,
  primitivesOf,
} from './cluster-view.ts';
import { elements, parseResult, parseXml, select, text } from './xml.ts';

/** Every guest and watcher of kvmha that the cluster has, on whatever node. */
export type ClusterSurvey = SurveyedCluster | NoAnswer;

export interface SurveyedCluster extends ClusterState {
  /** Resources of ocf:kvmha:KvmGuest, by their ids. */
  readonly guests: ReadonlyMap<string, ClusterResource>;
  /** Resources of ocf:kvmha:KvmWatch; one if it is a clone. */
  readonly watchers: ReadonlyMap<string, ClusterResource>;
  /** What the nodes did with these, as far as Pacemaker remembers it: the last of each kind. */
  readonly operations: readonly Operation[];
  /** Each node's attributes that say how it is (`#health-NAME`): `green`, `yellow`, `red` or a number. */
  readonly health: ReadonlyMap<string, ReadonlyMap<string, string>>;
  /** The cluster option `node-health-strategy`: what follows from them. Undefined is `none`. */
  readonly healthStrategy: string | undefined;
}

export interface Operation {
  readonly resource: string;
  readonly node: string;
  /** `start`, `stop`, `monitor`, `migrate_to`, `migrate_from`; `asyncmon` for a failure that was reported by hand. */
  readonly task: string;
  /** Milliseconds; 0 for what does not recur. */
  readonly interval: number;
  /** What the agent answered, see lib/ocf.ts. */
  readonly exitCode: number;
  /** ISO 8601: since when it answers so; undefined where Pacemaker does not tell. */
  readonly since: string | undefined;
  /** The agent's words, on one line. */
  readonly reason: string | undefined;
}

const GUEST = 'ocf:kvmha:KvmGuest';
const WATCHER = 'ocf:kvmha:KvmWatch';

/**
 * What is read in the CIB. crm_mon gives the operations' times in no time zone and leaves out the attributes that begin
 * with `#` (seen in 2.1.5). Probes that found nothing are most of a history: every node has one of every guest.
 */
const IN_CIB = [
  "//lrm_resource[@provider='kvmha']/lrm_rsc_op[not(@operation='monitor' and @interval='0' and @rc-code='7')]",
  "//transient_attributes[.//nvpair[starts-with(@name,'#health')]]",
  "//nodes/node[.//nvpair[starts-with(@name,'#health')]]",
  "//crm_config//nvpair[@name='node-health-strategy']",
].join(' | ');

/** How crm_mon and cibadmin are called. */
export const SURVEY_IN_MON = [
  ...['--one-shot', '--output-as=xml', '--inactive'],
  '--include=none,dc,options,nodes,resources,attributes',
];
export const SURVEY_IN_CIB = ['--query', '--local', `--xpath=${IN_CIB}`];

/** CRM_EX_NOSUCH (crm/common/results.h): there is nothing of the kind in the CIB. */
const NO_SUCH = 105;

/**
 * Asks the cluster for all guests and watchers: one call each of crm_mon, cibadmin and crm_node, at the same time.
 *
 * @returns `none` where no cluster runs, `silent` where one does not answer
 */
export async function surveyCluster(deadline: Deadline): Promise<ClusterSurvey> {
  const [view, cib, name] = await Promise.all([
    ask('crm_mon', SURVEY_IN_MON, deadline),
    ask('cibadmin', SURVEY_IN_CIB, deadline),
    nameOfThisNode(deadline),
  ]);
  for (const answer of [view, cib, name]) {
    if (answer.kind === 'none' || answer.kind === 'silent') {
      return answer;
    }
  }
  if (view.kind !== 'answer' || cib.kind !== 'answer' || name.kind !== 'name') {
    throw new Error('an answer is of none of its kinds');
  }
  if (view.exitCode !== 0) {
    return { kind: 'silent', why: `crm_mon exited ${view.exitCode}: ${view.said}` };
  }
  if (cib.exitCode !== 0 && cib.exitCode !== NO_SUCH) {
    return { kind: 'silent', why: `cibadmin exited ${cib.exitCode}: ${cib.said}` };
  }
  return parseSurvey(view.stdout, cib.exitCode === 0 ? cib.stdout : undefined, name.name);
}

/**
 * What crm_mon and the CIB say; `silent` where it is not what they print.
 *
 * @param cib what cibadmin found of IN_CIB; undefined where it found nothing
 */
export async function parseSurvey(
  mon: string,
  cib: string | undefined,
  localNode: string,
): Promise<ClusterSurvey> {
  try {
    const root = await parseResult(mon);
    return describe(root, cib === undefined ? [] : foundIn(await parseXml(cib)), localNode);
  } catch (error) {
    if (isKvmhaError(error, 'malformed')) {
      return { kind: 'silent', why: messageOf(error) };
    }
    throw error;
  }
}

/** cibadmin wraps what it has found only when it is more than one element. */
function foundIn(root: Element): Element[] {
  return root.tagName === 'xpath-query' ? elements(root) : [root];
}

function describe(root: Element, found: readonly Element[], localNode: string): SurveyedCluster {
  const cluster = describeCluster(root, localNode);
  const primitives = primitivesOf(root);
  const named = (tag: string) => found.filter(({ tagName }) => tagName === tag);
  const nodeOf = (id: string | undefined) =>
    text(
      select(root, 'nodes/node').find((node) => text(node, 'id') === id),
      'name',
    );
  const healthOf = [
    ...named('node').map((node) => [text(node, 'uname'), healthIn(node)] as const),
    ...named('transient_attributes').map((each) => [nodeOf(text(each, 'id')), healthIn(each)] as const),
  ];
  const health = new Map<string, Map<string, string>>();
  for (const [node, attributes] of healthOf) {
    if (node !== undefined) {
      health.set(node, new Map([...(health.get(node) ?? []), ...attributes]));
    }
  }
  return {
    ...cluster,
    guests: resourcesOf(primitives, GUEST, localNode),
    watchers: resourcesOf(primitives, WATCHER, localNode),
    operations: named('lrm_rsc_op').flatMap(describeOperation),
    health,
    healthStrategy: text(named('nvpair')[0], 'value'),
  };
}

function resourcesOf(
  primitives: readonly Primitive[],
  agent: string,
  localNode: string,
): Map<string, ClusterResource> {
  const byId = Map.groupBy(
    primitives.filter(({ element }) => text(element, 'resource_agent') === agent),
    ({ element }) => text(element, 'id') ?? '',
  );
  return new Map(
    [...byId].flatMap(([id, instances]) => {
      const resource = describePrimitive(instances, localNode);
      return resource === undefined ? [] : [[id, resource] as const];
    }),
  );
}

function healthIn(parent: Element): [string, string][] {
  return select(parent, 'instance_attributes/nvpair').flatMap((pair): [string, string][] => {
    const name = text(pair, 'name') ?? '';
    return name.startsWith('#health') ? [[name, text(pair, 'value') ?? '']] : [];
  });
}

function describeOperation(element: Element): Operation[] {
  const [key, task, node] = ['operation_key', 'operation', 'on_node'].map((name) => text(element, name));
  const interval = text(element, 'interval') ?? '0';
  const suffix = `_${task}_${interval}`;
  if (key === undefined || task === undefined || node === undefined || !key.endsWith(suffix)) {
    return [];
  }
  const seconds = Number(text(element, 'last-rc-change') ?? Number.NaN);
  return [
    {
      resource: key.slice(0, -suffix.length),
      node,
      task,
      interval: Number(interval),
      exitCode: Number(text(element, 'rc-code') ?? Number.NaN),
      since: seconds > 0 && seconds < 1e11 ? new Date(seconds * 1000).toISOString() : undefined,
      reason: text(element, 'exit-reason') || undefined,
    },
  ];
}

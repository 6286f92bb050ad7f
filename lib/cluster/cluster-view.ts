import type { Element } from '@xmldom/xmldom';
import type { Deadline } from '../deadline.ts';
import { isKvmhaError, KvmhaError, messageOf } from '../error.ts';
import { ask, type NoAnswer } from './ask.ts';
import { preservedAttribute } from './placement.ts';
import { configuredId } from './resource-id.ts';
import { elements, isTrue, parseResult, select, text } from './xml.ts';

/** What the cluster says of itself and of one resource at one moment. */
export type ClusterView = RunningCluster | NoAnswer;

export interface RunningCluster {
  readonly kind: 'cluster';
  /** The node this runs on, by its name in the cluster. */
  readonly localNode: string;
  /** Whether there is a designated controller. While one is elected the nodes' states are stale. */
  readonly hasController: boolean;
  /** Whether this partition has quorum; false, too, while there is no controller. */
  readonly quorum: boolean;
  /** The cluster option: `stop`, `freeze`, `suicide`, `demote` or `ignore`. */
  readonly noQuorumPolicy: string | undefined;
  readonly stonithEnabled: boolean;
  readonly maintenanceMode: boolean;
  readonly stopAllResources: boolean;
  readonly nodes: readonly ClusterNode[];
  /** As it was asked for. */
  readonly resourceId: string;
  /** Undefined if the cluster has no such resource. */
  readonly resource: ClusterResource | undefined;
  /** The nodes' attributes, permanent and transient, by the nodes' names. */
  readonly attributes: ReadonlyMap<string, ReadonlyMap<string, string>>;
}

export interface ClusterNode {
  readonly name: string;
  /** `remote` for Pacemaker Remote nodes, guest nodes among them. */
  readonly type: 'member' | 'remote';
  readonly online: boolean;
  readonly standby: boolean;
  readonly maintenance: boolean;
  /** In a state that only fencing makes certain. */
  readonly unclean: boolean;
  /** Has not joined yet. */
  readonly pending: boolean;
  /** Its cluster software was told to stop. */
  readonly shutdown: boolean;
  /** `green`, `yellow` or `red`, where Pacemaker tells. */
  readonly health: string | undefined;
}

export interface ClusterResource {
  /** The outermost group, clone or bundle that the resource is in. */
  readonly collective:
    | { readonly kind: 'group' | 'clone' | 'bundle'; readonly id: string | undefined }
    | undefined;
  /** False, too, while the cluster or a node it runs on is in maintenance. */
  readonly managed: boolean;
  /** In maintenance by its own meta attribute. Pacemaker 2.1.5 does not tell; `managed` is false then. */
  readonly maintenance: boolean;
  /** The cluster leaves it alone after a failure it cannot recover from. */
  readonly blocked: boolean;
  readonly failed: boolean;
  /** It runs, but is no longer configured. */
  readonly orphaned: boolean;
  readonly role: string | undefined;
  readonly targetRole: string | undefined;
  /** The nodes on which the cluster has it; of an instance of an anonymous clone, those of all instances. */
  readonly activeOn: readonly string[];
}

/**
 * The sections of crm_mon that are needed. Leaving out the operations' history keeps the answer of a large cluster
 * small: 5 kB instead of 350 kB with 16 nodes and 500 guests.
 */
const SECTIONS = 'none,dc,options,nodes,resources,attributes';

/**
 * Asks the cluster about itself and `resource`, with one call of crm_mon, and another of crm_node where the
 * caller does not know its node. Measured: 13 to 17 ms each, with 16 nodes and 500 guests 0.5 s.
 *
 * @param resource its id, as Pacemaker gives it to the agent: that of a clone's instance (`guest:0`) is one, too
 * @param node this node's name in the cluster (OCF_RESKEY_CRM_meta_on_node), asked for if undefined
 */
export async function readCluster(
  resource: string,
  deadline: Deadline,
  node?: string | undefined,
): Promise<ClusterView> {
  const [view, name] = await Promise.all([
    ask('crm_mon', crmMonArguments(resource), deadline),
    node === undefined ? nameOfThisNode(deadline) : { kind: 'name' as const, name: node },
  ]);
  if (view.kind !== 'answer') {
    return view;
  }
  if (view.exitCode !== 0) {
    return { kind: 'silent', why: `crm_mon exited ${view.exitCode}: ${view.said}` };
  }
  if (name.kind !== 'name') {
    return name;
  }
  return parseClusterView(view.stdout, resource, name.name);
}

/** How crm_mon is called about `resource`. */
export function crmMonArguments(resource: string): readonly string[] {
  return ['--one-shot', '--output-as=xml', '--inactive', `--include=${SECTIONS}`, `--resource=${resource}`];
}

/** This node's name in the cluster. */
export async function nameOfThisNode(deadline: Deadline) {
  const answer = await ask('crm_node', ['--name'], deadline);
  if (answer.kind !== 'answer') {
    return answer;
  }
  const name = answer.stdout.trim();
  return answer.exitCode === 0 && name !== ''
    ? { kind: 'name' as const, name }
    : { kind: 'silent' as const, why: `crm_node does not know this node's name: ${answer.said}` };
}

/** What crm_mon's XML says; `silent` where it is not what crm_mon prints. */
export async function parseClusterView(
  xml: string,
  resource: string,
  localNode: string,
): Promise<ClusterView> {
  try {
    return describe(await parseResult(xml), resource, localNode);
  } catch (error) {
    if (isKvmhaError(error, 'malformed')) {
      return { kind: 'silent', why: messageOf(error) };
    }
    throw error;
  }
}

/** What the cluster says of itself, without any resource. */
export type ClusterState = Omit<RunningCluster, 'resourceId' | 'resource'>;

function describe(root: Element, resourceId: string, localNode: string): RunningCluster {
  return {
    ...describeCluster(root, localNode),
    resourceId,
    resource: describeResource(root, resourceId, localNode),
  };
}

/**
 * What crm_mon says of the cluster itself.
 *
 * @param root of its answer, with the sections dc, options, nodes and attributes
 * @throws KvmhaError `malformed`
 */
export function describeCluster(root: Element, localNode: string): ClusterState {
  const [controller] = select(root, 'summary/current_dc');
  const [options] = select(root, 'summary/cluster_options');
  const nodes = select(root, 'nodes/node').map(describeNode);
  if (options === undefined || nodes.length === 0) {
    throw new KvmhaError('malformed', "crm_mon's answer has no cluster options or no nodes");
  }
  const hasController = isTrue(controller, 'present');
  return {
    kind: 'cluster',
    localNode,
    hasController,
    quorum: hasController && isTrue(controller, 'with_quorum'),
    noQuorumPolicy: text(options, 'no-quorum-policy'),
    stonithEnabled: isTrue(options, 'stonith-enabled'),
    maintenanceMode: isTrue(options, 'maintenance-mode'),
    stopAllResources: isTrue(options, 'stop-all-resources'),
    nodes,
    attributes: new Map(
      select(root, 'node_attributes/node').map((node) => [
        text(node, 'name') ?? '',
        new Map(
          select(node, 'attribute').map((each) => [text(each, 'name') ?? '', text(each, 'value') ?? '']),
        ),
      ]),
    ),
  };
}

function describeNode(node: Element): ClusterNode {
  return {
    name: text(node, 'name') ?? '',
    type: text(node, 'type') === 'member' ? 'member' : 'remote',
    online: isTrue(node, 'online'),
    standby: isTrue(node, 'standby') || isTrue(node, 'standby_onfail'),
    maintenance: isTrue(node, 'maintenance'),
    unclean: isTrue(node, 'unclean'),
    pending: isTrue(node, 'pending'),
    shutdown: isTrue(node, 'shutdown'),
    health: text(node, 'health'),
  };
}

/** What crm_mon says of the resource of that id; undefined if there is none. */
function describeResource(root: Element, id: string, localNode: string): ClusterResource | undefined {
  const all = primitivesOf(root);
  const exact = all.filter(({ element }) => text(element, 'id') === id);
  // crm_mon gives those of an anonymous clone's instances without their number.
  const found =
    exact.length > 0 ? exact : all.filter(({ element }) => text(element, 'id') === configuredId(id));
  return describePrimitive(found, localNode);
}

/**
 * What crm_mon says of one resource.
 *
 * @param found all its instances, of which the one that is here is meant
 * @returns undefined if there is none
 */
export function describePrimitive(
  found: readonly Primitive[],
  localNode: string,
): ClusterResource | undefined {
  const activeOn = ({ element }: Primitive) =>
    select(element, 'node').map((node) => text(node, 'name') ?? '');
  const mine = found.find((each) => activeOn(each).includes(localNode)) ?? found[0];
  if (mine === undefined) {
    return undefined;
  }
  const { element, collective } = mine;
  return {
    collective,
    managed: isTrue(element, 'managed'),
    maintenance: isTrue(element, 'maintenance'),
    blocked: isTrue(element, 'blocked'),
    failed: isTrue(element, 'failed'),
    orphaned: isTrue(element, 'orphaned'),
    role: text(element, 'role'),
    targetRole: text(element, 'target_role'),
    activeOn: [...new Set(found.flatMap(activeOn))],
  };
}

/** A resource that is no collection of others, as an element of crm_mon's answer. */
export interface Primitive {
  readonly element: Element;
  readonly collective: ClusterResource['collective'];
}

/** All that crm_mon tells of; each instance of a clone is one. */
export function primitivesOf(root: Element): Primitive[] {
  return select(root, 'resources').flatMap((resources) => primitives(resources, undefined));
}

function primitives(parent: Element, outermost: Primitive['collective']): Primitive[] {
  return elements(parent).flatMap((element) => {
    switch (element.tagName) {
      case 'resource':
        return { element, collective: outermost };
      case 'group':
      case 'clone':
      case 'bundle':
        return primitives(element, outermost ?? { kind: element.tagName, id: text(element, 'id') });
      case 'replica':
        return primitives(element, outermost);
      default:
        return [];
    }
  });
}

/** The nodes that are marked to keep a preserved copy of the view's resource. */
export function nodesWithPreserved({ attributes, resourceId }: RunningCluster): readonly string[] {
  const attribute = preservedAttribute(resourceId);
  return [...attributes].filter(([, values]) => values.get(attribute) === '1').map(([node]) => node);
}

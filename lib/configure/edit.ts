import type { Document, Element } from '@xmldom/xmldom';
import { elements, parseAnswer, select, text } from '../cluster/xml.ts';
import { KvmhaError } from '../error.ts';
import { operationId, primitiveXml, ruleXml } from './commands.ts';
import type { Change, Plan } from './plan.ts';

/**
 * A copy of a CIB in which the plans are carried out.
 *
 * @throws KvmhaError `malformed` when it is no CIB, or lacks what a plan changes
 */
export async function withPlans(cib: string, plans: readonly Plan[]): Promise<string> {
  const root = await parseAnswer(cib, 'cib');
  const resources = only(root, 'configuration/resources');
  const constraints = only(root, 'configuration/constraints');
  for (const plan of plans) {
    if (plan.kind === 'new') {
      await append(resources, primitiveXml(plan.resource, plan.config), 'primitive');
      await append(constraints, ruleXml(plan.resource), 'rsc_location');
    } else {
      const primitive = find(resources, plan.resource);
      for (const change of plan.changes) {
        await carryOut(change, primitive, constraints);
      }
    }
  }
  return serialize(root);
}

/**
 * A copy of a CIB in which resources are remembered as those of KvmGuest: what the cluster will know once the new
 * agent has looked at them and found them as they are.
 */
export async function withHistoryOf(cib: string, resources: readonly string[]): Promise<string> {
  const root = await parseAnswer(cib, 'cib');
  for (const entry of select(root, 'status/node_state/lrm/lrm_resources/lrm_resource')) {
    if (resources.includes(text(entry, 'id') ?? '')) {
      entry.setAttribute('provider', 'kvmha');
      entry.setAttribute('type', 'KvmGuest');
    }
  }
  return serialize(root);
}

/** A copy of a CIB with another value of a cluster option; undefined removes it. */
export async function withOption(cib: string, name: string, value: string | undefined): Promise<string> {
  const root = await parseAnswer(cib, 'cib');
  const sets = select(root, 'configuration/crm_config/cluster_property_set');
  for (const pair of sets.flatMap((set) => select(set, 'nvpair'))) {
    if (text(pair, 'name') === name) {
      pair.parentNode?.removeChild(pair);
    }
  }
  if (value !== undefined) {
    const set =
      sets[0] ??
      element(only(root, 'configuration/crm_config'), 'cluster_property_set', { id: 'kvmha-options' });
    element(set, 'nvpair', { id: `${text(set, 'id')}-${name}`, name, value });
  }
  return serialize(root);
}

async function carryOut(change: Change, primitive: Element, constraints: Element): Promise<void> {
  const id = text(primitive, 'id') ?? '';
  switch (change.kind) {
    case 'agent':
      primitive.setAttribute('provider', 'kvmha');
      primitive.setAttribute('type', 'KvmGuest');
      return;
    case 'meta':
      setMeta(primitive, id, change.name, change.value);
      return;
    case 'timeout': {
      const operation = select(primitive, 'operations/op').find((op) => text(op, 'id') === change.id);
      if (operation === undefined) {
        throw new KvmhaError('malformed', `the resource ${id} has no operation ${change.id} of its own`);
      }
      operation.setAttribute('timeout', `${change.seconds}s`);
      return;
    }
    case 'operation': {
      const { name, timeout, interval } = change.operation;
      const operations = select(primitive, 'operations')[0] ?? inserted(primitive, 'operations');
      element(operations, 'op', {
        id: operationId(id, name, interval),
        name,
        interval: interval === 0 ? '0' : `${interval}s`,
        timeout: `${timeout}s`,
      });
      return;
    }
    case 'rule':
      await append(constraints, ruleXml(id), 'rsc_location');
  }
}

/** In the first set that is the resource's own and always applies; others are shared, or for some times only. */
function setMeta(primitive: Element, id: string, name: string, value: string): void {
  const sets = select(primitive, 'meta_attributes').filter(
    (set) => text(set, 'id-ref') === undefined && select(set, 'rule').length === 0,
  );
  const set = sets[0] ?? element(primitive, 'meta_attributes', { id: `${id}-meta_attributes` });
  const pair = select(set, 'nvpair').find((each) => text(each, 'name') === name);
  if (pair === undefined) {
    element(set, 'nvpair', { id: `${text(set, 'id')}-${name}`, name, value });
  } else {
    pair.setAttribute('value', value);
  }
}

/** The schema wants operations before meta attributes and utilization. */
function inserted(primitive: Element, name: string): Element {
  const made = documentOf(primitive).createElement(name);
  const next = elements(primitive).find(({ tagName }) => tagName !== 'instance_attributes');
  primitive.insertBefore(made, next ?? null);
  return made;
}

function element(parent: Element, name: string, attributes: Readonly<Record<string, string>>): Element {
  const made = documentOf(parent).createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    made.setAttribute(key, value);
  }
  parent.appendChild(made);
  return made;
}

async function append(parent: Element, xml: string, name: string): Promise<void> {
  parent.appendChild(documentOf(parent).importNode(await parseAnswer(xml, name), true));
}

function documentOf(node: Element): Document {
  const document = node.ownerDocument;
  if (document === null) {
    throw new KvmhaError('malformed', 'an element belongs to no document');
  }
  return document;
}

function only(root: Element, path: string): Element {
  const [found] = select(root, path);
  if (found === undefined) {
    throw new KvmhaError('malformed', `the configuration has no <${path.replace(/.*\//, '')}>`);
  }
  return found;
}

function find(parent: Element, id: string): Element {
  const all = (each: Element): Element[] => elements(each).flatMap((child) => [child, ...all(child)]);
  const found = all(parent).find((each) => each.tagName === 'primitive' && text(each, 'id') === id);
  if (found === undefined) {
    throw new KvmhaError('malformed', `the configuration has no resource ${id}`);
  }
  return found;
}

async function serialize(root: Element): Promise<string> {
  const { XMLSerializer } = await import('@xmldom/xmldom');
  return `${new XMLSerializer().serializeToString(root)}\n`;
}

import type { Element } from '@xmldom/xmldom';
import type { Deadline } from '../deadline.ts';
import { isKvmhaError, messageOf } from '../error.ts';
import { ask, type NoAnswer } from './ask.ts';
import { preservedAttribute } from './placement.ts';
import { elements, parseAnswer, select, text } from './xml.ts';

/** What the cluster is configured to do (the CIB), as far as it concerns guests. */
export interface ClusterConfiguration {
  readonly kind: 'configuration';
  /** The cluster options, with names in lower case. */
  readonly options: ReadonlyMap<string, string>;
  readonly nodes: readonly string[];
  readonly fenceDevices: readonly string[];
  readonly resources: readonly ConfiguredResource[];
  readonly locations: readonly LocationRule[];
  readonly history: readonly RememberedOperation[];
  /** It as cibadmin printed it. */
  readonly cib: string;
}

/** A primitive. */
export interface ConfiguredResource {
  readonly id: string;
  /** As in `ocf:kvmha:KvmGuest`; undefined where a template says it. */
  readonly agent: string | undefined;
  /** The template it is made from. */
  readonly template: string | undefined;
  /** The outermost group, clone or bundle that it is in. */
  readonly collective: { readonly kind: string; readonly id: string } | undefined;
  readonly parameters: ReadonlyMap<string, string>;
  /** Its own meta attributes, else those of what it is in, else the defaults of all resources. */
  readonly meta: ReadonlyMap<string, string>;
  readonly operations: readonly ConfiguredOperation[];
}

export interface ConfiguredOperation {
  readonly id: string;
  readonly name: string;
  /** Milliseconds. */
  readonly interval: number;
  /** Milliseconds: its own, else that of op_defaults, else Pacemaker's 20 s. */
  readonly timeout: number;
  readonly role: string | undefined;
  readonly onFail: string | undefined;
  readonly enabled: boolean;
}

/** A location constraint with a rule of one expression on a node attribute. */
export interface LocationRule {
  readonly resource: string;
  readonly score: string;
  readonly attribute: string;
  readonly operation: string;
  readonly value: string;
}

/** The last result of an operation on a node. */
export interface RememberedOperation {
  readonly node: string;
  readonly resource: string;
  readonly operation: string;
  readonly code: number;
  readonly exitReason: string;
  /** Seconds since 1970, by the clock of that node; undefined where it is not told. */
  readonly changed: number | undefined;
}

export const KVM_GUEST = 'ocf:kvmha:KvmGuest';
export const KVM_WATCH = 'ocf:kvmha:KvmWatch';
export const VIRTUAL_DOMAIN = 'ocf:heartbeat:VirtualDomain';

/** Pacemaker's default for an operation without a timeout (PCMK_DEFAULT_ACTION_TIMEOUT_MS), in milliseconds. */
const DEFAULT_TIMEOUT = 20_000;

/** Reads the cluster's configuration; measured: 15 ms. */
export async function readConfiguration(deadline: Deadline): Promise<ClusterConfiguration | NoAnswer> {
  const answer = await ask('cibadmin', ['--query'], deadline);
  if (answer.kind !== 'answer') {
    return answer;
  }
  if (answer.exitCode !== 0) {
    return { kind: 'silent', why: `cibadmin exited ${answer.exitCode}: ${answer.said}` };
  }
  try {
    return await parseConfiguration(answer.stdout);
  } catch (error) {
    if (isKvmhaError(error)) {
      return { kind: 'silent', why: messageOf(error) };
    }
    throw error;
  }
}

/**
 * What a CIB says. Sets of attributes that a rule applies to only at times are left out.
 *
 * @throws KvmhaError `malformed` when it is no CIB
 */
export async function parseConfiguration(cib: string): Promise<ClusterConfiguration> {
  const root = await parseAnswer(cib, 'cib');
  const [configuration] = select(root, 'configuration');
  const sets = (path: string) =>
    configuration === undefined ? new Map<string, string>() : pairs(select(configuration, path));
  const timeouts = sets('op_defaults/meta_attributes');
  const defaults = sets('rsc_defaults/meta_attributes');
  const primitives =
    configuration === undefined
      ? []
      : select(configuration, 'resources').flatMap((each) => primitivesIn(each, []));
  return {
    kind: 'configuration',
    options: new Map(
      [...sets('crm_config/cluster_property_set')].map(([name, value]) => [name.toLowerCase(), value]),
    ),
    nodes:
      configuration === undefined
        ? []
        : select(configuration, 'nodes/node').map((node) => text(node, 'uname') ?? ''),
    fenceDevices: primitives
      .filter(({ element }) => text(element, 'class') === 'stonith')
      .map(({ element }) => text(element, 'id') ?? ''),
    resources: primitives
      .filter(({ element }) => text(element, 'class') !== 'stonith')
      .map((primitive) => describe(primitive, defaults, timeouts)),
    locations:
      configuration === undefined ? [] : select(configuration, 'constraints/rsc_location').flatMap(rulesOf),
    history: select(root, 'status/node_state').flatMap(historyOf),
    cib,
  };
}

interface Primitive {
  readonly element: Element;
  /** What it is in, the outermost first. */
  readonly collectives: readonly Element[];
}

function primitivesIn(parent: Element, collectives: readonly Element[]): Primitive[] {
  return elements(parent).flatMap((element) => {
    switch (element.tagName) {
      case 'primitive':
        return [{ element, collectives }];
      case 'group':
      case 'clone':
      case 'master':
      case 'bundle':
        return primitivesIn(element, [...collectives, element]);
      default:
        return [];
    }
  });
}

function describe(
  { element, collectives }: Primitive,
  defaults: ReadonlyMap<string, string>,
  timeouts: ReadonlyMap<string, string>,
): ConfiguredResource {
  const words = [text(element, 'class'), text(element, 'provider'), text(element, 'type')];
  const [outermost] = collectives;
  return {
    id: text(element, 'id') ?? '',
    agent: words[0] === undefined ? undefined : words.filter((word) => word !== undefined).join(':'),
    template: text(element, 'template'),
    collective:
      outermost === undefined ? undefined : { kind: outermost.tagName, id: text(outermost, 'id') ?? '' },
    parameters: pairs(select(element, 'instance_attributes')),
    meta: new Map([
      ...defaults,
      ...collectives.flatMap((each) => [...pairs(select(each, 'meta_attributes'))]),
      ...pairs(select(element, 'meta_attributes')),
    ]),
    operations: select(element, 'operations/op').map((op) => describeOperation(op, timeouts)),
  };
}

function describeOperation(op: Element, defaults: ReadonlyMap<string, string>): ConfiguredOperation {
  // crmsh and pcs write what belongs to an operation as its attribute; a set of meta attributes is as good.
  const meta = pairs(select(op, 'meta_attributes'));
  const value = (name: string) => text(op, name) ?? meta.get(name) ?? defaults.get(name);
  return {
    id: text(op, 'id') ?? '',
    name: text(op, 'name') ?? '',
    interval: milliseconds(text(op, 'interval') ?? meta.get('interval') ?? '0') ?? 0,
    timeout: milliseconds(value('timeout') ?? '') ?? DEFAULT_TIMEOUT,
    role: text(op, 'role') ?? meta.get('role'),
    onFail: value('on-fail'),
    enabled: !/^(false|off|no|n|0)$/i.test(value('enabled') ?? 'true'),
  };
}

/** Those of several sets; the first one that has a name counts, as it does to Pacemaker. */
function pairs(sets: readonly Element[]): Map<string, string> {
  const found = new Map<string, string>();
  for (const set of sets.filter((each) => select(each, 'rule').length === 0)) {
    for (const pair of select(set, 'nvpair')) {
      const name = text(pair, 'name');
      if (name !== undefined && !found.has(name)) {
        found.set(name, text(pair, 'value') ?? '');
      }
    }
  }
  return found;
}

function rulesOf(location: Element): LocationRule[] {
  return select(location, 'rule').flatMap((rule) => {
    const [expression, ...more] = elements(rule);
    return expression?.tagName !== 'expression' || more.length > 0
      ? []
      : [
          {
            resource: text(location, 'rsc') ?? '',
            score: text(rule, 'score') ?? '',
            attribute: text(expression, 'attribute') ?? '',
            operation: text(expression, 'operation') ?? '',
            value: text(expression, 'value') ?? '',
          },
        ];
  });
}

function historyOf(node: Element): RememberedOperation[] {
  return select(node, 'lrm/lrm_resources/lrm_resource').flatMap((resource) =>
    select(resource, 'lrm_rsc_op').map((op) => {
      const changed = text(op, 'last-rc-change');
      return {
        node: text(node, 'uname') ?? '',
        resource: text(resource, 'id') ?? '',
        operation: text(op, 'operation') ?? '',
        code: Number(text(op, 'rc-code') ?? 0),
        exitReason: text(op, 'exit-reason') ?? '',
        changed: changed === undefined ? undefined : Number(changed),
      };
    }),
  );
}

/** The constraint that keeps a resource off the node of its preserved copy may be on what the resource is in. */
export function hasPreservedRule(
  { locations }: Pick<ClusterConfiguration, 'locations'>,
  resource: ConfiguredResource,
): boolean {
  const attribute = preservedAttribute(resource.id);
  return locations.some(
    (rule) =>
      (rule.resource === resource.id || rule.resource === resource.collective?.id) &&
      rule.score.toUpperCase() === '-INFINITY' &&
      rule.attribute === attribute &&
      rule.operation === 'eq' &&
      rule.value === '1',
  );
}

const UNITS: Readonly<Record<string, number>> = {
  ms: 1,
  msec: 1,
  us: 0.001,
  usec: 0.001,
  '': 1000,
  s: 1000,
  sec: 1000,
  m: 60_000,
  min: 60_000,
  h: 3_600_000,
  hr: 3_600_000,
};

/**
 * A duration as Pacemaker reads it (crm_get_msec, "Time Specification" in Pacemaker Explained): a number and a unit,
 * by default seconds, or ISO 8601 with hours, minutes and seconds.
 *
 * @returns milliseconds; undefined where it is no duration
 */
export function milliseconds(words: string): number | undefined {
  const plain = /^\s*([0-9]+)\s*([a-z]*)\s*$/i.exec(words);
  if (plain !== null) {
    const unit = UNITS[(plain[2] ?? '').toLowerCase()];
    return unit === undefined ? undefined : Number(plain[1]) * unit;
  }
  const iso = /^PT(?:([0-9]+)H)?(?:([0-9]+)M)?(?:([0-9]+)S)?$/i.exec(words);
  return iso === null
    ? undefined
    : (Number(iso[1] ?? 0) * 3600 + Number(iso[2] ?? 0) * 60 + Number(iso[3] ?? 0)) * 1000;
}

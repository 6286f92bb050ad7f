import {
  type ClusterConfiguration,
  type ConfiguredResource,
  hasPreservedRule,
  KVM_GUEST,
  VIRTUAL_DOMAIN,
} from '../cluster/configuration.ts';
import type { GuestDefinition } from '../doctor/definition.ts';
import { readParameters } from '../parameters.ts';
import { RECOMMENDED_META, RECOMMENDED_OPERATIONS, type RecommendedOperation } from './recommendation.ts';

/** One thing that makes a resource the recommended one. */
export type Change =
  /** It is run by KvmGuest from now on. */
  | { readonly kind: 'agent' }
  | {
      readonly kind: 'meta';
      readonly name: string;
      readonly value: string;
      readonly before: string | undefined;
    }
  /** The timeout of an operation that is configured, in seconds. */
  | {
      readonly kind: 'timeout';
      readonly operation: string;
      readonly id: string;
      readonly seconds: number;
      readonly before: number;
    }
  | { readonly kind: 'operation'; readonly operation: RecommendedOperation }
  /** The constraint that keeps it off the node of its preserved copy. */
  | { readonly kind: 'rule' };

/** What is to be done about one resource. */
export type Plan =
  /** It is there, and is changed. */
  | { readonly kind: 'change'; readonly resource: string; readonly changes: readonly Change[] }
  /** It is made, from a domain XML. */
  | { readonly kind: 'new'; readonly resource: string; readonly config: string };

/** Why a guest is not configured; each a clause for people. */
export interface Refused {
  readonly kind: 'refused';
  readonly resource: string;
  readonly reasons: readonly string[];
}

/** Whether the plan makes another agent run a guest that may be running. */
export function adopts(plan: Plan): boolean {
  return plan.kind === 'change' && plan.changes.some(({ kind }) => kind === 'agent');
}

/**
 * What makes a resource that is there the recommended one. What exceeds the recommendation stays: intervals, longer
 * timeouts, everything else.
 *
 * @param definition what its XML says, or why it could not be read
 * @param domains the names of the domains that the resources of the cluster run, by the resources' ids
 */
export function planChange(
  resource: ConfiguredResource,
  definition: GuestDefinition | string,
  configuration: ClusterConfiguration,
  domains: ReadonlyMap<string, string>,
): Plan | Refused {
  const { id, agent, collective, template } = resource;
  const reasons = [
    agent === KVM_GUEST || agent === VIRTUAL_DOMAIN || template !== undefined
      ? ''
      : `it is a ${agent}, and no guest of ${VIRTUAL_DOMAIN} or ${KVM_GUEST}`,
    template === undefined ? '' : `it is made from the template ${template}: change that by hand`,
    collective?.kind === 'clone' || collective?.kind === 'master' || collective?.kind === 'bundle'
      ? `it is in the ${collective.kind} ${collective.id}, which would run one domain on several nodes`
      : '',
    ...parameterProblems(resource.parameters),
    typeof definition === 'string' ? `its XML cannot be used: ${definition}` : '',
    typeof definition === 'string' ? '' : otherResource(definition.name, id, domains),
  ].filter((reason) => reason !== '');
  return reasons.length > 0
    ? { kind: 'refused', resource: id, reasons }
    : { kind: 'change', resource: id, changes: changesOf(resource, configuration) };
}

function changesOf(resource: ConfiguredResource, configuration: ClusterConfiguration): Change[] {
  return [
    ...(resource.agent === KVM_GUEST ? [] : [{ kind: 'agent' } as const]),
    ...Object.entries(RECOMMENDED_META).flatMap(([name, value]): Change[] => {
      const before = resource.meta.get(name);
      return before === value ? [] : [{ kind: 'meta', name, value, before }];
    }),
    ...RECOMMENDED_OPERATIONS.flatMap((recommended) => operationChanges(recommended, resource)),
    ...(hasPreservedRule(configuration, resource) ? [] : [{ kind: 'rule' } as const]),
  ];
}

function operationChanges(recommended: RecommendedOperation, { operations }: ConfiguredResource): Change[] {
  const found = operations.filter(
    ({ name, role, interval }) =>
      name === recommended.name && (role ?? 'Started') === 'Started' && (name !== 'monitor' || interval > 0),
  );
  if (found.length === 0) {
    return [{ kind: 'operation', operation: recommended }];
  }
  return found
    .filter(({ timeout }) => timeout < recommended.timeout * 1000)
    .map(({ id, name, timeout }) => ({
      kind: 'timeout',
      operation: name,
      id,
      seconds: recommended.timeout,
      before: timeout / 1000,
    }));
}

/**
 * The resource for a guest that the cluster does not have yet.
 *
 * @param config absolute path of its XML
 */
export function planNew(
  id: string,
  config: string,
  definition: GuestDefinition,
  configuration: ClusterConfiguration | undefined,
  domains: ReadonlyMap<string, string>,
): Plan | Refused {
  const reasons = [
    // An XML id (NCName) that is also fit for a node attribute and a shell.
    /^[A-Za-z_][A-Za-z0-9_.-]*$/.test(id)
      ? ''
      : `"${id}" is no id of a resource: name one with --resource (letters, digits, "_", "." and "-")`,
    configuration?.resources.some((each) => each.id === id) ? `the cluster has a resource ${id} already` : '',
    otherResource(definition.name, id, domains),
    ...parameterProblems(new Map([['config', config]])),
  ].filter((reason) => reason !== '');
  return reasons.length > 0
    ? { kind: 'refused', resource: id, reasons }
    : { kind: 'new', resource: id, config };
}

/** What of the parameters KvmGuest does not accept, on any node. */
function parameterProblems(parameters: ReadonlyMap<string, string>): string[] {
  const environment = Object.fromEntries([...parameters].map(([key, value]) => [`OCF_RESKEY_${key}`, value]));
  return readParameters(environment).problems.map(({ reason }) => reason);
}

/** Two resources of one domain would stop what the other starts. */
function otherResource(name: string, id: string, domains: ReadonlyMap<string, string>): string {
  const other = [...domains].find(([resource, domain]) => resource !== id && domain === name);
  return other === undefined ? '' : `the resource ${other[0]} is the same domain ${name}`;
}

/** A change in words. */
export function changeInWords(change: Change): string {
  switch (change.kind) {
    case 'agent':
      return `run by ${KVM_GUEST} instead of ${VIRTUAL_DOMAIN}`;
    case 'meta':
      return `${change.name}=${change.value} (${change.before === undefined ? 'was not set' : `was ${change.before}`})`;
    case 'timeout':
      return `timeout of ${change.operation} ${change.seconds}s (was ${change.before}s)`;
    case 'operation': {
      const { name, timeout, interval } = change.operation;
      return `operation ${name} with timeout=${timeout}s${interval === 0 ? '' : ` interval=${interval}s`} (was not configured)`;
    }
    case 'rule':
      return 'a location rule that keeps it off the node of its preserved copy';
  }
}

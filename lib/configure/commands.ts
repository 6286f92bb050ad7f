import { preservedAttribute } from '../cluster/placement.ts';
import { adopts, type Change, type Plan } from './plan.ts';
import { RECOMMENDED_META, RECOMMENDED_OPERATIONS, ruleId } from './recommendation.ts';

export const TOOLS = ['crm', 'pcs', 'cib'] as const;
/** What the commands are for: crmsh, pcs, or Pacemaker's own programs and a fragment of the CIB. */
export type Tool = (typeof TOOLS)[number];

/**
 * The commands, for a shell, that do what the plans say. A guest that is adopted is left running: the cluster is in
 * maintenance meanwhile (docs/adoption.md).
 */
export function commandsFor(plans: readonly Plan[], tool: Tool): string {
  const fresh = plans.filter((plan) => plan.kind === 'new');
  const changed = plans.filter((plan) => plan.kind === 'change' && plan.changes.length > 0);
  const adopted = changed.filter(adopts);
  const lines = [
    ...fresh.flatMap((plan) => (plan.kind === 'new' ? newResource(plan.resource, plan.config, tool) : [])),
    ...(adopted.length === 0
      ? []
      : [
          '# The cluster leaves everything alone.',
          'crm_attribute --name maintenance-mode --update true',
          'crm_resource --wait',
        ]),
    ...changed.flatMap((plan) =>
      plan.kind === 'change' ? plan.changes.flatMap((change) => commandsOf(change, plan.resource, tool)) : [],
    ),
    ...(adopted.length === 0
      ? []
      : [
          '# The new agent looks at the guest. It must be found running where it runs; if not, do not go on.',
          ...adopted.map(({ resource }) => `crm_resource --refresh --resource ${resource}`),
          'crm_resource --wait',
          ...adopted.map(({ resource }) => `crm_resource --resource ${resource} --locate`),
          '# Only then:',
          'crm_attribute --name maintenance-mode --delete',
        ]),
  ];
  return lines.map((line) => `${line}\n`).join('');
}

function newResource(id: string, config: string, tool: Tool): string[] {
  switch (tool) {
    case 'crm':
      return [
        [
          `crm configure primitive ${id} ocf:kvmha:KvmGuest`,
          `params config=${quoted(config)}`,
          ...RECOMMENDED_OPERATIONS.map(
            ({ name, timeout, interval }) => `op ${name} timeout=${timeout}s interval=${seconds(interval)}`,
          ),
          `meta ${metaWords()}`,
        ].join(CONTINUED),
        crmRule(id),
      ];
    case 'pcs':
      return [
        [
          `pcs resource create ${id} ocf:kvmha:KvmGuest config=${quoted(config)}`,
          `op ${RECOMMENDED_OPERATIONS.map(
            ({ name, timeout, interval }) =>
              `${name} ${interval === 0 ? '' : `interval=${seconds(interval)} `}timeout=${timeout}s`,
          ).join(' ')}`,
          `meta ${metaWords()}`,
        ].join(CONTINUED),
        pcsRule(id),
      ];
    case 'cib':
      return [
        `cibadmin --create --scope resources --xml-text ${quoted(primitiveXml(id, config))}`,
        `cibadmin --create --scope constraints --xml-text ${quoted(ruleXml(id))}`,
      ];
  }
}

const CONTINUED = ' \\\n    ';

function seconds(interval: number): string {
  return interval === 0 ? '0' : `${interval}s`;
}

function metaWords(): string {
  return Object.entries(RECOMMENDED_META)
    .map(([name, value]) => `${name}=${value}`)
    .join(' ');
}

function crmRule(id: string): string {
  return `crm configure location ${ruleId(id)} ${id} rule -inf: ${preservedAttribute(id)} eq 1`;
}

function pcsRule(id: string): string {
  return `pcs constraint location ${id} rule score=-INFINITY ${preservedAttribute(id)} eq 1`;
}

/** In Pacemaker's own programs, which every cluster has, where crmsh and pcs have no short way. */
function commandsOf(change: Change, id: string, tool: Tool): string[] {
  switch (change.kind) {
    case 'agent':
      return [
        `cibadmin --query --xpath "//primitive[@id='${id}']" | sed 's/provider="heartbeat" type="VirtualDomain"/provider="kvmha" type="KvmGuest"/' >/root/${id}.xml`,
        `cibadmin --replace --xpath "//primitive[@id='${id}']" --xml-file /root/${id}.xml`,
      ];
    case 'meta':
      return tool === 'pcs'
        ? [`pcs resource meta ${id} ${change.name}=${change.value}`]
        : [
            `crm_resource --resource ${id} --meta --set-parameter ${change.name} --parameter-value ${change.value}`,
          ];
    case 'timeout':
      return [
        `cibadmin --modify --scope resources --xml-text '<op id="${change.id}" timeout="${change.seconds}s"/>'`,
      ];
    case 'operation': {
      const { name, timeout, interval } = change.operation;
      return tool === 'pcs'
        ? [`pcs resource op add ${id} ${name} interval=${seconds(interval)} timeout=${timeout}s`]
        : [
            `cibadmin --modify --allow-create --scope resources --xml-text '<primitive id="${id}"><operations>${operationXml(id, name, timeout, interval)}</operations></primitive>'`,
          ];
    }
    case 'rule':
      switch (tool) {
        case 'crm':
          return [crmRule(id)];
        case 'pcs':
          return [pcsRule(id)];
        case 'cib':
          return [`cibadmin --create --scope constraints --xml-text ${quoted(ruleXml(id))}`];
      }
  }
}

/** The id that an operation gets. */
export function operationId(resource: string, name: string, interval: number): string {
  return `${resource}-${name}-${seconds(interval)}`;
}

function operationXml(id: string, name: string, timeout: number, interval: number): string {
  return `<op id="${operationId(id, name, interval)}" name="${name}" interval="${seconds(interval)}" timeout="${timeout}s"/>`;
}

/** The resource of the recommended configuration, as it stands in the CIB. */
export function primitiveXml(id: string, config: string): string {
  const operations = RECOMMENDED_OPERATIONS.map(({ name, timeout, interval }) =>
    operationXml(id, name, timeout, interval),
  );
  const meta = Object.entries(RECOMMENDED_META).map(
    ([name, value]) => `<nvpair id="${id}-meta_attributes-${name}" name="${name}" value="${value}"/>`,
  );
  return [
    `<primitive id="${id}" class="ocf" provider="kvmha" type="KvmGuest">`,
    `<instance_attributes id="${id}-instance_attributes">`,
    `<nvpair id="${id}-instance_attributes-config" name="config" value="${escaped(config)}"/>`,
    '</instance_attributes>',
    `<operations>${operations.join('')}</operations>`,
    `<meta_attributes id="${id}-meta_attributes">${meta.join('')}</meta_attributes>`,
    '</primitive>',
  ].join('');
}

/** The constraint that keeps a resource off the node of its preserved copy, as it stands in the CIB. */
export function ruleXml(id: string): string {
  const rule = ruleId(id);
  return [
    `<rsc_location id="${rule}" rsc="${id}"><rule id="${rule}-rule" score="-INFINITY">`,
    `<expression id="${rule}-rule-expression" attribute="${preservedAttribute(id)}" operation="eq" value="1"/>`,
    '</rule></rsc_location>',
  ].join('');
}

/** The parts of the CIB that new resources are. */
export function fragment(plans: readonly Plan[]): string {
  const fresh = plans.filter((plan) => plan.kind === 'new');
  return [
    '<configuration>',
    '  <resources>',
    ...fresh.map((plan) => `    ${plan.kind === 'new' ? primitiveXml(plan.resource, plan.config) : ''}`),
    '  </resources>',
    '  <constraints>',
    ...fresh.map(({ resource }) => `    ${ruleXml(resource)}`),
    '  </constraints>',
    '</configuration>',
    '',
  ].join('\n');
}

function escaped(value: string): string {
  return value.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
}

/** A word for a shell. */
function quoted(word: string): string {
  return /^[A-Za-z0-9_./:=-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}

import {
  type ConfiguredOperation,
  type ConfiguredResource,
  hasPreservedRule,
  KVM_GUEST,
} from '../../cluster/configuration.ts';
import { preservedAttribute } from '../../cluster/placement.ts';
import { RECOMMENDED_META, RECOMMENDED_OPERATIONS, ruleId } from '../../configure/recommendation.ts';
import type { Facts, GuestFacts } from '../facts.ts';
import type { Finding } from '../finding.ts';

type Judge = (resource: ConfiguredResource, guest: GuestFacts, facts: Facts) => Omit<Finding, 'subject'>[];

/** A rule on the resource of a guest, for those that kvmha runs. */
function ofResource(judge: Judge): (guest: GuestFacts, facts: Facts) => Finding[] {
  return (guest, facts) =>
    guest.resource?.agent === KVM_GUEST
      ? judge(guest.resource, guest, facts).map((finding) => ({ ...finding, subject: guest.name }))
      : [];
}

function setMeta(resource: string, name: keyof typeof RECOMMENDED_META): string {
  return `crm_resource --resource ${resource} --meta --set-parameter ${name} --parameter-value ${RECOMMENDED_META[name]}`;
}

export const noPreservedRule = ofResource((resource, _, { cluster }) => {
  if (cluster.kind !== 'known' || hasPreservedRule(cluster.value.configuration, resource)) {
    return [];
  }
  const target = resource.collective?.kind === 'clone' ? resource.collective.id : resource.id;
  const attribute = preservedAttribute(resource.id);
  return [
    {
      rule: 'no-preserved-rule',
      severity: 'error',
      reason: `no location rule keeps ${resource.id} off the node of its preserved copy: after a cleanup the cluster stops the healthy guest to move it there, where it is refused`,
      fix: `crm configure location ${ruleId(target)} ${target} rule -inf: ${attribute} eq 1    # or pcs constraint location ${target} rule score=-INFINITY ${attribute} eq 1`,
    },
  ];
});

export const migrationThreshold = ofResource(({ id, meta }) =>
  meta.get('migration-threshold') === RECOMMENDED_META['migration-threshold']
    ? []
    : [
        {
          rule: 'migration-threshold',
          severity: 'warning',
          reason: `migration-threshold is ${meta.get('migration-threshold') ?? 'not set'}: a guest whose fault could not be proved to be safe is started again on the node that has just failed it`,
          fix: setMeta(id, 'migration-threshold'),
        },
      ],
);

export const multipleActive = ofResource(({ id, meta }) =>
  ['stop_unexpected', 'block'].includes(meta.get('multiple-active') ?? '')
    ? []
    : [
        {
          rule: 'multiple-active',
          severity: 'warning',
          reason: `multiple-active is ${meta.get('multiple-active') ?? 'not set'}: if the cluster finds the guest on two nodes, it stops the healthy one, too`,
          fix: setMeta(id, 'multiple-active'),
        },
      ],
);

export const allowMigrate = ofResource(({ id, meta }) =>
  /^(true|on|yes|y|1)$/i.test(meta.get('allow-migrate') ?? '')
    ? []
    : [
        {
          rule: 'allow-migrate',
          severity: 'warning',
          reason: 'allow-migrate is not true: a guest that has to leave its node is stopped and booted again',
          fix: setMeta(id, 'allow-migrate'),
        },
      ],
);

export const unmanaged = ofResource(({ id, meta }) =>
  /^(false|off|no|n|0)$/i.test(meta.get('is-managed') ?? 'true') ||
  /^(true|on|yes|y|1)$/i.test(meta.get('maintenance') ?? 'false')
    ? [
        {
          rule: 'unmanaged',
          severity: 'warning',
          reason: `the cluster does not manage ${id} (is-managed, maintenance): it does not fail over`,
          fix: `crm_resource --resource ${id} --meta --delete-parameter is-managed; crm_resource --resource ${id} --meta --delete-parameter maintenance`,
        },
      ]
    : [],
);

function monitorsOf({ operations }: ConfiguredResource): ConfiguredOperation[] {
  return operations.filter(
    ({ name, interval, role }) => name === 'monitor' && interval > 0 && (role ?? 'Started') === 'Started',
  );
}

export const noMonitor = ofResource((resource) =>
  monitorsOf(resource).some(({ enabled }) => enabled)
    ? []
    : [
        {
          rule: 'no-monitor',
          severity: 'error',
          reason: `${resource.id} has no recurring monitor that is enabled: the cluster never learns that the guest has ended or failed`,
          fix: `kvmha configure ${resource.id} --apply`,
        },
      ],
);

/** Seconds for which a fault may wait for the next monitor without a remark. */
const LONGEST_INTERVAL = 60;

export const rareMonitor = ofResource((resource) => {
  const intervals = monitorsOf(resource).map(({ interval }) => interval);
  const least = Math.min(...intervals);
  return intervals.length === 0 || least <= LONGEST_INTERVAL * 1000
    ? []
    : [
        {
          rule: 'rare-monitor',
          severity: 'warning',
          reason: `${resource.id} is monitored every ${least / 1000} s: without a watcher a fault waits that long`,
          fix: modifyOperation(monitorsOf(resource)[0]?.id ?? '', 'interval', '10s'),
        },
      ];
});

function modifyOperation(id: string, name: string, value: string): string {
  return `cibadmin --modify --scope resources --xml-text '<op id="${id}" ${name}="${value}"/>'`;
}

export const shortTimeouts = ofResource((resource) =>
  RECOMMENDED_OPERATIONS.flatMap(({ name, timeout }) => {
    const configured = resource.operations.filter((operation) => operation.name === name);
    const short = configured.find((operation) => operation.timeout < timeout * 1000);
    if (short !== undefined) {
      return [
        {
          rule: 'short-timeout',
          severity: 'warning',
          reason: `the timeout of ${name} is ${short.timeout / 1000} s, and ${timeout} s are recommended: ${SHORT[name]}`,
          fix: modifyOperation(short.id, 'timeout', `${timeout}s`),
        },
      ];
    }
    // A resource without a monitor is a finding of its own.
    return configured.length > 0 || name === 'monitor'
      ? []
      : [
          {
            rule: 'short-timeout',
            severity: 'warning',
            reason: `${name} is not configured, so that its timeout is 20 s: ${SHORT[name]}`,
            fix: `kvmha configure ${resource.id} --apply`,
          },
        ];
  }),
);

const SHORT: Readonly<Record<(typeof RECOMMENDED_OPERATIONS)[number]['name'], string>> = {
  start: 'a start on a busy node is taken for failed',
  stop: 'too little is left to end a guest by force, and a failed stop fences the node',
  monitor: 'a quiesce beside a libvirt that hangs needs that long',
  migrate_to: 'a migration that takes its time is taken for failed, and the guest is booted again',
  migrate_from: 'a guest that arrives on a busy node is taken for failed',
};

/** A stop must be able to end the guest by force within what its policy keeps for that. */
export const stopWithoutReserve = ofResource((resource, { policy }) => {
  const stop = resource.operations.find(({ name }) => name === 'stop');
  const timeout = stop?.timeout ?? 20_000;
  return policy.kind === 'unknown' || timeout > policy.value.stop.forcedEndReserve * 1000
    ? []
    : [
        {
          rule: 'stop-without-reserve',
          severity: 'error',
          reason: `the timeout of stop is ${timeout / 1000} s and the policy's stop.forced-end-reserve ${policy.value.stop.forcedEndReserve} s: no time is left for the guest to shut down`,
          fix: `${stop === undefined ? `kvmha configure ${resource.id} --apply` : modifyOperation(stop.id, 'timeout', '90s')}`,
        },
      ];
});

export const failureIgnored = ofResource((resource) =>
  resource.operations.flatMap(({ id, name, onFail }): Omit<Finding, 'subject'>[] => {
    const harm = HARM[`${name} ${onFail}`];
    return harm === undefined
      ? []
      : [
          {
            rule: 'failure-ignored',
            severity: name === 'stop' && onFail === 'block' ? 'warning' : 'error',
            reason: `on-fail of ${name} is ${onFail}: ${harm}`,
            fix: modifyOperation(id, 'on-fail', name === 'stop' ? 'fence' : 'restart'),
          },
        ];
  }),
);

const NO_ACTION = 'the cluster does not act on a fault';
const HARM: Readonly<Record<string, string>> = {
  'stop ignore': 'a guest whose end could not be verified is started elsewhere, and may run twice',
  'stop block': 'a guest whose end could not be verified is left alone until somebody comes',
  'monitor ignore': NO_ACTION,
  'monitor block': NO_ACTION,
  'start ignore': NO_ACTION,
  'start block': NO_ACTION,
};

/** Without stop_unexpected, the cluster stops the healthy copy, too, when that monitor finds one. */
export const stoppedMonitor = ofResource(({ id, operations, meta }) =>
  operations.some(({ name, role }) => name === 'monitor' && role === 'Stopped') &&
  meta.get('multiple-active') !== 'stop_unexpected'
    ? [
        {
          rule: 'stopped-monitor',
          severity: 'warning',
          reason: `${id} has a monitor for role Stopped without multiple-active=stop_unexpected: a copy that it finds lets the cluster stop the healthy guest, too`,
          fix: setMeta(id, 'multiple-active'),
        },
      ]
    : [],
);

export const wrongParameters = ofResource((resource, { parameterProblems }, { node }) =>
  parameterProblems.map((problem) => ({
    rule: 'wrong-parameter',
    severity: 'error',
    reason: `${resource.id} cannot be started on ${node}: ${problem}`,
    fix: `crm_resource --resource ${resource.id} --set-parameter NAME --parameter-value VALUE    # or put right on ${node} what it names`,
  })),
);

export const RESOURCE_RULES = [
  noPreservedRule,
  migrationThreshold,
  multipleActive,
  allowMigrate,
  unmanaged,
  noMonitor,
  rareMonitor,
  shortTimeouts,
  stopWithoutReserve,
  failureIgnored,
  stoppedMonitor,
  wrongParameters,
] as const;

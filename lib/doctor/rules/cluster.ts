import { KVM_GUEST, KVM_WATCH, VIRTUAL_DOMAIN } from '../../cluster/configuration.ts';
import type { ClusterFacts, Facts } from '../facts.ts';
import type { Finding } from '../finding.ts';

type Judge = (cluster: ClusterFacts, facts: Facts) => Finding[];

/** A rule on the cluster, for when there is one. */
function ofCluster(judge: Judge): (facts: Facts) => Finding[] {
  return (facts) => (facts.cluster.kind === 'known' ? judge(facts.cluster.value, facts) : []);
}

/** One finding about the cluster as a whole. */
function about(finding: Omit<Finding, 'subject'>): Finding[] {
  return [{ ...finding, subject: 'cluster' }];
}

function isOff(value: string | undefined): boolean {
  return value !== undefined && /^(false|off|no|n|0)$/i.test(value);
}

function isOn(value: string | undefined): boolean {
  return value !== undefined && /^(true|on|yes|y|1)$/i.test(value);
}

export function noCluster({ cluster, clusterHangs, node }: Facts): Finding[] {
  return cluster.kind === 'known'
    ? []
    : [
        {
          rule: 'no-cluster',
          severity: 'warning',
          subject: node,
          reason: `the cluster cannot be asked, so that nothing of its configuration was judged, and no guest fails over (${cluster.why})`,
          // Not a restart, which stops every guest.
          fix: clusterHangs
            ? 'journalctl -u pacemaker -u corosync; top    # what makes it hang'
            : 'systemctl start pacemaker',
        },
      ];
}

export const noController = ofCluster(({ hasController, quorum }) =>
  hasController && quorum
    ? []
    : about({
        rule: 'no-quorum',
        severity: 'error',
        reason: `the cluster has no ${hasController ? 'quorum' : 'controller (DC)'} at this moment, and starts nothing`,
        fix: 'bring the other nodes back; "corosync-quorumtool" and "crm_mon -1" show which are missing',
      }),
);

export const stonithDisabled = ofCluster(({ configuration }) =>
  isOff(configuration.options.get('stonith-enabled'))
    ? about({
        rule: 'stonith-disabled',
        severity: 'error',
        reason:
          'stonith-enabled is false: a node that is lost, or that cannot verify the end of a guest, is taken for dead without being so, and the guest then runs twice',
        fix: 'crm_attribute --name stonith-enabled --update true',
      })
    : [],
);

export const noFenceDevice = ofCluster(({ configuration }) =>
  configuration.fenceDevices.length > 0
    ? []
    : about({
        rule: 'no-fence-device',
        severity: 'error',
        reason:
          'no fence device is configured: guests of a node that is lost, or that cannot verify the end of one, are started nowhere',
        fix: 'configure one for the power supply of each node, and test it with "stonith_admin --reboot NODE"',
      }),
);

export const quorumIgnored = ofCluster(({ configuration }) =>
  configuration.options.get('no-quorum-policy') === 'ignore'
    ? about({
        rule: 'quorum-ignored',
        severity: 'warning',
        reason:
          'no-quorum-policy is ignore: both halves of a cluster that is cut in two start the guests of the other, once each has fenced it',
        fix: 'crm_attribute --name no-quorum-policy --delete    # two nodes: "two_node: 1" in corosync.conf instead',
      })
    : [],
);

export const inMaintenance = ofCluster(({ configuration }) =>
  isOn(configuration.options.get('maintenance-mode'))
    ? about({
        rule: 'maintenance-mode',
        severity: 'warning',
        reason: 'the cluster is in maintenance mode: no guest is monitored or failed over',
        fix: 'crm_attribute --name maintenance-mode --delete',
      })
    : [],
);

export const stopAllResources = ofCluster(({ configuration }) =>
  isOn(configuration.options.get('stop-all-resources'))
    ? about({
        rule: 'stop-all-resources',
        severity: 'warning',
        reason: 'the cluster is told to stop all resources',
        fix: 'crm_attribute --name stop-all-resources --delete',
      })
    : [],
);

export const oneNode = ofCluster(({ configuration }) =>
  configuration.nodes.length > 1
    ? []
    : about({
        rule: 'one-node',
        severity: 'warning',
        reason: 'the cluster has one node: there is none to which a guest could fail over',
        fix: 'add a node to the cluster',
      }),
);

export const virtualDomain = ofCluster(({ configuration }) =>
  configuration.resources
    .filter(({ agent }) => agent === VIRTUAL_DOMAIN)
    .map(({ id }) => ({
      rule: 'virtual-domain',
      severity: 'note',
      subject: id,
      reason: `${id} is still run by ${VIRTUAL_DOMAIN}: a fault of the host is not seen, or ends in fencing`,
      fix: `kvmha configure ${id} --apply    # the guest keeps running`,
    })),
);

/** The strategies that move resources off a node by its colour; `custom` goes by rules of the operator's. */
const BY_COLOUR = ['migrate-on-red', 'only-green', 'progressive'];

export const watcherMovedAway = ofCluster(({ configuration }) => {
  const strategy = configuration.options.get('node-health-strategy');
  return strategy === undefined || !BY_COLOUR.includes(strategy)
    ? []
    : configuration.resources
        .filter(({ agent, meta }) => agent === KVM_WATCH && !isOn(meta.get('allow-unhealthy-nodes')))
        .map(({ id, collective }) => ({
          rule: 'watcher-moved-away',
          severity: 'warning',
          subject: collective?.id ?? id,
          reason: `node-health-strategy is ${strategy}, by which the cluster also stops the watcher on an unhealthy node, where the next fault is likely: no memory failure is heard of there any more`,
          fix: `crm_resource --resource ${collective?.id ?? id} --meta --set-parameter allow-unhealthy-nodes --parameter-value true`,
        }));
});

/** Results of a probe or an action by which a node is closed to a resource (OCF: ERR_ARGS, ERR_INSTALLED). */
const CLOSING: Readonly<Record<number, string>> = {
  2: 'its configuration is refused',
  5: 'something is missing',
};

export const closedNodes = ofCluster(({ configuration }) => {
  const guests = new Set(
    configuration.resources.filter(({ agent }) => agent === KVM_GUEST).map(({ id }) => id),
  );
  return configuration.history.flatMap(({ node, resource, operation, code, exitReason }): Finding[] =>
    guests.has(resource) && CLOSING[code] !== undefined
      ? [
          {
            rule: 'closed-node',
            severity: 'error',
            subject: resource,
            reason: `${node} cannot run ${resource}: ${CLOSING[code]} there (${operation} answered ${code}${exitReason === '' ? '' : `: ${exitReason}`})`,
            fix: `put it right on ${node}, then crm_resource --cleanup --resource ${resource} --node ${node}`,
          },
        ]
      : [],
  );
});

/** Two resources of one domain would each start it. */
export const sameDomain = ofCluster((_, { guests }) =>
  guests.flatMap((guest, index): Finding[] => {
    const other = guests
      .slice(0, index)
      .find(
        (each) =>
          each.resource !== undefined &&
          guest.resource !== undefined &&
          each.definition.kind === 'known' &&
          each.name === guest.name,
      );
    return other === undefined || guest.resource === undefined
      ? []
      : [
          {
            rule: 'same-domain',
            severity: 'error',
            subject: guest.resource.id,
            reason: `the resources ${other.resource?.id} and ${guest.resource.id} are the same domain ${guest.name}: each stops what the other has started`,
            fix: `crm_resource --resource ${guest.resource.id} --set-parameter target-role --meta --parameter-value Stopped    # then remove one of them`,
          },
        ];
  }),
);

export const CLUSTER_RULES = [
  noCluster,
  noController,
  stonithDisabled,
  noFenceDevice,
  quorumIgnored,
  inMaintenance,
  stopAllResources,
  oneNode,
  virtualDomain,
  watcherMovedAway,
  closedNodes,
  sameDomain,
] as const;

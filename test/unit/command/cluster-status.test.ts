import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { clusterReport, guestsOutside, type LocalWatcher } from '../../../agent/command/cluster-status.ts';
import type { GuestReport } from '../../../agent/command/report.ts';
import {
  isWell,
  renderProblems,
  renderStatus,
  type StatusReport,
} from '../../../agent/command/status-text.ts';
import type { ClusterNode, ClusterResource } from '../../../lib/cluster/cluster-view.ts';
import type { Operation, SurveyedCluster } from '../../../lib/cluster/survey.ts';
import { recordedSurvey } from '../cluster/recorded.ts';
import { HEALTHY_NODE, STARTED_RESOURCE } from '../cluster/views.ts';
import { RUNNING_GUEST } from './reports.ts';

const WATCHER: LocalWatcher = {
  state: 'running',
  since: '2026-11-25T04:00:00.000Z',
  followed: 2,
  silent: 0,
};

const NODE: ClusterNode = { name: 'node1', ...HEALTHY_NODE };

const RESOURCE: ClusterResource = { ...STARTED_RESOURCE, activeOn: ['node2'] };

const GUEST: GuestReport = { ...RUNNING_GUEST, resource: 'web' };

const KEPT: GuestReport = {
  ...GUEST,
  state: 'quiesced-failover-safe',
  fault: 'io-error',
  proof: { complete: true, missing: [] },
  disk: { images: 20 * 1024 ** 2, postmortem: 512 * 1024 ** 2 },
  attention: 'release it',
};

/** A cluster of two nodes with one guest, \`web\`, which is well on the second node. This is node1. */
function cluster(more: Partial<SurveyedCluster> = {}, web: Partial<ClusterResource> = {}): SurveyedCluster {
  return {
    kind: 'cluster',
    localNode: 'node1',
    hasController: true,
    quorum: true,
    noQuorumPolicy: 'stop',
    stonithEnabled: true,
    maintenanceMode: false,
    stopAllResources: false,
    nodes: [NODE, { ...NODE, name: 'node2' }],
    attributes: new Map(),
    guests: new Map([['web', { ...RESOURCE, ...web }]]),
    watchers: new Map([['watch', { ...RESOURCE, activeOn: ['node1', 'node2'] }]]),
    operations: [],
    health: new Map(),
    healthStrategy: undefined,
    ...more,
  };
}

function operation(more: Partial<Operation>): Operation {
  const since = '2026-11-25T03:00:00.000Z';
  return {
    resource: 'web',
    node: 'node2',
    task: 'monitor',
    interval: 10_000,
    exitCode: 0,
    since,
    reason: undefined,
    ...more,
  };
}

const marked = (node: string, resource = 'web') =>
  new Map([
    [
      node,
      new Map([
        [`kvmha-preserved-${resource}`, '1'],
        [`kvmha-fault-${resource}`, 'io-error'],
      ]),
    ],
  ]);

function report(
  survey: SurveyedCluster,
  guests: readonly GuestReport[] = [],
  watcher = WATCHER,
): StatusReport {
  return {
    node: 'host1',
    time: '2026-11-25T04:05:00.000Z',
    libvirtSilent: null,
    clusterSilent: null,
    problems: [],
    guests,
    cluster: clusterReport(survey, guests, watcher),
  };
}

/** Everything that is to be attended to, each with the name of what it is about. */
function attention(
  survey: SurveyedCluster,
  guests: readonly GuestReport[] = [],
  watcher?: LocalWatcher,
): string[] {
  const { attention: whole, nodes, guests: resources } = clusterReport(survey, guests, watcher ?? WATCHER);
  return [
    ...whole,
    ...nodes.flatMap(({ name, attention }) => attention.map((each) => `${name}: ${each}`)),
    ...resources.flatMap(({ resource, attention }) => attention.map((each) => `${resource}: ${each}`)),
  ];
}

describe('the guests of a cluster', () => {
  test('are shown with their nodes, and a preserved copy with the little that is known of it elsewhere', async () => {
    const survey = await recordedSurvey('survey-preserved');
    const here = ['web', 'db'].map((name): GuestReport => ({ ...GUEST, name, resource: name }));
    const text = renderStatus(report(survey, here));
    assert.match(text, /^GUEST +NODE +STATE +SINCE +FAULT +QEMU +MEMORY +IMAGES +POST-MORTEM +RESOURCE$/m);
    assert.match(text, /^web +node1 +running +2026-11-25T02:01:07Z +318 +3\.0 GiB +web$/m);
    assert.match(text, /^db +node1 +running /m);
    assert.match(text, /^db +node2 +preserved +20\S+Z +io-error +\? +\? +\? +db$/m);
    assert.match(text, /^app +stopped +app$/m);
    assert.match(
      text,
      /^db: a copy is preserved on node2\..*known only there.*"kvmha release db" ends it there\.$/m,
    );
    assert.doesNotMatch(text, /^app: /m, 'it was stopped by its configuration');
  });

  test('are shown as Pacemaker has them where they were not looked at', async () => {
    const { guests } = clusterReport(await recordedSurvey('survey-healthy'), [], WATCHER);
    const places = guests.flatMap(({ resource, places }) =>
      places.map(({ node, state, copy, since }) => `${resource} ${node} ${state} ${copy} ${since !== null}`),
    );
    assert.deepEqual(places.sort(), [
      'app node2 started active true',
      'db node2 started active true',
      'web node1 started active true',
    ]);
  });

  test('a preserved copy of this node is shown with what it holds', () => {
    const text = renderStatus(report(cluster({ attributes: marked('node1') }), [KEPT]));
    assert.match(text, /^web +node1 +quiesced-failover-safe .* 3\.0 GiB +20 MiB +512 MiB +complete +web$/m);
    assert.match(text, /^web: on node1, release it\.$/m);
    assert.doesNotMatch(text, /attrd_updater/);
  });

  test('a copy of which the cluster is not told is to be marked, but not before the guest has left', () => {
    const mark = /"attrd_updater --name=kvmha-preserved-web --update=1" does/;
    assert.match(attention(cluster(), [KEPT]).join('\n'), mark);
    assert.doesNotMatch(attention(cluster({}, { activeOn: ['node1'] }), [KEPT]).join('\n'), mark);
  });

  test('a mark of this node without a copy is to be removed', () => {
    assert.match(
      attention(cluster({ attributes: marked('node1') })).join('\n'),
      /kvmha-preserved-web --delete/,
    );
  });

  test('a domain that is only defined here is no copy, and one of no resource is shown as such', () => {
    const defined: GuestReport = { ...GUEST, state: 'shut-off', qemu: null, since: null };
    const alone: GuestReport = { ...GUEST, name: 'alone', resource: null };
    const text = renderStatus(report(cluster(), [defined, alone]));
    assert.doesNotMatch(text, /shut-off/);
    assert.match(text, /^alone +node1 +running/m);
    assert.deepEqual(guestsOutside(clusterReport(cluster(), [defined, alone], WATCHER), [defined, alone]), [
      alone,
    ]);
  });

  test('a name of its own is found by the resource, an instance of a clone too', () => {
    const guest = { ...GUEST, name: 'domain', resource: 'web:0' };
    const { guests } = clusterReport(cluster({}, { activeOn: ['node1'] }), [guest], WATCHER);
    assert.equal(guests[0]?.guest, 'domain');
    assert.equal(guests[0]?.places[0]?.seen, guest);
  });

  test('an instance of a globally unique clone is its own resource', () => {
    const resources = ['web:0', 'web:1'].map((id) => [id, { ...RESOURCE, activeOn: ['node1'] }] as const);
    const guest = { ...GUEST, resource: 'web:1' };
    const { guests } = clusterReport(cluster({ guests: new Map(resources) }), [guest], WATCHER);
    assert.deepEqual(
      guests.map((each) => each.places[0]?.seen ?? null),
      [null, guest],
    );
  });

  test('one that runs degraded elsewhere is told with the reason', () => {
    const operations = [operation({ exitCode: 190, reason: 'an error was survived' })];
    const text = renderStatus(report(cluster({ operations })));
    assert.match(text, /^web +node2 +degraded .*an error was survived/m);
    assert.match(text, /^web: it runs on node2, but degraded: "kvmha status web" there tells more/m);
  });
});

describe('what a cluster needs', () => {
  test('is nothing when all is well', () => {
    assert.deepEqual(attention(cluster()), []);
    assert.ok(isWell(report(cluster())));
  });

  test('each problem is told with what to do next, and makes that not all is well', () => {
    const node2 = (more: Partial<ClusterNode>) => ({ nodes: [NODE, { ...NODE, name: 'node2', ...more }] });
    const cases: [SurveyedCluster, RegExp][] = [
      [cluster({ hasController: false }), /electing.*look again/],
      [cluster({ quorum: false }), /no quorum, so it starts no guest: bring the lost nodes back/],
      [cluster({ quorum: false, noQuorumPolicy: 'ignore' }), /no quorum: bring/],
      [cluster({ maintenanceMode: true }), /"crm_attribute --name=maintenance-mode --delete"/],
      [cluster({ stopAllResources: true }), /"crm_attribute --name=stop-all-resources --delete"/],
      [cluster(node2({ online: false })), /node2: .*start Pacemaker there/],
      [cluster(node2({ unclean: true })), /node2: .*"stonith_admin --history=node2"/],
      [cluster({}, { managed: false }), /web: .*--delete-parameter=is-managed/],
      [cluster({}, { blocked: true }), /web: .*on node2 .*"crm_resource --cleanup --resource=web"/],
      [cluster({}, { failed: true }), /web: .*"crm_resource --why --resource=web"/],
      [cluster({}, { orphaned: true }), /web: .*"crm_resource --cleanup --resource=web"/],
      [cluster({}, { activeOn: [] }), /web: it runs nowhere: "crm_resource --why --resource=web"/],
      [cluster({}, { activeOn: ['node1', 'node2'] }), /web: .*on node1 and node2 at a time/],
      [
        cluster({ watchers: new Map([['watch', { ...RESOURCE, activeOn: ['node1'] }]]) }),
        /node2: its watcher does not run;.*"crm_resource --cleanup --resource=watch --node=node2"/,
      ],
      [
        cluster({ operations: [operation({ resource: 'watch', exitCode: 7 })] }),
        /node2: its watcher has failed;/,
      ],
    ];
    for (const [survey, words] of cases) {
      assert.match(attention(survey).join('\n'), words);
      assert.ok(!isWell(report(survey)), String(words));
    }
  });

  test('a failure is told in the words of the agent', () => {
    const operations = [
      operation({ task: 'asyncmon', interval: 0, exitCode: 1, reason: 'Simulated failure' }),
      operation({ task: 'stop', interval: 0, exitCode: 1, reason: 'its end is not verified' }),
    ];
    assert.match(
      attention(cluster({ operations }, { blocked: true })).join('\n'),
      /cannot recover from \(stop on node2: its end is not verified\)/,
    );
  });

  test('what somebody has ordered is no problem of each guest', () => {
    const maintained = cluster(
      { nodes: [NODE, { ...NODE, name: 'node2', maintenance: true }] },
      { managed: false },
    );
    assert.deepEqual(attention(maintained), []);
    assert.deepEqual(attention(cluster({}, { activeOn: [], targetRole: 'Stopped' })), []);
    assert.equal(attention(cluster({ maintenanceMode: true }, { managed: false })).length, 1);
  });

  test('without a watcher in the cluster nobody is told to have one', () => {
    const survey = cluster({ watchers: new Map() });
    const stopped: LocalWatcher = { state: 'stopped', why: 'no socket' };
    assert.deepEqual(attention(survey, [], stopped), []);
    const text = renderStatus(report(survey, [], stopped));
    assert.match(text, /^node1 \(here\) +online +green +stopped$/m);
    assert.match(text, /^node2 +online +green +not told$/m);
  });

  test('the watcher of this node is asked itself', () => {
    const text = renderStatus(report(cluster()));
    assert.match(text, /^node1 \(here\) +online +green +running +2 +2026-11-25T04:00:00Z$/m);
    assert.match(
      attention(cluster(), [], { state: 'silent', why: 'no answer' }).join('\n'),
      /node1: its watcher does not answer \(no answer\)/,
    );
    assert.match(attention(cluster(), [], { ...WATCHER, silent: 1 }).join('\n'), /hears nothing of 1 guest/);
  });

  test('a cluster that does not answer is told on standard error', () => {
    const silent = { ...report(cluster()), cluster: null, clusterSilent: 'crm_mon hangs' };
    assert.ok(!isWell(silent));
    assert.match(
      renderProblems(silent),
      /cluster does not answer, so these are the guests of host1 alone.*crm_mon hangs/,
    );
  });
});

describe("a node's health", () => {
  const bad = (value: string, healthStrategy?: string) =>
    cluster({
      health: new Map([
        [
          'node2',
          new Map([
            ['#health-memory', value],
            ['#health-kvmha', value],
            ['#health-disk', 'green'],
          ]),
        ],
      ]),
      healthStrategy,
    });

  test('is told with its attribute, what follows, and how to end it', () => {
    const text = attention(bad('red')).join('\n');
    assert.match(
      text,
      /node2: it is red \(#health-memory red, #health-kvmha red\)\. Nothing follows, as node-health-strategy is none/,
    );
    assert.match(text, /"attrd_updater --name='#health-memory' --delete --node=node2"/);
    assert.match(text, /"kvmha host-health green" on node2/);
    assert.doesNotMatch(text, /health-disk/);
    assert.match(
      attention(bad('yellow', 'migrate-on-red')).join('\n'),
      /yellow .*goes by node-health-strategy=migrate-on-red/,
    );
  });

  test("that kvmha itself has declared is told with its reason, and ended by kvmha's own command", () => {
    const survey = cluster({
      health: new Map([['node2', new Map([['#health-kvmha', 'red']])]]),
      attributes: new Map([['node2', new Map([['kvmha-health-reason', '3 uncorrected errors']])]]),
    });
    const text = attention(survey).join('\n');
    assert.match(text, /it is red \(#health-kvmha red: 3 uncorrected errors\)/);
    assert.match(text, /When it is repaired: "kvmha host-health green" on node2$/m);
  });

  test('is a colour or a number', () => {
    const stateOf = (value: string) => clusterReport(bad(value), [], WATCHER).nodes[1]?.health.state;
    assert.deepEqual(['red', 'yellow', 'green', '-10', '0', '5'].map(stateOf), [
      'red',
      'yellow',
      'green',
      'red',
      'green',
      'green',
    ]);
  });
});

describe('colours', () => {
  test('are given to states, and do not disturb the columns', () => {
    const painted = renderStatus(report(cluster(), [KEPT]), (colour, text) => `<${colour}>${text}</>`);
    assert.match(painted, /<cyan>quiesced-failover-safe<\/>/);
    assert.match(painted, /<green>online<\/>/);
    assert.equal(painted.replaceAll(/<\/?\w*>/g, ''), renderStatus(report(cluster(), [KEPT])));
  });
});

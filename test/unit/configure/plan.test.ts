import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { RunningCluster } from '../../../lib/cluster/cluster-view.ts';
import { type ClusterConfiguration, parseConfiguration } from '../../../lib/cluster/configuration.ts';
import { unfitFor, withoutFencing } from '../../../lib/configure/apply.ts';
import { commandsFor, fragment, TOOLS } from '../../../lib/configure/commands.ts';
import { withHistoryOf, withOption, withPlans } from '../../../lib/configure/edit.ts';
import { type Change, changeInWords, type Plan, planChange, planNew } from '../../../lib/configure/plan.ts';
import { disturbances, parseActions } from '../../../lib/configure/preview.ts';
import { parseDefinition } from '../../../lib/doctor/definition.ts';
import { isKvmhaError } from '../../../lib/error.ts';
import { HEALTHY_NODE, STARTED_RESOURCE } from '../cluster/views.ts';
import { HEALTHY_CIB, HEALTHY_XML } from '../doctor/healthy.ts';

const OLD = `<primitive id="web" class="ocf" provider="heartbeat" type="VirtualDomain">
  <instance_attributes id="web-i"><nvpair id="web-c" name="config" value="/srv/web.xml"/></instance_attributes>
  <operations>
    <op id="web-start" name="start" interval="0" timeout="60s"/>
    <op id="web-stop" name="stop" interval="0" timeout="120s"/>
    <op id="web-mon" name="monitor" interval="30s" timeout="30s"/>
  </operations>
  <utilization id="web-u"><nvpair id="web-u-cpu" name="cpu" value="1"/></utilization>
</primitive>`;

const cib = (resources: string) =>
  `<cib><configuration><crm_config/><nodes/><resources>${resources}</resources><constraints/></configuration>
  <status><node_state uname="node1"><lrm><lrm_resources><lrm_resource id="web" class="ocf" provider="heartbeat" type="VirtualDomain"/>
  </lrm_resources></lrm></node_state></status></cib>`;

const definition = await parseDefinition(HEALTHY_XML, 'web.xml');

async function planned(text: string, domains = new Map<string, string>()) {
  const configuration = await parseConfiguration(text);
  const resource = configuration.resources.find(({ id }) => id === 'web');
  assert.ok(resource);
  return planChange(resource, definition, configuration, domains);
}

function changes(plan: Awaited<ReturnType<typeof planned>>): readonly Change[] {
  assert.ok(plan.kind === 'change', JSON.stringify(plan));
  return plan.changes;
}

/** That a plan, carried out on a copy of the configuration, leaves nothing to be changed. */
async function carriedOut(text: string, plans: readonly Plan[]): Promise<ClusterConfiguration> {
  const configuration = await parseConfiguration(await withPlans(text, plans));
  for (const { resource: id } of plans) {
    const resource = configuration.resources.find((each) => each.id === id);
    assert.ok(resource);
    assert.deepEqual(changes(planChange(resource, definition, configuration, new Map()) as Plan), []);
  }
  return configuration;
}

describe('planChange', () => {
  it('changes nothing of the recommended configuration', async () => {
    assert.deepEqual(changes(await planned(HEALTHY_CIB)), []);
  });

  it('makes a guest of VirtualDomain the recommended one, and leaves what exceeds it', async () => {
    assert.deepEqual(changes(await planned(cib(OLD))).map(changeInWords), [
      'run by ocf:kvmha:KvmGuest instead of ocf:heartbeat:VirtualDomain',
      'allow-migrate=true (was not set)',
      'migration-threshold=1 (was not set)',
      'multiple-active=stop_unexpected (was not set)',
      'timeout of start 90s (was 60s)',
      'operation migrate_to with timeout=120s (was not configured)',
      'operation migrate_from with timeout=60s (was not configured)',
      'a location rule that keeps it off the node of its preserved copy',
    ]);
  });

  it('comes to the recommended configuration when it is carried out on a copy', async () => {
    for (const resources of [OLD, `<group id="g">${OLD}</group>`]) {
      const plan = await planned(cib(resources));
      assert.ok(plan.kind === 'change');
      const { resources: after } = await carriedOut(cib(resources), [plan]);
      assert.equal(after[0]?.parameters.get('config'), '/srv/web.xml');
      assert.deepEqual(
        after[0]?.operations
          .filter(({ name }) => ['stop', 'monitor'].includes(name))
          .map(({ timeout, interval }) => [timeout, interval]),
        [
          [120_000, 0],
          [30_000, 30_000],
        ],
      );
    }
  });

  it('leaves shared sets of meta attributes, and those for some times only, as they are', async () => {
    const shared = OLD.replace(
      '<operations>',
      '<meta_attributes id-ref="all"/><meta_attributes id="night"><rule id="r" score="1"/></meta_attributes><operations>',
    );
    const plan = await planned(cib(shared));
    const after = await withPlans(cib(shared), [plan as Plan]);
    assert.match(after, /<meta_attributes id-ref="all"\/>/);
    assert.match(after, /<meta_attributes id="night"><rule id="r" score="1"\/><\/meta_attributes>/);
  });

  for (const [what, text, pattern] of [
    ['what is no guest', cib(OLD.replace('VirtualDomain', 'Dummy')), /is a ocf:heartbeat:Dummy/],
    ['a clone', cib(`<clone id="c">${OLD}</clone>`), /in the clone c/],
    [
      'a template',
      cib(OLD.replace('class="ocf" provider="heartbeat" type="VirtualDomain"', 'template="t"')),
      /from the template t/,
    ],
    [
      'a hypervisor that is not QEMU',
      cib(OLD.replace('</instance', '<nvpair id="h" name="hypervisor" value="xen:///"/></instance')),
      /not a URI of the qemu driver/,
    ],
  ] as const) {
    it(`refuses ${what}`, async () => {
      const plan = await planned(text);
      assert.ok(plan.kind === 'refused');
      assert.match(plan.reasons.join('\n'), pattern);
    });
  }

  it('refuses a guest whose XML cannot be read, and one that another resource runs', async () => {
    const configuration = await parseConfiguration(cib(OLD));
    const [resource] = configuration.resources;
    assert.ok(resource);
    assert.match(
      JSON.stringify(planChange(resource, 'ENOENT', configuration, new Map())),
      /cannot be used: ENOENT/,
    );
    assert.match(
      JSON.stringify(await planned(cib(OLD), new Map([['other', 'web']]))),
      /other is the same domain web/,
    );
    assert.equal((await planned(cib(OLD), new Map([['web', 'web']]))).kind, 'change');
  });
});

describe('planNew', () => {
  it('makes the recommended resource', async () => {
    const plan = planNew('web', '/srv/my "web".xml', definition, undefined, new Map());
    assert.ok(plan.kind === 'new');
    const { resources } = await carriedOut(cib(''), [plan]);
    assert.equal(resources[0]?.parameters.get('config'), '/srv/my "web".xml');
  });

  it('refuses names that are none, or that the cluster has', async () => {
    const configuration = await parseConfiguration(cib(OLD));
    for (const [id, domains, pattern] of [
      ['a b', [], /is no id of a resource/],
      ['1web', [], /is no id of a resource/],
      ['web', [], /has a resource web already/],
      ['web2', [['web', 'web']], /web is the same domain web/],
    ] as const) {
      const plan = planNew(id, '/srv/web.xml', definition, configuration, new Map(domains));
      assert.ok(plan.kind === 'refused');
      assert.match(plan.reasons.join('\n'), pattern);
    }
  });
});

describe('commandsFor', () => {
  it('puts a file name into quotes that the shell takes off again', () => {
    const plan: Plan = { kind: 'new', resource: 'web', config: "/srv/it's $(here).xml" };
    for (const tool of ['crm', 'pcs'] as const) {
      assert.ok(commandsFor([plan], tool).includes(`config='/srv/it'\\''s $(here).xml'`));
    }
  });

  it('keeps the cluster from acting while a guest changes its agent, and only then', async () => {
    const adopted = (await planned(cib(OLD))) as Plan;
    const improved = (await planned(
      HEALTHY_CIB.replace(
        'timeout="90s" interval="0" id="web-start"',
        'timeout="9s" interval="0" id="web-start"',
      ),
    )) as Plan;
    for (const tool of TOOLS) {
      const lines = commandsFor([adopted], tool).split('\n');
      const at = (pattern: RegExp) => lines.findIndex((line) => pattern.test(line));
      assert.ok(at(/maintenance-mode --update true/) < at(/KvmGuest/));
      assert.ok(at(/KvmGuest/) < at(/--refresh/));
      assert.ok(at(/--refresh/) < at(/maintenance-mode --delete/));
      assert.equal(
        commandsFor([improved], tool),
        `cibadmin --modify --scope resources --xml-text '<op id="web-start" timeout="90s"/>'\n`,
      );
    }
    assert.equal(commandsFor([{ kind: 'change', resource: 'web', changes: [] }], 'crm'), '');
  });
});

describe('fragment', () => {
  it('is XML of what is made', () => {
    const text = fragment([{ kind: 'new', resource: 'web', config: '/srv/web.xml' }]);
    assert.match(
      text,
      /^<configuration>\n {2}<resources>\n {4}<primitive id="web".*\n {2}<\/resources>\n {2}<constraints>/,
    );
  });
});

describe('copies of a configuration', () => {
  it('remember a resource as one of the new agent', async () => {
    const text = await withHistoryOf(cib(OLD), ['web']);
    assert.match(text, /<lrm_resource id="web" class="ocf" provider="kvmha" type="KvmGuest"\/>/);
    assert.match(text, /<primitive id="web" class="ocf" provider="heartbeat" type="VirtualDomain">/);
  });

  it('have an option set, changed or removed', async () => {
    const option = async (text: string) => (await parseConfiguration(text)).options.get('maintenance-mode');
    const on = await withOption(cib(OLD), 'maintenance-mode', 'true');
    assert.equal(await option(on), 'true');
    assert.equal(await option(await withOption(on, 'maintenance-mode', 'false')), 'false');
    assert.equal(await option(await withOption(on, 'maintenance-mode', undefined)), undefined);
  });

  it('are made of CIBs that have what is changed', async () => {
    const plan: Plan = { kind: 'change', resource: 'ghost', changes: [{ kind: 'agent' }] };
    await assert.rejects(withPlans(cib(OLD), [plan]), (error) => isKvmhaError(error, 'malformed'));
  });
});

describe('disturbances', () => {
  it('are all actions but starts of what is made', async () => {
    const actions = await parseActions(`<pacemaker-result><actions>
      <rsc_action action="start" resource="new" node="node1"/><rsc_action action="start" resource="web" node="node2"/>
      <rsc_action action="move" resource="db" source="node1" dest="node2" reason="score"/></actions></pacemaker-result>`);
    assert.deepEqual(
      disturbances(actions, ['new']).map(({ action, resource, where }) => `${action} ${resource} ${where}`),
      ['start web node2', 'move db node1 to node2'],
    );
  });
});

describe('withoutFencing', () => {
  it('refuses new guests where fencing is switched off, and lets others be adopted', () => {
    const options = new Map([['stonith-enabled', 'false']]);
    const fresh: Plan = { kind: 'new', resource: 'web', config: '/srv/web.xml' };
    const old: Plan = { kind: 'change', resource: 'db', changes: [{ kind: 'agent' }] };
    assert.match(withoutFencing([old, fresh], { options }).join(), /fencing is switched off/);
    assert.deepEqual(withoutFencing([old], { options }), []);
    assert.deepEqual(withoutFencing([fresh], { options: new Map() }), []);
  });
});

describe('unfitFor', () => {
  const resource = STARTED_RESOURCE;
  const node = { name: 'node1', ...HEALTHY_NODE, health: undefined } as const;
  const view = {
    kind: 'cluster',
    localNode: 'node1',
    hasController: true,
    quorum: true,
    nodes: [node],
    resourceId: 'web',
    resource,
  } as unknown as RunningCluster;

  it('finds nothing against a healthy guest, running or not', () => {
    assert.deepEqual(unfitFor(view), []);
    assert.deepEqual(unfitFor({ ...view, resource: { ...resource, activeOn: [] } }), []);
  });

  it('does not let a guest be adopted from a state that is not clear', () => {
    for (const [change, pattern] of [
      [{ quorum: false }, /no quorum/],
      [{ nodes: [{ ...node, unclean: true }] }, /node1 is unclean/],
      [{ resource: { ...resource, failed: true } }, /web has failed/],
      [{ resource: { ...resource, activeOn: ['node1', 'node2'] } }, /runs on node1 and node2/],
    ] as const) {
      assert.match(unfitFor({ ...view, ...change }).join('\n'), pattern);
    }
  });
});

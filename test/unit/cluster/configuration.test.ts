import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { hasPreservedRule, milliseconds, parseConfiguration } from '../../../lib/cluster/configuration.ts';
import { isKvmhaError } from '../../../lib/error.ts';

function cib(parts: { config?: string; resources?: string; constraints?: string; status?: string }): string {
  return `<cib><configuration>${parts.config ?? ''}<resources>${parts.resources ?? ''}</resources>
    <constraints>${parts.constraints ?? ''}</constraints></configuration><status>${parts.status ?? ''}</status></cib>`;
}

const pair = (name: string, value: string) => `<nvpair id="${name}" name="${name}" value="${value}"/>`;

describe('parseConfiguration', () => {
  it('gives a resource what it, its group or the defaults say, in this order', async () => {
    const { resources } = await parseConfiguration(
      cib({
        config: `<rsc_defaults><meta_attributes id="d">${pair('a', 'default')}${pair('b', 'default')}${pair('c', 'default')}</meta_attributes></rsc_defaults>`,
        resources: `<group id="g"><meta_attributes id="gm">${pair('b', 'group')}${pair('c', 'group')}</meta_attributes>
          <primitive id="web" class="ocf" provider="kvmha" type="KvmGuest">
            <meta_attributes id="wm">${pair('c', 'own')}</meta_attributes></primitive></group>`,
      }),
    );
    assert.equal(resources[0]?.agent, 'ocf:kvmha:KvmGuest');
    assert.deepEqual(resources[0]?.collective, { kind: 'group', id: 'g' });
    assert.deepEqual(
      [...(resources[0]?.meta ?? [])],
      [
        ['a', 'default'],
        ['b', 'group'],
        ['c', 'own'],
      ],
    );
  });

  it('leaves out what a rule applies at times', async () => {
    const { resources } = await parseConfiguration(
      cib({
        resources: `<primitive id="web" class="ocf" provider="kvmha" type="KvmGuest">
          <meta_attributes id="m"><rule id="r" score="1"/>${pair('x', 'at night')}</meta_attributes></primitive>`,
      }),
    );
    assert.equal(resources[0]?.meta.get('x'), undefined);
  });

  it('reads operations with their timeouts, those of op_defaults among them', async () => {
    const ops = (defaults: string) =>
      cib({
        config: defaults,
        resources: `<primitive id="web" class="ocf" provider="kvmha" type="KvmGuest"><operations>
          <op id="start" name="start" interval="0" timeout="1min"/><op id="stop" name="stop" interval="0"/>
          <op id="mon" name="monitor" interval="10" role="Stopped" enabled="false" on-fail="ignore"/>
          </operations></primitive>`,
      });
    const { resources } = await parseConfiguration(ops(''));
    assert.deepEqual(
      resources[0]?.operations.map(({ timeout, interval }) => [timeout, interval]),
      [
        [60_000, 0],
        [20_000, 0],
        [20_000, 10_000],
      ],
    );
    const { role, enabled, onFail } = resources[0]?.operations[2] ?? {};
    assert.deepEqual({ role, enabled, onFail }, { role: 'Stopped', enabled: false, onFail: 'ignore' });
    const defaults = `<op_defaults><meta_attributes id="o">${pair('timeout', '45s')}</meta_attributes></op_defaults>`;
    assert.equal((await parseConfiguration(ops(defaults))).resources[0]?.operations[1]?.timeout, 45_000);
  });

  it('tells fence devices from resources', async () => {
    const { fenceDevices, resources } = await parseConfiguration(
      cib({
        resources:
          '<primitive id="f" class="stonith" type="fence_ipmilan"/><clone id="c"><primitive id="p" template="t"/></clone>',
      }),
    );
    assert.deepEqual(fenceDevices, ['f']);
    assert.deepEqual(
      resources.map(({ id, agent, template, collective }) => ({ id, agent, template, collective })),
      [{ id: 'p', agent: undefined, template: 't', collective: { kind: 'clone', id: 'c' } }],
    );
  });

  it('refuses what is no CIB', async () => {
    for (const text of ['', 'no', '<pacemaker-result/>']) {
      await assert.rejects(parseConfiguration(text), (error) => isKvmhaError(error, 'malformed'));
    }
  });
});

describe('hasPreservedRule', () => {
  const rule = (resource: string, expression: string, score = '-INFINITY') =>
    cib({
      resources: '<clone id="c"><primitive id="web" class="ocf" provider="kvmha" type="KvmGuest"/></clone>',
      constraints: `<rsc_location id="l" rsc="${resource}"><rule id="r" score="${score}">${expression}</rule></rsc_location>`,
    });
  const expression = (operation: string, value: string) =>
    `<expression id="e" attribute="kvmha-preserved-web" operation="${operation}" value="${value}"/>`;

  async function has(text: string): Promise<boolean> {
    const configuration = await parseConfiguration(text);
    const [resource] = configuration.resources;
    assert.ok(resource);
    return hasPreservedRule(configuration, resource);
  }

  it('finds the recommended rule, on the resource or on what it is in', async () => {
    assert.equal(await has(rule('web', expression('eq', '1'))), true);
    assert.equal(await has(rule('c', expression('eq', '1'))), true);
  });

  it('takes no other rule for it', async () => {
    assert.equal(await has(rule('db', expression('eq', '1'))), false);
    assert.equal(await has(rule('web', expression('ne', '1'))), false);
    assert.equal(await has(rule('web', expression('eq', '0'))), false);
    assert.equal(await has(rule('web', expression('eq', '1'), '-100')), false);
    // Another expression beside it may keep the rule from ever applying.
    assert.equal(
      await has(
        rule('web', `${expression('eq', '1')}<expression id="x" attribute="y" operation="defined"/>`),
      ),
      false,
    );
  });
});

describe('milliseconds', () => {
  it('reads the durations that Pacemaker reads', () => {
    for (const [words, expected] of [
      ['90', 90_000],
      ['90s', 90_000],
      [' 2 min ', 120_000],
      ['1h', 3_600_000],
      ['500ms', 500],
      ['PT1M30S', 90_000],
      ['soon', undefined],
      ['', undefined],
      ['5 parsecs', undefined],
    ] as const) {
      assert.equal(milliseconds(words), expected, words);
    }
  });
});

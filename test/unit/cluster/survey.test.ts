import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { parseSurvey } from '../../../lib/cluster/survey.ts';
import { recorded, recordedSurvey } from './recorded.ts';

describe('a survey of the cluster', () => {
  test('finds the guests and the watchers, and where they are', async () => {
    const { guests, watchers, localNode, nodes } = await recordedSurvey('survey-healthy');
    assert.equal(localNode, 'node1');
    assert.deepEqual(
      nodes.map(({ name }) => name),
      ['node1', 'node2'],
    );
    assert.deepEqual([...guests.keys()].sort(), ['app', 'db', 'web']);
    assert.deepEqual(guests.get('web')?.activeOn, ['node1']);
    assert.deepEqual([...(watchers.get('kvm-watch')?.activeOn ?? [])].sort(), ['node1', 'node2']);
    assert.equal(watchers.get('kvm-watch')?.collective?.kind, 'clone');
  });

  test('takes no other resource for a guest', async () => {
    const survey = await parseSurvey(recorded('healthy'), undefined, 'node1');
    assert.equal(survey.kind === 'cluster' && survey.guests.size, 0);
  });

  test('tells what the nodes did last, and when', async () => {
    const { operations } = await recordedSurvey('survey-preserved');
    const done = (resource: string, node: string) =>
      operations
        .filter((each) => each.resource === resource && each.node === node)
        .map(({ task, interval, exitCode }) => `${task} ${interval} ${exitCode}`);
    assert.deepEqual(done('db', 'node1').sort(), ['monitor 2000 0', 'start 0 0']);
    assert.deepEqual(done('db', 'node2').sort(), ['asyncmon 0 1', 'monitor 2000 0', 'stop 0 0']);
    for (const { since } of operations) {
      assert.match(since ?? '', /^20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.000Z$/);
    }
    const failure = operations.find(({ task }) => task === 'asyncmon');
    assert.equal(failure?.reason, 'Simulated failure');
    assert.equal(operations.find(({ task }) => task === 'stop')?.reason, undefined);
  });

  test("knows the nodes' health, permanent and transient, and what follows from it", async () => {
    const { health, healthStrategy } = await recordedSurvey('survey-preserved');
    assert.deepEqual(Object.fromEntries(health.get('node1') ?? []), { '#health-disk': 'yellow' });
    assert.deepEqual(Object.fromEntries(health.get('node2') ?? []), { '#health-memory': 'red' });
    assert.equal(healthStrategy, undefined);
    const { healthStrategy: strategy } = await recordedSurvey('survey-health-strategy');
    assert.equal(strategy, 'migrate-on-red');
    assert.equal((await recordedSurvey('survey-healthy')).health.size, 0);
  });

  test('understands what cibadmin found, be it nothing or a single element', async () => {
    const mon = recorded('survey-healthy');
    const none = await parseSurvey(mon, undefined, 'node1');
    assert.deepEqual(none.kind === 'cluster' && none.operations, []);
    const one = await parseSurvey(mon, '<nvpair name="node-health-strategy" value="progressive"/>', 'node1');
    assert.equal(one.kind === 'cluster' && one.healthStrategy, 'progressive');
  });

  test('leaves out an operation that it does not understand, and a time that cannot be', async () => {
    const cib = `<xpath-query>
      <lrm_rsc_op operation_key="a_notify_0" on_node="node1" rc-code="0"/>
      <lrm_rsc_op operation_key="a_b_start_0" operation="start" interval="0" on_node="node1" rc-code="0" last-rc-change="0"/>
    </xpath-query>`;
    const survey = await parseSurvey(recorded('survey-healthy'), cib, 'node1');
    assert.deepEqual(survey.kind === 'cluster' && survey.operations, [
      {
        resource: 'a_b',
        node: 'node1',
        task: 'start',
        interval: 0,
        exitCode: 0,
        since: undefined,
        reason: undefined,
      },
    ]);
  });

  test('is silent, and says why, where the answer is not what Pacemaker prints', async () => {
    const mon = recorded('survey-healthy');
    for (const [view, cib] of [
      ['', undefined],
      ['<html/>', undefined],
      [recorded('no-cluster'), undefined],
      [mon, 'no XML'],
      [mon, ''],
    ] as const) {
      const survey = await parseSurvey(view, cib, 'node1');
      assert.equal(survey.kind, 'silent');
      assert.notEqual(survey.kind === 'silent' && survey.why, '');
    }
  });
});

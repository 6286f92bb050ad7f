import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { readEnvironment } from '../../agent/ocf/environment.ts';
import { OCF, OcfFailure } from '../../lib/ocf.ts';

/** What the cluster sets for every operation. */
const CLUSTER = { OCF_RA_VERSION_MAJOR: '1', OCF_RESOURCE_INSTANCE: 'web' };

describe('readEnvironment', () => {
  it('takes the action from the argument, and only without one from __OCF_ACTION', () => {
    const env = { ...CLUSTER, __OCF_ACTION: 'stop' };
    assert.equal(readEnvironment(['start'], env).action, 'start');
    assert.equal(readEnvironment([], env).action, 'stop');
    assert.equal(readEnvironment([], CLUSTER).action, '');
  });

  it('takes a monitor without interval for a probe, and no other action', () => {
    const recurring = { ...CLUSTER, OCF_RESKEY_CRM_meta_interval: '10000' };
    assert.equal(readEnvironment(['monitor'], CLUSTER).isProbe, true);
    assert.equal(
      readEnvironment(['monitor'], { ...CLUSTER, OCF_RESKEY_CRM_meta_interval: '0' }).isProbe,
      true,
    );
    assert.equal(readEnvironment(['monitor'], recurring).isProbe, false);
    assert.equal(readEnvironment(['monitor'], recurring).interval, 10_000);
    assert.equal(readEnvironment(['stop'], CLUSTER).isProbe, false);
  });

  it('tells a recurring monitor for role Stopped, however it is spelt, from others', () => {
    const recurring = { ...CLUSTER, OCF_RESKEY_CRM_meta_interval: '10000' };
    for (const [role, expected] of [
      ['Stopped', true],
      ['stopped', true],
      ['Started', false],
      ['', false],
    ] as const) {
      const env = { ...recurring, OCF_RESKEY_CRM_meta_role: role };
      assert.equal(readEnvironment(['monitor'], env).isMonitorOfStopped, expected, role);
      assert.equal(readEnvironment(['stop'], env).isMonitorOfStopped, false);
    }
    assert.equal(readEnvironment(['monitor'], recurring).isMonitorOfStopped, false);
    const probe = { ...CLUSTER, OCF_RESKEY_CRM_meta_role: 'Stopped' };
    assert.equal(readEnvironment(['monitor'], probe).isMonitorOfStopped, false);
  });

  it('gives the timeout in milliseconds, 90 s where there is none to be read', () => {
    const timeout = (value: string) =>
      readEnvironment(['stop'], { ...CLUSTER, OCF_RESKEY_CRM_meta_timeout: value }).timeout;
    assert.equal(timeout('20000'), 20_000);
    for (const value of ['', '0', '20s', '-1']) {
      assert.equal(timeout(value), 90_000, value);
    }
    assert.equal(readEnvironment(['stop'], CLUSTER).timeout, 90_000);
  });

  it('knows both ends of a migration and the node', () => {
    const environment = readEnvironment(['migrate_to'], {
      ...CLUSTER,
      OCF_RESKEY_CRM_meta_migrate_source: 'a',
      OCF_RESKEY_CRM_meta_migrate_target: 'b',
      OCF_RESKEY_CRM_meta_on_node: 'a',
    });
    assert.equal(environment.migrateSource, 'a');
    assert.equal(environment.migrateTarget, 'b');
    assert.equal(environment.node, 'a');
    assert.equal(readEnvironment(['migrate_to'], CLUSTER).migrateTarget, undefined);
  });

  it('reads the check level under either name', () => {
    assert.equal(readEnvironment(['monitor'], CLUSTER).checkLevel, 0);
    assert.equal(readEnvironment(['monitor'], { ...CLUSTER, OCF_CHECK_LEVEL: '10' }).checkLevel, 10);
    assert.equal(
      readEnvironment(['monitor'], { ...CLUSTER, OCF_RESKEY_OCF_CHECK_LEVEL: '20' }).checkLevel,
      20,
    );
  });

  it('wants to know the resource inside a cluster, but not for meta-data or outside of one', () => {
    const inside = { OCF_RA_VERSION_MAJOR: '1' };
    assert.throws(
      () => readEnvironment(['start'], inside),
      (error) => error instanceof OcfFailure && error.code === OCF.ERR_ARGS,
    );
    assert.equal(readEnvironment(['meta-data'], inside).instance, 'RESOURCE_ID');
    assert.equal(readEnvironment(['start'], {}).instance, 'default');
  });

  it('logs where ocf_log would', () => {
    assert.deepEqual(readEnvironment(['monitor'], CLUSTER).log, {
      facility: undefined,
      file: undefined,
      debugFile: undefined,
      debug: false,
      tag: `KvmGuest(web)[${process.pid}]`,
    });
    assert.deepEqual(
      readEnvironment(['monitor'], {
        ...CLUSTER,
        HA_LOGFACILITY: 'daemon',
        HA_LOGFILE: '/log',
        HA_DEBUGLOG: '/debug',
        HA_debug: '1',
        HA_LOGTAG: 'tag',
      }).log,
      { facility: 'daemon', file: '/log', debugFile: '/debug', debug: true, tag: 'tag' },
    );
    const none = readEnvironment(['monitor'], { ...CLUSTER, HA_LOGFACILITY: 'none', HA_debug: '0' }).log;
    assert.equal(none.facility, undefined);
    assert.equal(none.debug, false);
  });

  it('has a default for the prefix of the exit reason', () => {
    assert.equal(readEnvironment(['monitor'], CLUSTER).exitReasonPrefix, 'ocf-exit-reason:');
    const other = readEnvironment(['monitor'], { ...CLUSTER, OCF_EXIT_REASON_PREFIX: 'why:' });
    assert.equal(other.exitReasonPrefix, 'why:');
  });
});

import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { forgetUtilization, setUtilization } from '../../../lib/cluster/utilization.ts';
import { Deadline } from '../../../lib/deadline.ts';

/** A crm_resource that writes down its arguments, and fails for an attribute of a name. */
const CRM_RESOURCE = `#!/bin/sh
echo "$*" >>"\${0%/*}/calls"
case $* in *"$FAIL_FOR"*) echo "no such thing" >&2; exit 105 ;; esac
`;

describe('setUtilization', () => {
  let directory: string;
  let cache: string;
  const { PATH, FAIL_FOR } = process.env;
  const deadline = () => Deadline.in(10_000);

  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'kvmha-utilization-'));
    cache = join(directory, 'utilization');
    writeFileSync(join(directory, 'crm_resource'), CRM_RESOURCE, { mode: 0o755 });
    process.env['PATH'] = `${directory}:${PATH}`;
    process.env['FAIL_FOR'] = 'nothing';
  });
  afterEach(() => {
    Object.assign(process.env, { PATH, FAIL_FOR: FAIL_FOR ?? '' });
    rmSync(directory, { recursive: true });
  });

  function calls(): string[] {
    const file = join(directory, 'calls');
    const lines = existsSync(file) ? readFileSync(file, 'utf8').split('\n').slice(0, -1) : [];
    rmSync(file, { force: true });
    return lines;
  }

  it('sets what is asked for, and then only what has changed', async () => {
    const wanted = { cpu: 2, host_memory: 512, hv_memory: null };
    assert.deepEqual(await setUtilization('g1', wanted, cache, deadline()), {
      kind: 'done',
      changed: ['cpu', 'host_memory', 'hv_memory'],
    });
    assert.deepEqual(calls(), [
      '--resource=g1 --utilization --set-parameter=cpu --parameter-value=2 --force',
      '--resource=g1 --utilization --set-parameter=host_memory --parameter-value=512 --force',
      '--resource=g1 --utilization --delete-parameter=hv_memory --force',
    ]);
    assert.equal(statSync(cache).mode & 0o777, 0o600);
    assert.deepEqual(await setUtilization('g1', wanted, cache, deadline()), { kind: 'done', changed: [] });
    assert.deepEqual(calls(), []);
    assert.deepEqual(await setUtilization('g1', { ...wanted, cpu: 4 }, cache, deadline()), {
      kind: 'done',
      changed: ['cpu'],
    });
    assert.equal(calls().length, 1);
    // What is not asked for is kept in mind.
    await setUtilization('g1', { cpu: 5 }, cache, deadline());
    await setUtilization('g1', { ...wanted, cpu: 5 }, cache, deadline());
    assert.equal(calls().length, 1);
  });

  it('asks for nothing where nothing is wanted', async () => {
    assert.deepEqual(await setUtilization('g1', { cpu: undefined }, cache, deadline()), {
      kind: 'done',
      changed: [],
    });
    assert.deepEqual(calls(), []);
    assert.ok(!existsSync(cache));
  });

  it('sets everything again when the cache is gone, spoilt or of another resource', async () => {
    const set = async (resource = 'g1') => {
      await setUtilization(resource, { cpu: 2 }, cache, deadline());
      return calls().length;
    };
    assert.equal(await set(), 1);
    assert.equal(await set(), 0);
    forgetUtilization(cache);
    assert.equal(await set(), 1);
    assert.equal(await set('g2'), 1);
    for (const spoilt of ['', 'null', '{', '7', '{"resource":"g2"}', '{"resource":"g2","values":null}']) {
      writeFileSync(cache, spoilt);
      assert.equal(await set('g2'), 1, spoilt);
    }
    assert.doesNotThrow(() => forgetUtilization(join(directory, 'absent')));
  });

  it('names the primitive of a clone', async () => {
    await setUtilization('g1:0', { cpu: 2 }, cache, deadline());
    assert.match(calls()[0] ?? '', /^--resource=g1 /);
  });

  it('tells of a failure, and tries again at the next call', async () => {
    process.env['FAIL_FOR'] = 'host_memory';
    const wanted = { cpu: 2, host_memory: 512 };
    assert.deepEqual(await setUtilization('g1', wanted, cache, deadline()), {
      kind: 'failed',
      why: 'crm_resource exited 105: no such thing',
    });
    process.env['FAIL_FOR'] = 'nothing';
    assert.equal((await setUtilization('g1', wanted, cache, deadline())).kind, 'done');
    assert.equal(
      (await setUtilization('g1', { cpu: 1 }, join(directory, 'no/cache'), deadline())).kind,
      'failed',
    );
    process.env['PATH'] = join(directory, 'empty');
    assert.equal((await setUtilization('g1', { cpu: 9 }, cache, deadline())).kind, 'none');
  });
});

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { Deadline } from '../../lib/deadline.ts';
import { KvmhaError } from '../../lib/error.ts';
import { run, runChecked } from '../../lib/run.ts';

const PATIENCE = 60_000;
const sh = (script: string, more = {}) =>
  run('sh', ['-c', script], { deadline: Deadline.in(PATIENCE), ...more });
const failsAs = (code: string, words: RegExp) => (error: unknown) =>
  error instanceof KvmhaError && error.code === code && words.test(error.message);

describe('a program that is run', () => {
  test('is told of by its exit code and what it printed', async () => {
    const output = await sh('echo "over here"; echo aside >&2; exit 3');
    assert.deepEqual(output, { exitCode: 3, stdout: 'over here\n', stderr: 'aside\n' });
  });

  test('is given its input, and may end without having read it', async () => {
    const input = 'wörter\n'.repeat(100_000);
    const { stdout } = await sh('cat', { input });
    assert.equal(stdout, input);
    assert.equal((await sh('exit 0', { input })).exitCode, 0);
  });

  test('finds an empty input where it is given none', async () => {
    assert.equal((await sh('cat')).stdout, '');
  });

  test('runs in the C locale, whatever it is given beside', async () => {
    const { stdout } = await sh('echo $LC_ALL $LANGUAGE $MORE', { env: { MORE: 'x', LC_ALL: 'de_DE' } });
    assert.equal(stdout, 'C C x\n');
  });

  test('that is not there is told from one that fails', async () => {
    const options = { deadline: Deadline.in(PATIENCE) };
    await assert.rejects(run('/nowhere/at-all', [], options), failsAs('program-missing', /ENOENT/));
    await assert.rejects(run('/etc/passwd', [], options), failsAs('program-missing', /EACCES/));
    await assert.rejects(
      runChecked('sh', ['-c', 'echo no such luck >&2; exit 4'], options),
      failsAs('program-failed', /sh -c exited 4: no such luck/),
    );
  });

  test('that is given what no program can be given is not run', async () => {
    await assert.rejects(
      run('echo', ['a\0b'], { deadline: Deadline.in(PATIENCE) }),
      failsAs('program-missing', /null bytes/),
    );
  });

  test('that is ended by a signal has failed', async () => {
    await assert.rejects(sh('kill -SEGV $$'), failsAs('program-failed', /SIGSEGV/));
  });

  test('that prints without end is cut off', async () => {
    await assert.rejects(
      run('yes', [], { deadline: Deadline.in(PATIENCE) }),
      failsAs('program-failed', /printed more than/),
    );
  });

  test('that outlasts the deadline is killed, and what it has started with it', async () => {
    const deadline = Deadline.in(300);
    await assert.rejects(
      sh('trap "" TERM; sleep 1000 & wait', { deadline, what: 'the sleeper' }),
      failsAs('deadline', /the sleeper/),
    );
    await assert.rejects(sh('exit 0', { deadline }), failsAs('deadline', /no time left/));
  });
});

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';

const output = import.meta.resolve('../../agent/output.ts');

/** More than a pipe holds by default (64 KiB). */
const LENGTH = 1_000_000;

/** What a reader that starts late gets of a program that prints and exits at once. */
function readLate(script: string): string {
  const program = `import { print } from '${output}'; ${script}; process.exit(0);`;
  const pipeline = '"$0" --input-type=module --eval "$1" | { sleep 0.3; wc -c; }';
  const result = spawnSync('sh', ['-c', pipeline, process.execPath, program], { encoding: 'utf8' });
  assert.equal(result.stderr, '');
  return result.stdout.trim();
}

test('print has written everything when it returns', () => {
  assert.equal(readLate(`print('x'.repeat(${LENGTH}))`), String(LENGTH));
});

test('print waits for the reader of a non-blocking pipe', () => {
  // Node makes a pipe non-blocking when process.stdout is first used.
  assert.equal(readLate(`process.stdout; print('x'.repeat(${LENGTH}))`), String(LENGTH));
});

test('these tests would notice lost output', () => {
  assert.notEqual(readLate(`process.stdout.write('x'.repeat(${LENGTH}))`), String(LENGTH));
});

test('print gives up quietly when the reader is gone', () => {
  const program = `import { print } from '${output}'; print('x'.repeat(${LENGTH})); process.exit(7);`;
  const pipeline = '{ "$0" --input-type=module --eval "$1"; echo "exit code $?" >&2; } | true';
  const result = spawnSync('sh', ['-c', pipeline, process.execPath, program], { encoding: 'utf8' });
  assert.equal(result.stderr, 'exit code 7\n');
});

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';

function kvmha(...args: string[]) {
  const main = new URL('../../../agent/main.ts', import.meta.url).pathname;
  return spawnSync(process.execPath, [main, ...args], { encoding: 'utf8' });
}

test('without words the help is shown, as wrong usage', () => {
  const { status, stdout, stderr } = kvmha();
  assert.equal(status, 2);
  assert.equal(stdout, '');
  assert.match(stderr, /^Usage: kvmha /);
});

test('help lists the commands, and each has a help of its own with its exit codes', () => {
  const { status, stdout } = kvmha('--help');
  assert.equal(status, 0);
  for (const command of [
    'status',
    'timeline',
    'metrics',
    'doctor',
    'configure',
    'proof',
    'quiesce',
    'release',
    'postmortem',
    'completion',
  ]) {
    assert.match(stdout, new RegExp(`^  ${command} `, 'm'));
    const help = kvmha(command, '--help');
    assert.equal(help.status, 0);
    assert.match(help.stdout, /^Exit codes: 0 .*; 1 .*; 2 wrong usage\.$/m);
  }
});

test('wrong usage exits 2 and says what is wrong', () => {
  for (const [args, why] of [
    [['proof'], /missing required argument 'guest'/],
    [['nothing'], /unknown command 'nothing'/],
    [['status', '--colour'], /unknown option '--colour'/],
    [['status', '--timeout', 'soon'], /It is a number of seconds/],
    [['postmortem', 'web', '--format', 'zip'], /It is elf or kdump-zlib/],
  ] as const) {
    const { status, stderr } = kvmha(...args);
    assert.equal(status, 2, stderr);
    assert.match(stderr, why);
  }
});

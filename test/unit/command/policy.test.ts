import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import { readEvent } from '../../../agent/command/policy-explained.ts';

const directory = mkdtempSync(join(tmpdir(), 'kvmha-policy-'));
after(() => rmSync(directory, { recursive: true }));

function policy(...args: string[]) {
  const main = new URL('../../../agent/main.ts', import.meta.url).pathname;
  return spawnSync(process.execPath, [main, 'policy', ...args], { encoding: 'utf8' });
}

function file(content: string): string {
  const path = join(directory, 'policy.yaml');
  writeFileSync(path, content);
  return path;
}

describe('kvmha policy check', () => {
  it('shows every value that applies, and which are changed', () => {
    const { status, stdout } = policy('check', file('out-of-space: fail\n'));
    assert.equal(status, 0);
    assert.match(stdout, /^out-of-space +fail +changed$/m);
    assert.match(stdout, /^quiesce\.storm\.guests +3$/m);
  });

  it('names the line and the key of an error, and exits 1', () => {
    const { status, stderr } = policy('check', file('out-of-space: hold\nquiese: {}\n'));
    assert.equal(status, 1);
    assert.match(stderr, /policy\.yaml:2: quiese is not a known key/);
  });

  it('does not take a missing file for an empty one', () => {
    const { status, stderr } = policy('check', join(directory, 'missing.yaml'));
    assert.equal(status, 1);
    assert.match(stderr, /missing\.yaml/);
  });
});

describe('kvmha policy explain', () => {
  it('tells the verdict on an event, and the key that decides', () => {
    const path = file('watch: { memory-failure: { action-required: degrade } }\n');
    const words = ['MEMORY_FAILURE', 'action=inject', 'recipient=guest', 'flags.action-required=true'];
    const { status, stdout } = policy('explain', ...words, '--policy', path);
    assert.equal(status, 0);
    assert.match(stdout, /the watcher lets the guest run/);
    assert.match(stdout, /decided by watch\.memory-failure\.action-required: degrade/);
    const { stdout: json } = policy('explain', ...words, '--policy', path, '--json');
    assert.equal(JSON.parse(json).watcher, 'degrade');
  });

  it('tells what is done about a state', () => {
    const { status, stdout } = policy(
      'explain',
      'crashed',
      '--guest-panic',
      'preserve',
      '--policy',
      file(''),
    );
    assert.equal(status, 0);
    assert.match(stdout, /decided by the parameter guest_panic=preserve/);
  });

  it('tells what an error of the host makes of its node, and the key that decides', () => {
    const path = file('host: { corrected: { health: red, errors: 5, seconds: 60 } }\n');
    const explain = (...words: string[]) => policy('explain', 'host-error', ...words, '--policy', path);
    const lost = explain('kind=memory', 'severity=uncorrected');
    assert.equal(lost.status, 0, lost.stderr);
    assert.match(lost.stdout, /health becomes red.*\n {2}decided by host\.memory: red\n/);
    const ofGuest = explain('kind=memory', 'severity=uncorrected', 'guest=web', '--json');
    const { health, decidedBy } = JSON.parse(ofGuest.stdout);
    assert.deepEqual([health, decidedBy[0].name], ['yellow', 'host.memory-of-guest']);
    const corrected = ['kind=memory', 'severity=corrected'];
    assert.match(
      explain(...corrected, 'count=4').stdout,
      /stays as it is\n {2}decided by .*host\.corrected\.errors: 5/,
    );
    assert.match(explain(...corrected, 'count=5').stdout, /health becomes red/);
    assert.match(
      explain('kind=storm').stdout,
      /health becomes yellow.*\n {2}decided by host\.storm: yellow\n/,
    );
  });

  it('refuses what is neither an event nor a state, and bad fields, as wrong usage', () => {
    for (const [words, why] of [
      [['foo'], /"foo" is neither a QMP event/],
      [['host-error', 'kind=dimm'], /kind is one of memory, /],
      [['host-error', 'count=0'], /count is a whole number/],
      [['host-error', 'memory'], /"memory" is none of kind=/],
      [['faulted', 'a=b'], /a state of a guest, which has no fields/],
      [['STOP', 'nothing'], /"nothing" is not FIELD=VALUE/],
      [['{'], /is not JSON/],
      [['{"event":1}'], /has no "event"/],
      [['crashed', '--guest-panic', 'dump'], /--guest-panic is fence or preserve/],
    ] as const) {
      const { status, stderr } = policy('explain', ...words);
      assert.equal(status, 2, stderr);
      assert.match(stderr, why);
    }
  });
});

describe('readEvent', () => {
  it('reads the same from words and from the JSON of QEMU', () => {
    const words = readEvent('BLOCK_IO_ERROR', ['device=disk', 'nospace=true', 'flags.a=b', 'flags.c=false']);
    assert.deepEqual(words, {
      event: 'BLOCK_IO_ERROR',
      data: { device: 'disk', nospace: true, flags: { a: 'b', c: false } },
    });
    assert.deepEqual(readEvent(JSON.stringify({ ...words, timestamp: { seconds: 1 } }), []), words);
  });
});

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { periodsOf } from '../../../lib/timeline/periods.ts';
import { tell } from '../../../lib/timeline/story.ts';
import { recordedLines } from './recorded.ts';

describe('what a line tells', () => {
  test('of a failover is the whole story, in order', () => {
    const told = recordedLines()
      .filter(({ guest }) => guest === 'db')
      .map((line) => `${line.node} ${tell(line).tone} ${tell(line).words}`);
    assert.deepEqual(told, [
      'node2 good its vCPUs run again',
      'node2 good boot in a start: started in 1255 ms',
      'node2 bad I/O error (write: Input/output error) on libvirt-1-format (QEMU: stop)',
      'node2 warn its vCPUs were stopped',
      'node2 warn decided: fail-over, because of io-error',
      'node2 good quiesced-failover-safe: the whole proof holds after io-error',
      'node2 good quiesce: quiesced-failover-safe in 101 ms',
      'node2 good fail-over: requested in 287 ms; it is failover-safe, and the cluster was told',
      'node1 good its vCPUs run again',
      'node1 good boot in a start: started in 277 ms',
    ]);
  });

  test('is a failure where it failed, and where it did not come to what it was for', () => {
    const said = (what: string, entry: Record<string, unknown>) => {
      const { words, tone } = tell({ what, entry: { guest: 'web', ...entry } });
      return `${tone}: ${words}`;
    };
    assert.equal(
      said('done', {
        action: 'quiesce',
        situation: 'stop',
        failure: 'no reply',
        step: 'flush',
        milliseconds: 9,
      }),
      'bad: quiesce in a stop failed at flush in 9 ms: no reply',
    );
    assert.equal(
      said('done', { action: 'fail-over', outcome: 'not-told', why: 'x' }),
      'bad: fail-over: not-told; x',
    );
    assert.equal(said('seen', { silent: 'timed out' }), 'bad: QEMU does not answer: timed out');
    assert.equal(said('seen', { event: 'WATCHDOG', again: 7 }), 'bad: WATCHDOG again, 7 times');
    assert.equal(said('decided', { held: 'a storm' }), 'warn: held, not quiesced: a storm');
    assert.equal(
      said('decided', { do: 'fail-over', fault: 'io-error', mode: 'observe' }),
      'warn: decided: fail-over, because of io-error (the watcher only observes)',
    );
    assert.equal(said('proved', {}), 'good: quiesced-failover-safe: the whole proof holds');
    assert.equal(said('seen', {}), 'plain: something');
  });

  test('of a host is told without a guest, and that of a later version as it is', () => {
    assert.deepEqual(tell({ what: 'seen', entry: { words: 'memory error' } }), {
      words: 'memory error',
      tone: 'bad',
    });
    assert.deepEqual(tell({ what: 'decided', entry: { do: 'raise', health: 'red', why: 'two errors' } }), {
      words: 'decided: raise to red, because of two errors',
      tone: 'warn',
    });
    assert.deepEqual(tell({ what: 'dreamt', entry: { guest: 'web', of: 'sheep' } }), {
      words: 'dreamt of="sheep"',
      tone: 'plain',
    });
  });
});

describe('what a guest was for a while', () => {
  test('is running, stopped and preserved in a failover, and running elsewhere', () => {
    const lines = recordedLines();
    const periods = periodsOf(lines)
      .filter(({ guest }) => guest === 'db')
      .map(({ node, condition, to }) => `${node} ${condition} ${to === undefined ? 'still' : 'ended'}`);
    assert.deepEqual(periods, [
      'node2 running ended',
      'node2 stopped ended',
      'node2 preserved still',
      'node1 running still',
    ]);
  });

  test('a preserved guest stays one until it is ended', () => {
    const line = (what: string, entry: Record<string, unknown>) => ({
      ...{ time: '', node: 'n', by: 'agent', guest: 'web', uuid: null, resource: null },
      what,
      entry,
    });
    const lines = [
      line('proved', {}),
      line('seen', { event: 'STOP' }),
      line('seen', { event: 'SHUTDOWN' }),
      line('done', { action: 'release', outcome: 'shut-off', failure: 'no' }),
      line('done', { action: 'release', outcome: 'shut-off' }),
    ];
    assert.deepEqual(periodsOf(lines), [{ node: 'n', guest: 'web', condition: 'preserved', from: 0, to: 4 }]);
    const found = line('seen', { state: 'quiesced-failover-safe', words: 'found so, and left alone' });
    assert.deepEqual(periodsOf([found, ...lines.slice(1)]), periodsOf(lines));
  });
});

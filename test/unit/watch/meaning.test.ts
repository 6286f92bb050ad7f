import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { isObject, type Json } from '../../../lib/qemu/qmp.ts';
import { inWords, type Meaning, meaningOf } from '../../../lib/watch/meaning.ts';
import { eventsOf, recording, recordings } from '../../support/qmp-recording.ts';

function meaning(line: string): Meaning {
  const { event, data } = JSON.parse(line) as { event: string; data?: Json };
  return meaningOf({ event, data: isObject(data) ? data : {} });
}

/** What was heard, each kind once, in order. */
function kinds(name: string, qemu?: string): string[] {
  return [...new Set(eventsOf(recording(name, qemu)).map((line) => meaning(line).kind))];
}

function first(name: string, qemu?: string): Meaning {
  return meaning(eventsOf(recording(name, qemu))[0] ?? '');
}

const MEMORY_FAILURE = { kind: 'memory-failure', recipient: 'guest', recursive: false } as const;

describe('meaningOf, of what real QEMUs said', () => {
  for (const qemu of ['7.2', '10.0']) {
    it(`knows what happened to the guest (QEMU ${qemu})`, () => {
      const heard = {
        'write-error': ['io-error', 'stopped'],
        'no-space': ['io-error', 'stopped'],
        'passed-error': ['io-error'],
        'ignored-error': ['io-error'],
        panic: ['guest-panicked', 'stopped'],
        'crash-kernel': ['crash-kernel'],
        'watchdog-pause': ['watchdog', 'stopped'],
        'watchdog-reset': ['watchdog', 'reset'],
        'memory-reset': ['memory-failure', 'reset'],
        'memory-action-required': ['memory-failure'],
        'memory-action-optional': ['memory-failure'],
        'memory-corrected': ['memory-failure'],
        'suspend-resume': ['stopped', 'resumed'],
        reset: ['reset'],
        'triple-fault': ['reset'],
        sleep: ['nothing'],
        'power-off': ['shut-down', 'stopped'],
        destroyed: ['shut-down'],
        'emulation-failure': ['stopped'],
      };
      for (const [name, expected] of Object.entries(heard)) {
        assert.deepEqual(kinds(name, qemu), expected, name);
      }
      assert.deepEqual(
        recordings()
          .filter((each) => each.qemu === qemu)
          .map(({ name }) => name)
          .toSorted(),
        Object.keys(heard).toSorted(),
      );
    });

    it(`tells memory failures apart (QEMU ${qemu})`, () => {
      assert.deepEqual(first('memory-reset', qemu), {
        ...MEMORY_FAILURE,
        action: 'reset',
        actionRequired: false,
      });
      assert.deepEqual(first('memory-action-required', qemu), {
        ...MEMORY_FAILURE,
        action: 'inject',
        actionRequired: true,
      });
      const optional = { ...MEMORY_FAILURE, action: 'inject', actionRequired: false };
      assert.deepEqual(first('memory-action-optional', qemu), optional);
      assert.deepEqual(first('memory-corrected', qemu), optional);
    });
  }

  it('tells what QEMU did about an I/O error, and where', () => {
    const error = { kind: 'io-error', operation: 'write', reason: 'Input/output error', noSpace: false };
    const old = { ...error, device: 'libvirt-1-format' };
    const now = { ...error, device: '/machine/peripheral/virtio-disk0/virtio-backend' };
    assert.deepEqual(first('write-error', '7.2'), { ...old, action: 'stop' });
    assert.deepEqual(first('write-error', '10.0'), { ...now, action: 'stop' });
    assert.deepEqual(first('passed-error', '7.2'), { ...old, action: 'report' });
    assert.deepEqual(first('ignored-error', '10.0'), { ...now, action: 'ignore' });
    assert.deepEqual(first('no-space', '7.2'), {
      ...old,
      action: 'stop',
      noSpace: true,
      reason: 'No space left on device',
    });
  });

  it('is told in words for the journal', () => {
    assert.equal(
      inWords(first('memory-action-required')),
      "memory failure in the guest's memory, needed at once (QEMU: inject)",
    );
    assert.equal(
      inWords(first('write-error')),
      'I/O error (write: Input/output error) on libvirt-1-format (QEMU: stop)',
    );
    assert.equal(
      inWords(first('no-space')),
      'no space (write: No space left on device) on libvirt-1-format (QEMU: stop)',
    );
    assert.equal(inWords(first('panic')), 'its kernel panicked (QEMU: pause)');
    assert.equal(inWords(first('power-off')), 'it is shutting down (guest-shutdown)');
    assert.equal(inWords(first('destroyed')), 'it is being shut down (host-signal)');
  });
});

describe('meaningOf, of what no QEMU has said yet', () => {
  it('takes what is missing for the worse', () => {
    assert.deepEqual(meaningOf({ event: 'MEMORY_FAILURE', data: {} }), {
      kind: 'memory-failure',
      recipient: 'unknown',
      action: 'unknown',
      actionRequired: true,
      recursive: false,
    });
  });

  it('gives every event a meaning that can be told, whatever it carries', () => {
    const names = [
      'MEMORY_FAILURE',
      'BLOCK_IO_ERROR',
      'STOP',
      'RESUME',
      'GUEST_PANICKED',
      'GUEST_CRASHLOADED',
      'WATCHDOG',
      'SHUTDOWN',
      'RESET',
    ];
    const data = fc.dictionary(
      fc.constantFrom('flags', 'action', 'recipient', 'device', 'nospace', 'reason', 'guest', 'qom-path'),
      fc.jsonValue() as fc.Arbitrary<Json>,
    );
    fc.assert(
      fc.property(fc.oneof(fc.constantFrom(...names), fc.string()), data, (event, each) => {
        const meant = meaningOf({ event, data: each });
        assert.equal(meant.kind === 'nothing', !names.includes(event));
        assert.ok(inWords(meant).length > 0);
      }),
    );
  });
});

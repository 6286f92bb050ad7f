import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { type DomainEvent, VirshEvents } from '../../../lib/libvirt/events.ts';

/** What `virsh event --all --loop` of libvirt 9.0 printed: a start, a memory failure, an I/O error, a destroy. */
const RECORDED = readFileSync(join(import.meta.dirname, 'recorded/virsh-event.txt'), 'utf8');

const NAME = "a b'c";
const time = undefined;
const EXPECTED: DomainEvent[] = [
  { domain: NAME, event: { event: 'RESUME', data: {}, time } },
  {
    domain: NAME,
    event: {
      event: 'MEMORY_FAILURE',
      data: {
        recipient: 'guest',
        action: 'inject',
        flags: { 'action-required': false, recursive: false },
      },
      time,
    },
  },
  {
    domain: NAME,
    event: {
      event: 'BLOCK_IO_ERROR',
      data: { device: 'virtio-disk0', operation: 'unknown', action: 'stop', nospace: false },
      time,
    },
  },
  { domain: NAME, event: { event: 'STOP', data: {}, time } },
  { domain: NAME, event: { event: 'SHUTDOWN', data: {}, time } },
  { domain: NAME, event: { event: 'SHUTDOWN', data: {}, time } },
];

describe('VirshEvents', () => {
  it('reads what virsh printed, in whatever pieces it comes', () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 1, max: 200 })), (sizes) => {
        const events = new VirshEvents();
        const read: DomainEvent[] = [];
        let rest = RECORDED;
        for (const size of [...sizes, RECORDED.length]) {
          read.push(...events.push(rest.slice(0, size)));
          rest = rest.slice(size);
        }
        assert.deepEqual(read, EXPECTED);
      }),
    );
  });

  it('leaves out what it does not know, and half a memory failure', () => {
    const events = new VirshEvents();
    const text = `\
events received: 9

event 'rtc-change' for domain 'web': 12
event 'memory-failure' for domain 'web':
recipient: guest
event 'lifecycle' for domain 'web': Defined Updated
\trecursive: 0
event 'watchdog' for domain 'web': pause
`;
    assert.deepEqual(events.push(text), [
      { domain: 'web', event: { event: 'WATCHDOG', data: { action: 'pause' }, time } },
    ]);
  });

  it('throws at nothing that could be printed', () => {
    const line = fc.oneof(
      fc.string(),
      fc.constantFrom(
        "event 'lifecycle' for domain 'x': ",
        "event 'io-error' for domain 'x': ()",
        "event 'memory-failure' for domain 'x':",
        'recursive',
        'flags:',
      ),
    );
    fc.assert(fc.property(fc.array(line), (lines) => void new VirshEvents().push(`${lines.join('\n')}\n`)));
  });
});

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { type Counter, parseAerCounter, Reconciler } from '../../../lib/host/counters.ts';
import type { HostError } from '../../../lib/host/host-error.ts';

function corrected(count: number, parts: Record<string, number> = {}): Counter {
  return {
    key: 'mc0 corrected',
    kind: 'memory',
    source: 'edac counters',
    severity: 'corrected',
    component: 'mc0',
    count,
    parts,
  };
}

function event(count: number): HostError {
  return {
    kind: 'memory',
    severity: 'corrected',
    source: 'ras:mc_event',
    count,
    component: 'mc0 A1',
    message: '',
  };
}

const hears = () => true;
const hearsNothing = () => false;

function counts(errors: readonly HostError[]): number[] {
  return errors.map(({ count }) => count);
}

describe('counters', () => {
  it('tell at once what they have counted, where no event tells', () => {
    const reconciler = new Reconciler();
    assert.deepEqual(reconciler.read([corrected(5)], hearsNothing), []);
    assert.deepEqual(counts(reconciler.read([corrected(7)], hearsNothing)), [2]);
    assert.deepEqual(reconciler.read([corrected(7)], hearsNothing), []);
  });

  it('tell nothing that events have told, whichever came first', () => {
    const reconciler = new Reconciler([corrected(0)]);
    reconciler.heard(event(2));
    assert.deepEqual(reconciler.read([corrected(2)], hears), []);
    // Counted between the events' reading and the counters'.
    assert.deepEqual(reconciler.read([corrected(3)], hears), []);
    reconciler.heard(event(1));
    assert.deepEqual(reconciler.read([corrected(3)], hears), []);
    // Heard of, but not counted yet.
    reconciler.heard(event(1));
    assert.deepEqual(reconciler.read([corrected(3)], hears), []);
    assert.deepEqual(reconciler.read([corrected(4)], hears), []);
    assert.deepEqual(reconciler.read([corrected(4)], hears), []);
  });

  it('tell at the second reading what no event has told', () => {
    const reconciler = new Reconciler([corrected(0)]);
    assert.deepEqual(reconciler.read([corrected(3)], hears), []);
    assert.deepEqual(counts(reconciler.read([corrected(3)], hears)), [3]);
    assert.deepEqual(reconciler.read([corrected(3)], hears), []);
  });

  it('forget what only events have told, so that it does not hide later errors', () => {
    const reconciler = new Reconciler([corrected(0)]);
    reconciler.heard(event(4));
    reconciler.read([corrected(0)], hears);
    reconciler.read([corrected(0)], hears);
    reconciler.read([corrected(4)], hears);
    assert.deepEqual(counts(reconciler.read([corrected(4)], hears)), [4]);
  });

  it('begin anew when they were reset, and go on from where another watcher has left them', () => {
    const reconciler = new Reconciler([corrected(9)]);
    assert.deepEqual(counts(reconciler.read([corrected(11)], hearsNothing)), [2]);
    assert.deepEqual(reconciler.read([corrected(1)], hearsNothing), []);
    assert.deepEqual(counts(reconciler.read([corrected(2)], hearsNothing)), [1]);
    assert.deepEqual(reconciler.counters, [corrected(2)]);
    reconciler.read([], hearsNothing);
    assert.deepEqual(reconciler.counters, []);
  });

  it('name the DIMM where it is one, and all of them otherwise', () => {
    const reconciler = new Reconciler([corrected(0, { A1: 0, B1: 0 })]);
    const [one] = reconciler.read([corrected(1, { A1: 1, B1: 0 })], hearsNothing);
    assert.equal(one?.component, 'mc0 A1');
    const [both] = reconciler.read([corrected(3, { A1: 2, B1: 1 })], hearsNothing);
    assert.equal(both?.component, 'mc0');
    assert.equal(both?.message, 'A1, B1');
  });

  it('and events tell together of every error once, in whatever order they come', () => {
    const step = fc.record({ counted: fc.nat(5), heard: fc.nat(5) });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 30 }), (steps) => {
        const reconciler = new Reconciler([corrected(0)]);
        let counted = 0;
        let told = 0;
        for (const { counted: more, heard } of steps) {
          counted += more;
          // What is heard of has happened: it is counted a moment later at the latest.
          const known = Math.min(heard, counted - told);
          if (known > 0) {
            reconciler.heard(event(known));
            told += known;
          }
          const found = reconciler.read([corrected(counted)], hears);
          assert.ok(found.length <= 1);
          told += counts(found)[0] ?? 0;
          assert.ok(told <= counted, `${told} of ${counted}`);
        }
        reconciler.read([corrected(counted)], hears);
        told += counts(reconciler.read([corrected(counted)], hears))[0] ?? 0;
        assert.ok(told <= counted);
      }),
    );
  });
});

describe("a PCI device's counters", () => {
  it('are read in the words of old kernels and new ones', () => {
    // The second is the example of Documentation/ABI/testing/sysfs-bus-pci-devices-aer.
    assert.deepEqual(parseAerCounter('RxErr 2\nBadTLP 0\nTOTAL_ERR_COR 2\n'), {
      total: 2,
      parts: { RxErr: 2, BadTLP: 0 },
    });
    assert.deepEqual(parseAerCounter('Receiver Error 2\nBad TLP 0\nTOTAL_ERR_COR 2\n')?.parts, {
      'Receiver Error': 2,
      'Bad TLP': 0,
    });
    assert.equal(parseAerCounter('RxErr 2\n'), undefined);
  });

  it('are numbers or nothing, whatever the text is', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), (text) => {
        parseAerCounter(`${text}\nTOTAL_X 1\n`);
      }),
    );
  });
});

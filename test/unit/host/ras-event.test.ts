import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { describeError, type HostError } from '../../../lib/host/host-error.ts';
import { errorOfEvent } from '../../../lib/host/ras-event.ts';
import { parsePageLayout, readPage } from '../../../lib/host/ring-buffer.ts';
import { decode, parseFormat, type TraceFormat, typeOf } from '../../../lib/host/trace-format.ts';
import {
  AER_FORMAT,
  encode,
  formatOf,
  LOST_PAGE_FORMAT,
  pageWith,
  recorded,
  recordedFormat,
  recordedLayout,
} from './recorded.ts';

const layout = recordedLayout();

/** What a page of the ring buffer tells, by these formats. */
function told(page: Buffer, ...formats: TraceFormat[]): HostError[] {
  return readPage(page, layout, 'LE').records.flatMap((record) => {
    const format = formats.find(({ id }) => id === typeOf(record, 'LE'));
    return format === undefined ? [] : (errorOfEvent(format, decode(format, record, 'LE')) ?? []);
  });
}

function tellOne(format: TraceFormat, values: Readonly<Record<string, number | bigint | string>>): HostError {
  const [error, ...others] = told(pageWith([encode(format, values)]), format);
  assert.deepEqual(others, []);
  assert.ok(error);
  return error;
}

describe('a page of the ring buffer', () => {
  it('gives the events that a kernel has recorded, in their order', () => {
    const page = recorded('probe.page');
    const lost = recordedFormat('probe-memory_failure_event');
    const aer = recordedFormat('probe-aer_event');
    const errors = told(page, lost, aer);
    assert.deepEqual(
      errors.map(({ kind, component, address }) => address ?? `${kind} ${component}`),
      [0, 1].flatMap(() =>
        [0x1234n, 0x1235n, 0x1236n].flatMap((frame) => [frame << 12n, 'pci 0000:3b:00.0']),
      ),
    );
    assert.equal(errors[1]?.severity, 'fatal');
    assert.equal(readPage(page, layout, 'LE').missed, 0);
  });

  it('tells that events were lost before it, and gives those that it has', () => {
    const { missed, records } = readPage(recorded('overrun.page'), layout, 'LE');
    assert.ok(missed > 0);
    assert.ok(records.length > 50);
  });

  it('tells how many were lost where the kernel has put that down', () => {
    const page = pageWith([encode(LOST_PAGE_FORMAT, { pfn: 1 })]);
    const used = page.readUInt32LE(8);
    page.writeUInt32LE((used | 0xc000_0000) >>> 0, 8);
    page.writeUInt32LE(1234, layout.dataOffset + used);
    assert.equal(readPage(page, layout, 'LE').missed, 1234);
  });

  it('is read through time stamps, time extensions and discarded events', () => {
    const record = encode(LOST_PAGE_FORMAT, { pfn: 7 });
    const page = pageWith([]);
    let offset = layout.dataOffset;
    for (const kind of [30, 31]) {
      page.writeUInt32LE(kind, offset);
      offset += 8;
    }
    page.writeUInt32LE(29 | (5 << 5), offset);
    page.writeUInt32LE(12, offset + 4);
    offset += 16;
    page.writeUInt32LE(record.length / 4, offset);
    record.copy(page, offset + 4);
    offset += 4 + record.length;
    page.writeUInt32LE(offset - layout.dataOffset, 8);
    assert.equal(told(page, LOST_PAGE_FORMAT)[0]?.address, 7n << 12n);
  });

  it('is read in the other byte order, too', () => {
    const record = Buffer.alloc(24);
    record.writeUInt16BE(LOST_PAGE_FORMAT.id, 0);
    record.writeBigUInt64BE(0xabcn, 8);
    const page = Buffer.alloc(layout.pageSize);
    page.writeUInt32BE((record.length / 4) << 27, 16);
    record.copy(page, 20);
    page.writeBigUInt64BE(BigInt(record.length + 4), 8);
    const [found] = readPage(page, layout, 'BE').records;
    assert.ok(found);
    assert.equal(typeOf(found, 'BE'), LOST_PAGE_FORMAT.id);
    assert.equal(decode(LOST_PAGE_FORMAT, found, 'BE').get('pfn'), 0xabcn);
  });

  it('gives nothing that lies beyond it, whatever its bytes are', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 6000 }), fc.constantFrom('LE', 'BE'), (bytes, order) => {
        const page = Buffer.from(bytes);
        const { records, missed } = readPage(page, layout, order);
        assert.ok(missed >= 0);
        assert.ok(records.length * 4 <= page.length);
        for (const record of records) {
          assert.ok(record.length <= page.length);
          for (const format of [AER_FORMAT, LOST_PAGE_FORMAT, recordedFormat('mc_event')]) {
            const error = errorOfEvent(format, decode(format, record, order));
            assert.ok(error !== undefined && describeError(error).length < 2000);
          }
        }
      }),
    );
  });

  it('gives no more than it has when a recorded one is damaged', () => {
    const page = recorded('probe.page');
    fc.assert(
      fc.property(fc.nat(0x1e0 + 16), fc.nat(255), (at, byte) => {
        const damaged = Buffer.from(page);
        damaged[at] = byte;
        assert.ok(readPage(damaged, layout, 'LE').records.length <= 1020);
      }),
      { numRuns: 500 },
    );
  });
});

describe('a format', () => {
  it('is that of the kernel', () => {
    const format = recordedFormat('mc_event');
    assert.equal(format.name, 'mc_event');
    assert.equal(format.fields.get('address')?.offset, 32);
    assert.equal(format.fields.get('label')?.kind, 'dynamic-text');
    assert.equal(recordedFormat('non_standard_event').fields.get('sec_type')?.kind, 'bytes');
  });

  it('is refused, or gives no more than its text, whatever the text is', () => {
    const line = fc.oneof(
      fc.string({ unit: 'binary' }),
      fc.constantFrom(
        'name: mc_event',
        'ID: 12',
        '\tfield:__data_loc char[] label;\toffset:8;\tsize:4;\tsigned:0;',
        '\tfield:u64 address;\toffset:9999999;\tsize:8;\tsigned:0;',
        'print fmt: "%s", __print_symbolic(REC->error_type, { 0, "x" }',
      ),
    );
    fc.assert(
      fc.property(fc.array(line), fc.uint8Array({ maxLength: 100 }), (lines, bytes) => {
        const format = parseFormat(lines.join('\n'));
        parsePageLayout(lines.join('\n'));
        if (format !== undefined) {
          decode(format, Buffer.from(bytes), 'LE');
        }
      }),
      { numRuns: 500 },
    );
  });
});

describe('an event', () => {
  it('of a memory controller tells the DIMM, the address and how bad it is', () => {
    const format = recordedFormat('mc_event');
    // The first is the example of Documentation/admin-guide/RAS/main.rst.
    const error = tellOne(format, {
      error_type: 0,
      msg: 'memory read error',
      label: 'CPU_SrcID#0_MC#0_Chan#1_DIMM#0',
      error_count: 3,
      mc_index: 0,
      top_layer: 0,
      middle_layer: 1,
      lower_layer: -1,
      address: 0x1e2b6a000n,
      driver_detail: 'err_code:0001:0090',
    });
    assert.deepEqual(error, {
      kind: 'memory',
      severity: 'corrected',
      source: 'ras:mc_event',
      count: 3,
      component: 'mc0 CPU_SrcID#0_MC#0_Chan#1_DIMM#0',
      message: 'memory read error',
      address: 0x1e2b6a000n,
      detail: { layers: '0:1:-1', syndrome: '0x0', driver: 'err_code:0001:0090' },
    });
    assert.equal(
      describeError(error),
      'mc0 CPU_SrcID#0_MC#0_Chan#1_DIMM#0: 3 corrected errors, memory read error (address 0x1e2b6a000)',
    );
    for (const [type, severity] of [
      [1, 'uncorrected'],
      [2, 'uncorrected'],
      [3, 'fatal'],
      [4, 'informational'],
      [77, 'uncorrected'],
    ] as const) {
      assert.equal(tellOne(format, { error_type: type, label: 'any memory' }).severity, severity);
    }
    // A `long` in the format, whose highest bit may be set.
    assert.equal(tellOne(format, { label: 'x', address: -4096n }).address, 0xffff_ffff_ffff_f000n);
    assert.equal(tellOne(format, { label: 'x' }).address, undefined);
  });

  it('of a PCI device tells the device and what was wrong', () => {
    const fatal = tellOne(AER_FORMAT, { dev_name: '0000:3b:00.0', status: 0x4010, severity: 1 });
    assert.equal(
      describeError(fatal),
      '0000:3b:00.0: fatal error, Data Link Protocol Error, Completion Timeout',
    );
    const corrected = tellOne(AER_FORMAT, { dev_name: '3b:00.0', status: 0x81, severity: 2 });
    assert.equal(describeError(corrected), '0000:3b:00.0: corrected error, Receiver Error, Bad DLLP');
    const unknown = tellOne(AER_FORMAT, { dev_name: '0000:3b:00.0', status: 2, severity: 0 });
    assert.equal(describeError(unknown), '0000:3b:00.0: uncorrected error, status 0x2');
  });

  it('of a lost page tells its address, what it was, and what became of it', () => {
    const error = tellOne(LOST_PAGE_FORMAT, { pfn: 0x1234, type: 12, result: 3 });
    assert.equal(
      describeError(error),
      'memory: uncorrected error, a page was lost: dirty LRU page, Recovered (address 0x1234000)',
    );
    assert.match(tellOne(LOST_PAGE_FORMAT, { type: 99, result: 1 }).message, /page of type 99, Failed/);
  });

  it('of the firmware, and of a processor, tells how bad it is', () => {
    const firmware = recordedFormat('non_standard_event');
    const error = tellOne(firmware, { sev: 2, fru_text: 'riser 2' });
    assert.equal(error.severity, 'uncorrected');
    assert.equal(error.component, 'riser 2');
    assert.match(error.message, /section 00000000-0000-0000-0000-000000000000/);
    const arm = recordedFormat('arm_event');
    assert.deepEqual(
      [0, 1, 2, 3].map((sev) => tellOne(arm, { sev, cpu: 5 }).severity),
      ['informational', 'corrected', 'uncorrected', 'fatal'],
    );
    assert.equal(tellOne(arm, { sev: 3, cpu: -1 }).component, 'a processor');
  });

  it('is on one line, whatever the firmware calls its parts', () => {
    const error = tellOne(recordedFormat('mc_event'), { label: 'DIMM\n\u001b[2JA1', msg: 'x'.repeat(500) });
    assert.equal(error.component, 'mc0 DIMM [2JA1');
    assert.equal(error.message.length, 200);
  });

  it('of another kind is none', () => {
    const other = formatOf('name: sched_switch\nID: 3\n');
    assert.equal(errorOfEvent(other, new Map()), undefined);
  });
});

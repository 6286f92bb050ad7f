import { readFileSync } from 'node:fs';
import { type PageLayout, parsePageLayout } from '../../../lib/host/ring-buffer.ts';
import { parseFormat, type TraceFormat } from '../../../lib/host/trace-format.ts';

/** A file of a kernel, see recorded/README. */
export function recorded(name: string): Buffer {
  return readFileSync(new URL(`recorded/${name}`, import.meta.url));
}

export function recordedFormat(name: string): TraceFormat {
  return formatOf(recorded(`${name}.format`).toString());
}

export function formatOf(text: string): TraceFormat {
  const format = parseFormat(text);
  if (format === undefined) {
    throw new Error('that is no format');
  }
  return format;
}

export function recordedLayout(): PageLayout {
  const layout = parsePageLayout(recorded('header_page').toString());
  if (layout === undefined) {
    throw new Error('that is no layout');
  }
  return layout;
}

const COMMON = `	field:unsigned short common_type;	offset:0;	size:2;	signed:0;
	field:unsigned char common_flags;	offset:2;	size:1;	signed:0;
	field:unsigned char common_preempt_count;	offset:3;	size:1;	signed:0;
	field:int common_pid;	offset:4;	size:4;	signed:1;
`;

/** As include/ras/ras_event.h makes them; the kernel that the others are from has neither of them. */
export const AER_FORMAT = formatOf(`name: aer_event
ID: 877
format:
${COMMON}
	field:__data_loc char[] dev_name;	offset:8;	size:4;	signed:0;
	field:u32 status;	offset:12;	size:4;	signed:0;
	field:u8 severity;	offset:16;	size:1;	signed:0;
	field:u8 tlp_header_valid;	offset:17;	size:1;	signed:0;
	field:u32 tlp_header[4];	offset:20;	size:16;	signed:0;

print fmt: "%s PCIe Bus Error: severity=%s, %s, TLP Header=%s
", __get_str(dev_name), REC->severity == 2 ? "Corrected" : REC->severity == 1 ? "Fatal" : "Uncorrected, non-fatal", REC->severity == 2 ? __print_flags(REC->status, "|", {0x00000001, "Receiver Error"}, {0x00000040, "Bad TLP"}, {(1UL << (7)), "Bad DLLP"}) : __print_flags(REC->status, "|", {0x00000010, "Data Link Protocol Error"}, {0x00004000, "Completion Timeout"}), REC->tlp_header_valid ? __print_array(REC->tlp_header, 4, 4) : "Not available"
`);

export const LOST_PAGE_FORMAT = formatOf(`name: memory_failure_event
ID: 1711
format:
${COMMON}
	field:unsigned long pfn;	offset:8;	size:8;	signed:0;
	field:int type;	offset:16;	size:4;	signed:1;
	field:int result;	offset:20;	size:4;	signed:1;

print fmt: "pfn %#lx: recovery action for %s: %s", REC->pfn, __print_symbolic(REC->type, { 0, "reserved kernel page" }, { 12, "dirty LRU page" }), __print_symbolic(REC->result, { 0, "Ignored" }, { 3, "Recovered" })
`);

/** The bytes of an event: numbers as they lie in memory, and text behind the fields. */
export function encode(
  format: TraceFormat,
  values: Readonly<Record<string, number | bigint | string>>,
): Buffer {
  const fixed = Math.max(...[...format.fields.values()].map(({ offset, size }) => offset + size));
  let record = Buffer.alloc(Math.ceil(fixed / 4) * 4);
  record.writeUInt16LE(format.id, 0);
  for (const [name, value] of Object.entries(values)) {
    const field = format.fields.get(name);
    if (field === undefined) {
      throw new Error(`${format.name} has no field ${name}`);
    }
    if (typeof value === 'string') {
      const bytes = Buffer.from(`${value}\0`);
      record.writeUInt32LE((bytes.length << 16) | record.length, field.offset);
      record = Buffer.concat([record, bytes]);
    } else {
      const bytes = Buffer.alloc(8);
      bytes.writeBigUInt64LE(BigInt.asUintN(64, BigInt(value)));
      bytes.copy(record, field.offset, 0, field.size);
    }
  }
  return Buffer.concat([record, Buffer.alloc((4 - (record.length % 4)) % 4)]);
}

/** A page with these events, as the kernel would have written it. */
export function pageWith(records: readonly Buffer[]): Buffer {
  const { pageSize, dataOffset } = recordedLayout();
  const page = Buffer.alloc(pageSize);
  let offset = dataOffset;
  for (const record of records) {
    page.writeUInt32LE(0, offset);
    page.writeUInt32LE(record.length + 4, offset + 4);
    record.copy(page, offset + 8);
    offset += 8 + record.length;
  }
  page.writeBigUInt64LE(BigInt(offset - dataOffset), 8);
  return page;
}

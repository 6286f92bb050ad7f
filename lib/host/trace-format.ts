import { endianness } from 'node:os';

/** One field of an event, as its `format` file describes it. */
interface Field {
  readonly offset: number;
  readonly size: number;
  readonly signed: boolean;
  readonly kind: 'number' | 'bytes' | 'dynamic-text' | 'dynamic-bytes';
  /** `__rel_loc`: the place is told relative to the field's end. */
  readonly relative: boolean;
}

/** How the events of one kind are laid out in this kernel: the file `events/SYSTEM/EVENT/format` of tracefs. */
export interface TraceFormat {
  readonly name: string;
  /** What an event's `common_type` is. */
  readonly id: number;
  readonly fields: ReadonlyMap<string, Field>;
  /** What the numbers of a field mean, from the `__print_symbolic` and `__print_flags` of its print format. */
  readonly words: ReadonlyMap<string, ReadonlyMap<number, string>>;
}

export type Value = bigint | string | Buffer;

/** More than any text in these events has. */
const MAX_TEXT = 1024;

/**
 * Reads a `format` file.
 *
 * @returns undefined when it is none
 */
export function parseFormat(text: string): TraceFormat | undefined {
  const name = /^name:\s*(\S+)/m.exec(text)?.[1];
  const id = /^ID:\s*(\d{1,9})$/m.exec(text)?.[1];
  if (name === undefined || id === undefined) {
    return undefined;
  }
  const fields = new Map<string, Field>();
  for (const line of text.split('\n')) {
    const found =
      /^\s*field:\s*(.+?)\s*\b(\w+)(\[[^\]]*\])?;\s*offset:(\d{1,7});\s*size:(\d{1,7});(?:\s*signed:([01]);)?/.exec(
        line,
      );
    if (found !== null) {
      const [, type = '', field = '', array, offset, size, signed] = found;
      fields.set(field, {
        offset: Number(offset),
        size: Number(size),
        signed: signed === '1',
        kind: kindOf(type, array !== undefined, Number(size)),
        relative: /\b__rel_loc\b/.test(type),
      });
    }
  }
  // To the end of the file: a line end within the print format, which AER's has, is there as it is.
  const printed = /^print fmt:.*$/ms.exec(text)?.[0] ?? '';
  return { name, id: Number(id), fields, words: wordsIn(printed) };
}

function kindOf(type: string, isArray: boolean, size: number): Field['kind'] {
  if (/\b__(data|rel)_loc\b/.test(type)) {
    return /\bchar\b/.test(type) ? 'dynamic-text' : 'dynamic-bytes';
  }
  return isArray || ![1, 2, 4, 8].includes(size) ? 'bytes' : 'number';
}

/** `{0x1, "word"}`, or as BIT() leaves it: `{(1UL << (0)), "word"}`. */
const PAIR =
  /\{\s*(?:(0x[0-9a-fA-F]{1,8}|\d{1,10})[uUlL]*|\(+1[uUlL]*\s*<<\s*\(?(\d{1,2})\)+)\s*,\s*"([^"]*)"\s*\}/g;

/** Of a field that is printed in two ways (AER's status) the second has its name with "#2". */
function wordsIn(printed: string): Map<string, Map<number, string>> {
  const words = new Map<string, Map<number, string>>();
  for (const call of printed.split(/__print_(?:symbolic|flags)(?:_u64)?\(/).slice(1)) {
    const field = /^\s*REC->(\w+)/.exec(call)?.[1];
    if (field === undefined) {
      continue;
    }
    const name = words.has(field) ? `${field}#2` : field;
    const pairs = [...call.matchAll(PAIR)];
    words.set(
      name,
      new Map(
        pairs.map(([, number, bit, word]) => [
          number === undefined ? 2 ** Number(bit) : Number(number),
          word ?? '',
        ]),
      ),
    );
  }
  return words;
}

/**
 * The fields of one event. A field that lies beyond the event's end is left out, and so is text that points there.
 *
 * @param record its bytes, as `readPage` gives them
 */
export function decode(format: TraceFormat, record: Buffer, order = endianness()): Map<string, Value> {
  const values = new Map<string, Value>();
  for (const [name, field] of format.fields) {
    const value = valueAt(field, record, order);
    if (value !== undefined) {
      values.set(name, value);
    }
  }
  return values;
}

/** What kind of event `record` is: its `common_type`, the first two bytes of every event. */
export function typeOf(record: Buffer, order = endianness()): number | undefined {
  if (record.length < 2) {
    return undefined;
  }
  return order === 'LE' ? record.readUInt16LE(0) : record.readUInt16BE(0);
}

function valueAt(field: Field, record: Buffer, order: 'LE' | 'BE'): Value | undefined {
  const { offset, size, signed, kind, relative } = field;
  if (offset + size > record.length) {
    return undefined;
  }
  if (kind === 'number') {
    return integer(record.subarray(offset, offset + size), signed, order);
  }
  if (kind === 'bytes') {
    return Buffer.from(record.subarray(offset, offset + size));
  }
  if (size !== 4) {
    return undefined;
  }
  const place = order === 'LE' ? record.readUInt32LE(offset) : record.readUInt32BE(offset);
  const start = (place & 0xffff) + (relative ? offset + size : 0);
  const length = place >>> 16;
  if (start + length > record.length) {
    return undefined;
  }
  const bytes = record.subarray(start, start + Math.min(length, MAX_TEXT));
  if (kind === 'dynamic-bytes') {
    return Buffer.from(bytes);
  }
  const end = bytes.indexOf(0);
  return bytes.toString('utf8', 0, end < 0 ? bytes.length : end);
}

function integer(bytes: Buffer, signed: boolean, order: 'LE' | 'BE'): bigint {
  let value = 0n;
  for (const byte of order === 'LE' ? bytes.toReversed() : bytes) {
    value = (value << 8n) | BigInt(byte);
  }
  return signed ? BigInt.asIntN(bytes.length * 8, value) : value;
}

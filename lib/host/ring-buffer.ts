import { endianness } from 'node:os';

/** Where things are in what `trace_pipe_raw` gives, from the file `events/header_page`. */
export interface PageLayout {
  /** Offset and size of the word that says how many bytes of the page are used. */
  readonly commit: { readonly offset: number; readonly size: number };
  readonly dataOffset: number;
  /** Bytes of a whole page, which is what one read gives. */
  readonly pageSize: number;
}

/** What one page of the kernel's ring buffer holds. */
export interface Page {
  /** The events' own bytes, the oldest first. */
  readonly records: readonly Buffer[];
  /** How many events were overwritten before this page was read; at least that many. */
  readonly missed: number;
}

/** Bits of the commit word (RB_MISSED_EVENTS and RB_MISSED_STORED in kernel/trace/ring_buffer.c). */
const MISSED_EVENTS = 0x8000_0000;
const MISSED_STORED = 0x4000_0000;
const COMMIT_MASK = 0x07ff_ffff;

/** Lengths that are no lengths (include/linux/ring_buffer.h; the file `events/header_event` tells them, too). */
const PADDING = 29;
const TIME_EXTEND = 30;
const TIME_STAMP = 31;

/** Larger pages than any kernel has are refused, as a page is what is read at a time. */
const MAX_PAGE = 1024 * 1024;

/**
 * Reads `events/header_page` of tracefs.
 *
 * @returns undefined when it does not say what it must
 */
export function parsePageLayout(text: string): PageLayout | undefined {
  const commit = field(text, 'commit');
  const data = field(text, 'data');
  if (commit === undefined || data === undefined || (commit.size !== 4 && commit.size !== 8)) {
    return undefined;
  }
  const pageSize = data.offset + data.size;
  return commit.offset + commit.size <= data.offset && data.size > 0 && pageSize <= MAX_PAGE
    ? { commit, dataOffset: data.offset, pageSize }
    : undefined;
}

function field(text: string, name: string): { offset: number; size: number } | undefined {
  const found = new RegExp(`field:[^;\\n]*\\b${name};\\s*offset:(\\d{1,7});\\s*size:(\\d{1,7});`).exec(text);
  return found === null ? undefined : { offset: Number(found[1]), size: Number(found[2]) };
}

/**
 * Takes a page apart into its events (kernel/trace/ring_buffer.c; Documentation/trace/ring-buffer-design.rst). Binary
 * pages are read, and not the text of `trace_pipe`: the text's form is that of each kernel's TP_printk, which changes,
 * and holds labels of firmware unquoted, while the `format` files tell where each field is.
 *
 * Whatever is not as it should be ends the page: nothing is read beyond it, and nothing is thrown.
 */
export function readPage(page: Buffer, layout: PageLayout, order = endianness()): Page {
  const { commit, dataOffset } = layout;
  const word = (offset: number) => {
    return order === 'LE' ? page.readUInt32LE(offset) : page.readUInt32BE(offset);
  };
  const lowWord = commit.offset + (order === 'BE' ? commit.size - 4 : 0);
  if (page.length < dataOffset || page.length < lowWord + 4) {
    return { records: [], missed: 0 };
  }
  const flags = word(lowWord);
  const end = Math.min(page.length, dataOffset + (flags & COMMIT_MASK));
  const records: Buffer[] = [];
  let offset = dataOffset;
  while (offset + 4 <= end) {
    const header = word(offset);
    const kind = order === 'LE' ? header & 31 : header >>> 27;
    const delta = order === 'LE' ? header >>> 5 : header & 0x07ff_ffff;
    if (kind === TIME_EXTEND || kind === TIME_STAMP) {
      offset += 8;
      continue;
    }
    if (kind === PADDING && delta === 0) {
      break; // Nothing more is on this page.
    }
    const isLong = kind === 0 || kind === PADDING;
    if (isLong && offset + 8 > end) {
      break;
    }
    // The word after the header says how long a long event is, itself included.
    const length = isLong ? word(offset + 4) : kind * 4;
    if (length < 4 || offset + 4 + length > end) {
      break;
    }
    if (kind !== PADDING) {
      records.push(page.subarray(offset + (kind === 0 ? 8 : 4), offset + 4 + length));
    }
    // Events begin at multiples of 4.
    offset += 4 + Math.ceil(length / 4) * 4;
  }
  return { records, missed: missedBefore(flags, page, end, commit.size, word, order) };
}

/** The kernel puts the number behind the last event where there is room for it. */
function missedBefore(
  flags: number,
  page: Buffer,
  end: number,
  size: number,
  word: (offset: number) => number,
  order: 'LE' | 'BE',
): number {
  if ((flags & MISSED_EVENTS) === 0) {
    return 0;
  }
  const at = end + (order === 'BE' ? size - 4 : 0);
  return (flags & MISSED_STORED) !== 0 && at + 4 <= page.length ? Math.max(1, word(at)) : 1;
}

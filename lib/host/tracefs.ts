import {
  closeSync,
  constants,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  rmdirSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { errnoOf, KvmhaError, messageOf } from '../error.ts';
import type { HostError } from './host-error.ts';
import { errorOfEvent, RAS_EVENTS } from './ras-event.ts';
import { type PageLayout, parsePageLayout, readPage } from './ring-buffer.ts';
import { decode, parseFormat, type TraceFormat, typeOf } from './trace-format.ts';

/** Where tracefs is; the second is its place before Linux 4.1, and with debugfs. */
export const TRACEFS: readonly string[] = ['/sys/kernel/tracing', '/sys/kernel/debug/tracing'];

/** KiB for each CPU, instead of the kernel's 1408: some hundred events, and what is lost is counted. */
const BUFFER = 64;

/** How many pages are read at a time, so that a flood of events keeps nobody waiting: some thousand events. */
const MAX_PAGES = 64;

/** What was read of the trace. */
export interface Heard {
  readonly errors: readonly HostError[];
  /** Events that the kernel has dropped, at least. */
  readonly missed: number;
}

/**
 * Listens to the kernel's trace events of hardware errors, in a trace instance of its own
 * (Documentation/trace/ftrace.rst, "Instances"): what others trace, and rasdaemon among them, is not disturbed by it.
 * The instance stays when its reader dies, so that the next one hears what came in between.
 */
export class TraceReader {
  readonly #root: string;
  readonly #instance: string;
  readonly #layout: PageLayout;
  readonly #page: Buffer;
  readonly #files: readonly number[];
  /** By their `common_type`. */
  #formats = new Map<number, TraceFormat>();
  #next = 0;

  /**
   * @param root where tracefs is mounted
   * @param name of the instance
   * @throws KvmhaError `file` when this kernel, or this system, has no such events
   */
  constructor(root: string, name: string) {
    this.#root = root;
    this.#instance = join(root, 'instances', name);
    const files: number[] = [];
    try {
      const layout = parsePageLayout(readFileSync(join(root, 'events/header_page'), 'utf8'));
      if (layout === undefined) {
        throw new Error('events/header_page is not understood');
      }
      this.#layout = layout;
      this.#page = Buffer.alloc(layout.pageSize);
      if (make(this.#instance)) {
        writeFileSync(join(this.#instance, 'buffer_size_kb'), String(BUFFER));
      }
      const cpus = readdirSync(join(this.#instance, 'per_cpu'));
      for (const cpu of cpus.filter((each) => each.startsWith('cpu'))) {
        const path = join(this.#instance, 'per_cpu', cpu, 'trace_pipe_raw');
        files.push(openSync(path, constants.O_RDONLY | constants.O_NONBLOCK));
      }
      this.#files = files;
      this.refresh();
    } catch (cause) {
      files.forEach((file) => void closeSync(file));
      const why =
        errnoOf(cause) === 'ENOENT' && !existsSync(join(root, 'events'))
          ? 'tracefs is not mounted'
          : messageOf(cause);
      throw new KvmhaError('file', `${root}: ${why}`, { cause });
    }
  }

  /** How many CPUs' buffers there are to read. */
  get cpus(): number {
    return this.#files.length;
  }

  /** The names of the events that are listened to. */
  get events(): string[] {
    return [...this.#formats.values()].map(({ name }) => name);
  }

  /** Listens to the events that there are now: a module can bring some. @throws when the instance is gone */
  refresh(): void {
    const formats = new Map<number, TraceFormat>();
    for (const event of RAS_EVENTS) {
      const format = this.#formatOf(event);
      if (format !== undefined) {
        const known = this.#formats.get(format.id);
        if (known?.name !== format.name) {
          writeFileSync(join(this.#instance, 'events', event, 'enable'), '1');
        }
        formats.set(format.id, format);
      }
    }
    this.#formats = formats;
  }

  #formatOf(event: string): TraceFormat | undefined {
    try {
      return parseFormat(readFileSync(join(this.#root, 'events', event, 'format'), 'utf8'));
    } catch (error) {
      if (errnoOf(error) === 'ENOENT') {
        return undefined;
      }
      throw error;
    }
  }

  /** Takes what has come since the last time, up to a limit; does not wait. @throws when the instance is gone */
  read(): Heard {
    const errors: HostError[] = [];
    let missed = 0;
    let pages = 0;
    // In turns, so that a CPU with a flood of events does not hide another.
    for (let i = 0; i < this.#files.length && pages < MAX_PAGES; i += 1) {
      const file = this.#files[this.#next % this.#files.length] as number;
      this.#next += 1;
      for (; pages < MAX_PAGES; pages += 1) {
        const length = this.#readPage(file);
        if (length === 0) {
          break;
        }
        const page = readPage(this.#page.subarray(0, length), this.#layout);
        missed += page.missed;
        errors.push(...page.records.flatMap((record) => this.#errorOf(record) ?? []));
      }
    }
    return { errors, missed };
  }

  #readPage(file: number): number {
    try {
      return readSync(file, this.#page);
    } catch (error) {
      if (errnoOf(error) === 'EAGAIN') {
        return 0;
      }
      throw error;
    }
  }

  #errorOf(record: Buffer): HostError | undefined {
    const format = this.#formats.get(typeOf(record) ?? -1);
    return format === undefined ? undefined : errorOfEvent(format, decode(format, record));
  }

  /** Ends the listening, and removes the instance. Does not throw. */
  close(): void {
    this.#files.forEach((file) => void closeSync(file));
    try {
      // The instance cannot be removed while an event is enabled by a probe's owner, or somebody reads it.
      writeFileSync(join(this.#instance, 'events/enable'), '0');
      rmdirSync(this.#instance);
    } catch {
      // It is found, and used, by the next one.
    }
  }
}

/** @returns false when it was there already */
function make(directory: string): boolean {
  try {
    mkdirSync(directory);
    return true;
  } catch (error) {
    if (errnoOf(error) === 'EEXIST') {
      return false;
    }
    throw error;
  }
}

import { Deadline } from './deadline.ts';
import { isKvmhaError, messageOf } from './error.ts';
import type { Log } from './log.ts';
import { run } from './run.ts';

/** One thing that happened to a guest, or to the host, as a line of the journal keeps it. */
export interface JournalEntry {
  /**
   * `seen`: QEMU, libvirt or the hardware reported something, or an action found a guest preserved. `decided`: what
   * follows from what was seen. `done`: something was carried out, or failed. `proved`: a guest is
   * quiesced-failover-safe.
   */
  readonly what: 'seen' | 'decided' | 'done' | 'proved';
  /** The domain's name; none for what happened to the host. */
  readonly guest?: string | undefined;
  readonly uuid?: string | undefined;
  /** Pacemaker's name for it. */
  readonly resource?: string | undefined;
  /** What more there is to say, as JSON. */
  readonly [detail: string]: unknown;
}

/** The journal of this node: JSON lines, the oldest first, readable by root alone. */
export const JOURNAL = '/var/log/kvmha/events.jsonl';

/** A longer journal becomes JOURNAL.1, and the one before is dropped. A line has some 300 bytes. */
const MAX_BYTES = 8 * 1024 * 1024;

/** Milliseconds until what was written must be on the disk. A disk that hangs must keep nobody from anything. */
const PATIENCE = 2000;

/**
 * Appends standard input to the file $1 and flushes it, in directory $2. Where the file has more than $3 bytes, it is
 * moved out of the way before; of several that find that at the same time one does it.
 */
const SCRIPT = `
umask 077
mkdir -p -- "$2"
is_long() { [ "$(stat -c %s -- "$1" 2>/dev/null || echo 0)" -gt "$2" ]; }
if is_long "$1" "$3"; then
  (flock --nonblock 9 && is_long "$1" "$3" && mv -f -- "$1" "$1.1") 9>"$1.lock"
fi
exec dd of="$1" oflag=append conv=notrunc,fsync bs=1M iflag=fullblock status=none
`;

/**
 * What happened to guests, for whoever looks into it afterwards. Unlike the log it is complete, for machines, and on
 * the disk as soon as it is written: the node may be fenced a moment later.
 *
 * A child writes it, since a write to a disk that hangs blocks a process even against SIGKILL. What cannot be written
 * is said in the log, and is no failure of anything else.
 */
export class Journal {
  readonly #by: string;
  readonly #log: Log;
  readonly #path: string;
  readonly #maxBytes: number;
  #waiting = '';
  #writing: Promise<void> | undefined;

  /** @param by which part of kvmha writes */
  constructor(by: 'agent' | 'watcher' | 'command', log: Log, path = JOURNAL, maxBytes = MAX_BYTES) {
    this.#by = by;
    this.#log = log;
    this.#path = path;
    this.#maxBytes = maxBytes;
  }

  /** Writes a line, after those before. It does not wait: `settled` does. */
  record(entry: JournalEntry): void {
    const line = { time: new Date().toISOString(), by: this.#by, pid: process.pid, ...entry };
    this.#waiting += `${JSON.stringify(line)}\n`;
    this.#writing ??= this.#write();
  }

  /** Resolves when everything so far is on the disk, or has been given up. */
  async settled(): Promise<void> {
    while (this.#writing !== undefined) {
      await this.#writing;
    }
  }

  async #write(): Promise<void> {
    // What is recorded at one moment, or while something is being written, is written together.
    await Promise.resolve();
    while (this.#waiting !== '') {
      const input = this.#waiting;
      this.#waiting = '';
      await this.#append(input);
    }
    this.#writing = undefined;
  }

  async #append(input: string): Promise<void> {
    const directory = this.#path.slice(0, this.#path.lastIndexOf('/'));
    const args = ['-c', SCRIPT, 'sh', this.#path, directory, String(this.#maxBytes)];
    try {
      const { exitCode, stderr } = await run('sh', args, { deadline: Deadline.in(PATIENCE), input });
      if (exitCode !== 0) {
        this.#log.warn(`the journal ${this.#path} was not written: ${stderr.replace(/\s+/g, ' ').trim()}`);
      }
    } catch (error) {
      if (!isKvmhaError(error)) {
        throw error;
      }
      this.#log.warn(`the journal ${this.#path} was not written: ${messageOf(error)}`);
    }
  }
}

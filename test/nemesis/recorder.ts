import {
  closeSync,
  fstatSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  readSync,
  statSync,
} from 'node:fs';
import { join } from 'node:path';
import type { Lab } from '../lab/client.ts';
import type { Event, History, Life } from './history.ts';

/** Milliseconds between two looks at each kind of evidence. */
const DISK_PAUSE = 20;
const PAUSE = 100;

/** Where the witness's records are on its disk (see test/guest/witness.s). */
const TICK_RECORD_AT = 16 * 512;

/**
 * QEMU locks this byte of an image that it may write to (RAW_LOCK_PERM_BASE + 1, block/file-posix.c), by the kernel's
 * table of locks: `1: OFDLCK ADVISORY READ -1 00:60:397 100 101`.
 */
const WRITE_LOCK_BYTE = 101;

/** The kernel counts the start of a process in ticks of this many milliseconds (USER_HZ). */
const CLOCK_TICK = 10;

/** Milliseconds for which a new process may still become a qemu. */
const YOUNG = 3000;

/** Collects what can be seen of the guests of a lab, from outside of its nodes and without asking anybody in them. */
export class Recorder {
  readonly #lab: Lab;
  readonly #guests: readonly Image[];
  readonly #tails: readonly Tail[];
  readonly #events: Event[] = [];
  readonly #lives: Life[] = [];
  readonly #starts = new Map<Life, string>();
  readonly #others = new Map<string, number>();
  readonly #begun = Date.now();
  readonly #booted = bootTime();
  /** The guests that an operator migrates past the cluster at this moment. */
  readonly movedByHand = new Set<string>();
  #timers: NodeJS.Timeout[] = [];
  #looked = Date.now();
  #lookedAtDisks = Date.now();
  #longestPause = 0;
  #broken: unknown;

  /** @param guests their names; each has a disk /shared/NAME.img in raw format, and a serial port as in support.ts */
  constructor(lab: Lab, guests: readonly string[]) {
    this.#lab = lab;
    this.#guests = guests.map((name) => new Image(name, lab.shared(`${name}.img`)));
    const { nodes, layout, pid } = lab;
    this.#tails = [
      ...nodes.flatMap(({ name: node }) => {
        const disk = join(`/proc/${pid}/root`, layout.nodeDirectory(node), 'upper');
        return [
          new Tail(join(disk, 'var/log/kvmha/events.jsonl'), (line) => this.#journal(node, line)),
          new Tail(join(disk, 'var/log/syslog'), (line) => this.#syslog(node, line)),
          ...guests.map(
            (guest) =>
              new Tail(join(disk, 'var/log/witness', guest), (line, at, after) =>
                this.#serial(guest, node, line, at, after),
              ),
          ),
        ];
      }),
      new Tail(layout.powerLog, (line) => this.#power(line)),
      new Tail(lab.shared('fence.log'), (line) => this.#fence(line)),
    ];
  }

  start(): void {
    const every = (pause: number, look: () => void) =>
      setInterval(() => {
        try {
          look();
        } catch (error) {
          this.#broken ??= error;
        }
      }, pause).unref();
    this.#timers = [every(DISK_PAUSE, () => this.#disks()), every(PAUSE, () => this.#look())];
  }

  stop(): void {
    this.#timers.forEach(clearInterval);
    for (const closable of [...this.#guests, ...this.#tails]) {
      closable.close();
    }
  }

  add(...events: Event[]): void {
    this.#events.push(...events);
  }

  /**
   * What was seen so far.
   *
   * @throws the error that has kept it from seeing
   */
  history(): History {
    this.#disks();
    this.#look();
    if (this.#broken !== undefined) {
      throw this.#broken;
    }
    const events = this.#events.filter(({ at }) => at >= this.#begun);
    return { lives: this.#lives, events: events.sort((one, other) => one.at - other.at) };
  }

  /** The qemu processes of a guest that are there, the youngest last. */
  living(guest: string): Life[] {
    this.#processes();
    return this.#lives.filter((life) => life.guest === guest && life.gone === undefined);
  }

  /** How long nobody looked at the disks, in milliseconds: the longest of the pauses since this was last asked. */
  longestPause(): number {
    const longest = this.#longestPause;
    this.#longestPause = 0;
    return longest;
  }

  #disks(): void {
    const now = Date.now();
    this.#longestPause = Math.max(this.#longestPause, now - this.#lookedAtDisks);
    this.#lookedAtDisks = now;
    for (const guest of this.#guests) {
      const after = guest.looked;
      const at = Date.now();
      guest.looked = at;
      const { boot, tick, instance } = guest.read();
      const { seen } = guest;
      if (boot > 0 && (seen.boot !== boot || seen.tick !== tick || seen.instance !== instance)) {
        guest.seen = { boot, tick, instance };
        this.add({ kind: 'wrote', guest: guest.name, at: Date.now(), after, boot, instance, tick });
      }
    }
  }

  #look(): void {
    const after = this.#looked;
    this.#looked = Date.now();
    for (const tail of this.#tails) {
      tail.read();
    }
    this.#processes();
    for (const guest of this.#guests) {
      const pids = this.#holders(guest);
      if (pids.join() !== guest.holders.join()) {
        guest.holders = pids;
        this.add({ kind: 'holders', guest: guest.name, at: Date.now(), after, pids });
      }
    }
  }

  /** Which processes hold a guest's image for writing; several only if they do so at the same moment. */
  #holders({ name, key }: Image): number[] {
    const pids = this.#lives
      .filter((life) => life.guest === name && life.gone === undefined)
      .map(({ pid }) => pid);
    const holding = pids.filter((pid) => holds(pid, key));
    return holding.length < 2 ? holding : holding.filter((pid) => holds(pid, key));
  }

  #processes(): void {
    const begun = Date.now();
    const entries = readdirSync('/proc').filter((name) => /^[0-9]+$/.test(name));
    const present = new Set(entries);
    for (const life of this.#lives) {
      if (life.gone === undefined) {
        if (present.has(String(life.pid)) && startOf(life.pid) === this.#starts.get(life)) {
          life.last = begun;
        } else {
          life.gone = Date.now();
        }
      }
    }
    for (const pid of this.#others.keys()) {
      if (!present.has(pid)) {
        this.#others.delete(pid);
      }
    }
    for (const pid of entries) {
      const since = this.#others.get(pid);
      const isKnown = this.#lives.some((life) => life.pid === Number(pid) && life.gone === undefined);
      if (isKnown || (since !== undefined && begun - since > YOUNG)) {
        continue;
      }
      const life = this.#lifeOf(Number(pid), begun);
      if (life === undefined) {
        this.#others.set(pid, since ?? begun);
      } else {
        this.#lives.push(life.life);
        this.#starts.set(life.life, life.start);
      }
    }
  }

  #lifeOf(pid: number, seen: number): { life: Life; start: string } | undefined {
    try {
      const argv = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
      const name = /^guest=([^,]*),/.exec(argv[argv.indexOf('-name') + 1] ?? '')?.[1];
      if (!/qemu-system/.test(argv[0] ?? '') || !this.#guests.some((guest) => guest.name === name)) {
        return undefined;
      }
      const namespace = readlinkSync(`/proc/${pid}/ns/pid`);
      const node = this.#lab.nodes.find(
        (each) => each.isOn && readlinkSync(`/proc/${each.pid}/ns/pid`) === namespace,
      );
      const start = startOf(pid);
      if (node === undefined || name === undefined || start === undefined) {
        return undefined;
      }
      const incoming = argv.includes('-incoming');
      const hasSockets = argv.some((argument) => argument.includes('/kvmha/agent/'));
      const byHand = incoming ? this.movedByHand.has(name) : !hasSockets;
      const since = this.#booted + Number(start) * CLOCK_TICK;
      return { life: { guest: name, node: node.name, pid, incoming, byHand, since, last: seen }, start };
    } catch {
      return undefined; // It has just ended.
    }
  }

  #serial(guest: string, node: string, line: string, at: number, after: number): void {
    const told = /^T([0-9a-f]{8})\r?$/.exec(line);
    if (told !== null) {
      this.add({ kind: 'told', guest, node, at, after, tick: Number.parseInt(told[1] ?? '', 16) });
    }
    const booted = /^B([0-9a-f]{8}) ([0-9a-f]{8})\r?$/.exec(line);
    if (booted !== null) {
      const [boot = 0, tick = 0] = booted.slice(1).map((digits) => Number.parseInt(digits, 16));
      this.add({ kind: 'booted', guest, node, at, after, boot, tick });
    }
  }

  #journal(node: string, line: string): void {
    let entry: { [key: string]: unknown };
    try {
      entry = JSON.parse(line);
    } catch {
      return; // Cut off by a full disk.
    }
    const at = Date.parse(String(entry['time']));
    const { guest, by, what, action, outcome, state, proof } = entry;
    if (typeof guest !== 'string') {
      return;
    }
    const wasFoundSafe = what === 'seen' && state === 'quiesced-failover-safe' && proof !== undefined;
    if (what === 'proved' || wasFoundSafe) {
      this.add({ kind: 'proved', guest, node, at, by: String(by) });
    } else if (what === 'done' && outcome === 'shut-off') {
      this.add({ kind: 'ended', guest, node, at, how: `${by}: ${action}` });
    } else if (action === 'resume' && outcome === 'resumed') {
      this.add({ kind: 'resumed', guest, node, at });
    }
  }

  #syslog(node: string, line: string): void {
    if (/the journal \S+ was not written/.test(line)) {
      const until = Date.parse(line.split(' ')[0] ?? '');
      this.add({ kind: 'journal-lost', node, at: until - 5000, until });
    }
  }

  #power(line: string): void {
    const [, time = '', node = ''] = /^(\S+) (\S+) is off/.exec(line) ?? [];
    if (node !== '') {
      this.add({ kind: 'node-off', node, at: Date.parse(time) });
    }
  }

  #fence(line: string): void {
    const [, time = '', node = ''] = /^(\S+) \S+ (?:reboot|off) (\S+) exits 0$/.exec(line) ?? [];
    if (node !== '') {
      this.add({ kind: 'node-fenced', node, at: Date.parse(time) });
    }
  }
}

/** A guest's disk, read while the guest runs. */
class Image {
  readonly name: string;
  /** Device and inode, as the kernel's table of locks has them. */
  readonly key: string;
  readonly #file: number;
  readonly #record = Buffer.alloc(16);
  looked = Date.now();
  seen = { boot: 0, tick: 0, instance: 0 };
  holders: readonly number[] = [];

  constructor(name: string, path: string) {
    this.name = name;
    const { dev, ino } = statSync(path, { bigint: true });
    // makedev(3): the lowest byte is of the minor number, as are the bits from 20 on.
    const major = (dev >> 8n) & 0xfffn;
    const minor = (dev & 0xffn) | ((dev >> 12n) & 0xfff00n);
    const hex = (number: bigint) => number.toString(16).padStart(2, '0');
    this.key = `${hex(major)}:${hex(minor)}:${ino}`;
    this.#file = openSync(path, 'r');
  }

  read(): { boot: number; tick: number; instance: number } {
    readSync(this.#file, this.#record, 0, 16, TICK_RECORD_AT);
    const [boot = 0, tick = 0, instance = 0] = [4, 8, 12].map((offset) => this.#record.readUInt32LE(offset));
    return { boot, tick, instance };
  }

  close(): void {
    closeSync(this.#file);
  }
}

/** The whole lines that are appended to a file, which need not be there yet. */
class Tail {
  readonly #path: string;
  readonly #tell: (line: string, at: number, after: number) => void;
  readonly #buffer = Buffer.alloc(256 * 1024);
  #file: number | undefined;
  #offset = 0;
  #rest = '';
  #looked = Date.now();

  constructor(path: string, tell: (line: string, at: number, after: number) => void) {
    this.#path = path;
    this.#tell = tell;
  }

  read(): void {
    const after = this.#looked;
    this.#looked = Date.now();
    try {
      this.#file ??= openSync(this.#path, 'r');
    } catch {
      return;
    }
    while (fstatSync(this.#file).size > this.#offset) {
      const size = readSync(this.#file, this.#buffer, 0, this.#buffer.length, this.#offset);
      this.#offset += size;
      const lines = (this.#rest + this.#buffer.toString('latin1', 0, size)).split('\n');
      this.#rest = lines.pop() ?? '';
      for (const line of lines) {
        this.#tell(line, Date.now(), after);
      }
    }
  }

  close(): void {
    if (this.#file !== undefined) {
      closeSync(this.#file);
    }
  }
}

/** When a process was started, in the kernel's words; undefined when no thread of it is left. */
function startOf(pid: number): string | undefined {
  try {
    // The name in parentheses may hold anything, so count from the last one: state is field 3, the time field 22.
    const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ').at(-1)?.split(' ') ?? [];
    const isDead = /[ZX]/.test(fields[0] ?? '') && readdirSync(`/proc/${pid}/task`).length <= 1;
    return isDead ? undefined : fields[19];
  } catch {
    return undefined;
  }
}

/** When this machine was started, by its clock of now: up to 10 ms late, or by how long the fastest of the tries took. */
function bootTime(): number {
  const tries = Array.from({ length: 20 }, () => {
    const before = Date.now();
    const uptime = Number(readFileSync('/proc/uptime', 'utf8').split(' ')[0]) * 1000;
    const after = Date.now();
    return { took: after - before, booted: after - uptime };
  });
  return tries.reduce((best, each) => (each.took < best.took ? each : best)).booted;
}

/** Whether a process has an image open for writing. */
function holds(pid: number, key: string): boolean {
  try {
    return readdirSync(`/proc/${pid}/fdinfo`).some((fd) =>
      readFileSync(`/proc/${pid}/fdinfo/${fd}`, 'utf8')
        .split('\n')
        .some((line) => {
          const [, inode, first, last] = /^lock:.* (\S+:\S+:\d+) (\d+) (\d+|EOF)$/.exec(line) ?? [];
          return inode === key && Number(first) <= WRITE_LOCK_BYTE && Number(last) >= WRITE_LOCK_BYTE;
        }),
    );
  } catch {
    return false; // It has just ended, or closed the file.
  }
}

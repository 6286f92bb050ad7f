import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Deadline } from '../../lib/deadline.ts';
import { messageOf } from '../../lib/error.ts';

const PATIENCE = 30_000;

/** Calls its functions whenever it gets a line: the first page that is lost, how many, and whether a device fails, too. */
const PROGRAM = `
#include <stdio.h>
__attribute__((noinline)) void lost_page(unsigned long pfn, int type, int result) { __asm__ volatile(""); }
__attribute__((noinline)) void pci_error(const char *name, unsigned status, unsigned char severity) { __asm__ volatile(""); }
int main(void) {
  unsigned long pfn;
  unsigned times, devices;
  while (scanf("%lx %u %u", &pfn, &times, &devices) == 3) {
    for (unsigned i = 0; i < times; i++) {
      lost_page(pfn + i, 2, 3);
      if (devices)
        pci_error("0000:3b:00.0", 1 << 14, 1);
    }
    puts("done");
    fflush(stdout);
  }
}
`;

/**
 * The kernel's own trace, with events that have the names and fields of the kernel's events of hardware errors, but
 * are raised by a program: probes of its functions (Documentation/trace/uprobetracer.rst). The events pass through the
 * kernel's ring buffer and are described by its format files as those of the hardware are.
 */
export class Probes implements AsyncDisposable {
  readonly tracefs: string;
  readonly #directory: string;
  readonly #child: ChildProcess;
  #done = 0;

  private constructor(directory: string, tracefs: string) {
    this.#directory = directory;
    this.tracefs = tracefs;
    const program = join(directory, 'program');
    writeFileSync(`${program}.c`, PROGRAM);
    execFileSync('cc', ['-O1', '-no-pie', '-o', program, `${program}.c`]);
    const symbols = execFileSync('nm', [program], { encoding: 'utf8' });
    // As linked, at 0x400000: what a probe wants is the place in the file.
    const place = (name: string) => {
      const address = new RegExp(`^([0-9a-f]+) T ${name}$`, 'm').exec(symbols)?.[1] ?? '';
      return `${program}:0x${(BigInt(`0x${address}`) - 0x400000n).toString(16)}`;
    };
    const probes = [
      `p:ras/memory_failure_event ${place('lost_page')} pfn=%di:x64 type=%si:s32 result=%dx:s32`,
      `p:ras/aer_event ${place('pci_error')} dev_name=+0(%di):string status=%si:x32 severity=%dx:u8`,
    ];
    for (const probe of probes) {
      writeFileSync(join(tracefs, 'uprobe_events'), `${probe}\n`, { flag: 'a' });
    }
    this.#child = spawn(program, { stdio: ['pipe', 'pipe', 'inherit'] });
    this.#child.stdout?.on('data', (chunk: Buffer) => {
      this.#done += chunk.toString().split('\n').length - 1;
    });
  }

  /** @returns why there cannot be any here, if there cannot */
  static set(): Probes | string {
    if (process.arch !== 'x64') {
      return `the probes' arguments are those of x64, not of ${process.arch}`;
    }
    const directory = mkdtempSync(join(tmpdir(), 'kvmha-trace-'));
    const tracefs = join(directory, 'tracing');
    mkdirSync(tracefs);
    try {
      execFileSync('mount', ['-t', 'tracefs', 'tracefs', tracefs], { stdio: 'pipe' });
      removeAbandoned(tracefs);
      if (existsSync(join(tracefs, 'events/ras/memory_failure_event'))) {
        throw new Error('this kernel has the events itself, or another test raises them');
      }
      return new Probes(directory, tracefs);
    } catch (error) {
      unmount(directory, tracefs);
      return `no events can be raised on this machine: ${messageOf(error)}`;
    }
  }

  /** Raises the loss of so many pages one after the other, and with each a fatal error of a PCI device. */
  async raise(page: number, times: number, devices = true): Promise<void> {
    const before = this.#done;
    this.#child.stdin?.write(`${page.toString(16)} ${times} ${devices ? 1 : 0}\n`);
    const done = await Deadline.in(PATIENCE).poll(5, () => this.#done > before || undefined);
    assert.ok(done, 'the events were not raised');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const ended = new Promise((resolve) => this.#child.once('exit', resolve));
    this.#child.stdin?.end();
    await ended;
    for (const name of ['memory_failure_event', 'aer_event']) {
      writeFileSync(join(this.tracefs, 'uprobe_events'), `-:ras/${name}\n`, { flag: 'a' });
    }
    unmount(this.#directory, this.tracefs);
  }
}

/** Removes the probes of a test that was killed: nobody runs their program. */
function removeAbandoned(tracefs: string): void {
  const file = join(tracefs, 'uprobe_events');
  for (const line of readFileSync(file, 'utf8').split('\n')) {
    const [, probe, program] = /^p:(ras\/\w+) (\S*\/kvmha-trace-\w+\/program):/.exec(line) ?? [];
    if (probe !== undefined && program !== undefined && !isRunning(program)) {
      writeFileSync(file, `-:${probe}\n`, { flag: 'a' });
    }
  }
}

function isRunning(program: string): boolean {
  return readdirSync('/proc').some((pid) => {
    try {
      return readlinkSync(`/proc/${pid}/exe`) === program;
    } catch {
      // It is no process, or has ended.
      return false;
    }
  });
}

function unmount(directory: string, tracefs: string): void {
  if (existsSync(join(tracefs, 'events'))) {
    execFileSync('umount', [tracefs], { stdio: 'pipe' });
  }
  rmSync(directory, { recursive: true });
}

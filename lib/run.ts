import type { ExecFileException } from 'node:child_process';
import { Deadline } from './deadline.ts';
import { KvmhaError, messageOf } from './error.ts';
import { killWithChildren } from './linux/process.ts';

export interface Output {
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
}

export interface RunOptions {
  readonly deadline: Deadline;
  /** Text for the program's standard input. */
  readonly input?: string;
  /** Variables set for the program beside this process's own; the locale is always C. */
  readonly env?: Readonly<Record<string, string>>;
  /** What is run, for messages; by default the program and its first argument. */
  readonly what?: string;
}

/** More output than any program we call prints: a runaway program is cut off here. */
const MAX_OUTPUT_BYTES = 16 * 1024 * 1024;

/**
 * English, and UTF-8 in arguments: without CHARSET (g_get_charset of GLib), Pacemaker's tools, which call no
 * setlocale(3), take no others than ASCII, such as the id of a resource ("Invalid byte sequence in conversion input").
 */
const LANGUAGE = { LC_ALL: 'C', LANGUAGE: 'C', CHARSET: 'UTF-8' };

/** Milliseconds after the deadline in which a killed child is reaped. */
const KILL_GRACE = 200;

/**
 * Runs `program` without a shell, in the C locale, killed (SIGKILL, it may ignore SIGTERM) at the deadline, and what it
 * has started with it: a script's child would go on for ever, and keep us waiting for its output.
 *
 * @returns what it printed and its exit code, whatever that is
 * @throws KvmhaError `program-missing` when it could not be started, `deadline` when it was killed at the
 *   deadline, `program-failed` when a signal ended it or it printed without end
 */
export async function run(program: string, args: readonly string[], options: RunOptions): Promise<Output> {
  const what = options.what ?? `${program} ${args[0] ?? ''}`.trim();
  if (options.deadline.passed()) {
    throw new KvmhaError('deadline', `no time left to run ${what}`);
  }
  const { pid, ending } = begin(program, args, options);
  let killed = false;
  const timer = setTimeout(() => {
    killed = true;
    killWithChildren(pid);
  }, options.deadline.remaining());
  // A child in uninterruptible sleep (a sync on storage that hangs) does not even die of SIGKILL.
  const patience = Deadline.in(options.deadline.remaining() + KILL_GRACE);
  const result = await patience.race(ending, `${what} to end`).finally(() => clearTimeout(timer));
  if (killed) {
    throw new KvmhaError('deadline', `${what} did not end in time and was killed`, { cause: result });
  }
  const { cause, stdout, stderr } = result;
  if (cause === null) {
    return { exitCode: 0, stdout, stderr };
  }
  if (typeof cause.code === 'number') {
    return { exitCode: cause.code, stdout, stderr };
  }
  if (cause.code === 'ERR_CHILD_PROCESS_STDIO_MAXBUFFER') {
    const words = `${what} printed more than ${MAX_OUTPUT_BYTES} bytes`;
    throw new KvmhaError('program-failed', words, { cause });
  }
  if (cause.signal) {
    throw new KvmhaError('program-failed', `${what} was ended by ${cause.signal}`, { cause });
  }
  throw new KvmhaError('program-missing', `${program} could not be run: ${messageOf(cause)}`, { cause });
}

interface Ended {
  /** Null for exit code 0; otherwise its `code` is another one, or says why the program was not run to its end. */
  readonly cause: ExecFileException | null;
  readonly stdout: string;
  readonly stderr: string;
}

/**
 * By Node.js's own `execFile`: to load a library for it costs more than most programs that are run.
 *
 * It is loaded here, as a monitor that a socket answers never spawns.
 */
function begin(program: string, args: readonly string[], { input, env }: RunOptions) {
  const { execFile } = process.getBuiltinModule('node:child_process');
  const { promise: ending, resolve } = Promise.withResolvers<Ended>();
  const options = {
    env: { ...process.env, ...env, ...LANGUAGE },
    maxBuffer: MAX_OUTPUT_BYTES,
    killSignal: 'SIGKILL',
  } as const;
  try {
    const child = execFile(program, args, options, (cause, stdout, stderr) =>
      resolve({ cause, stdout, stderr }),
    );
    // A program that ends before it has read all says by its exit code whether it missed something.
    child.stdin?.on('error', () => {});
    child.stdin?.end(input ?? '');
    return { pid: child.pid, ending };
  } catch (cause) {
    // An argument or variable that no program can be given; a program that is not there is told by `ending`.
    throw new KvmhaError('program-missing', `${program} could not be run: ${messageOf(cause)}`, { cause });
  }
}

/**
 * Runs `program` and returns its standard output.
 *
 * @throws KvmhaError as `run` does, and `program-failed` with the program's own words when it exits non-zero
 */
export async function runChecked(
  program: string,
  args: readonly string[],
  options: RunOptions,
): Promise<string> {
  const output = await run(program, args, options);
  if (output.exitCode !== 0) {
    const said = (output.stderr.trim() || output.stdout.trim()).replace(/\s+/g, ' ');
    throw new KvmhaError('program-failed', `${program} ${args[0] ?? ''} exited ${output.exitCode}: ${said}`);
  }
  return output.stdout;
}

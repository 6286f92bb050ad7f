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
  // Loaded on first use: a monitor that a socket answers never spawns, and must not pay for the library.
  const { execa } = await import('execa');
  const what = options.what ?? `${program} ${args[0] ?? ''}`.trim();
  if (options.deadline.passed()) {
    throw new KvmhaError('deadline', `no time left to run ${what}`);
  }
  const begin = () =>
    execa(program, [...args], {
      reject: false,
      stripFinalNewline: false,
      input: options.input ?? '',
      env: { ...options.env, ...LANGUAGE },
      maxBuffer: MAX_OUTPUT_BYTES,
      killSignal: 'SIGKILL',
    });
  let ending: ReturnType<typeof begin>;
  try {
    ending = begin();
  } catch (cause) {
    // An argument or a variable that no program can be given; a program that is not there is told by the result.
    throw new KvmhaError('program-missing', `${program} could not be run: ${messageOf(cause)}`, { cause });
  }
  let killed = false;
  const timer = setTimeout(() => {
    killed = true;
    killWithChildren(ending.pid);
  }, options.deadline.remaining());
  // A child in uninterruptible sleep (a sync on storage that hangs) does not even die of SIGKILL.
  const patience = Deadline.in(options.deadline.remaining() + KILL_GRACE);
  const result = await patience.race(ending, `${what} to end`).finally(() => clearTimeout(timer));
  if (killed) {
    throw new KvmhaError('deadline', `${what} did not end in time and was killed`, { cause: result });
  }
  if (result.isMaxBuffer) {
    throw new KvmhaError('program-failed', `${what} printed more than ${MAX_OUTPUT_BYTES} bytes`, {
      cause: result,
    });
  }
  if (result.exitCode === undefined) {
    if (result.signal !== undefined) {
      throw new KvmhaError('program-failed', `${what} was ended by ${result.signal}`, { cause: result });
    }
    throw new KvmhaError('program-missing', `${program} could not be run: ${result.shortMessage}`, {
      cause: result,
    });
  }
  return { exitCode: result.exitCode, stdout: result.stdout, stderr: result.stderr };
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

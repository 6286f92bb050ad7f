import type { Deadline } from '../deadline.ts';
import { isKvmhaError } from '../error.ts';
import { run } from '../run.ts';

/**
 * Bytes that the storage keeps for `paths`: what a sparse file does not hold is not counted. Children look, since
 * storage that hangs blocks whoever asks it.
 *
 * @returns undefined where that was not told in time, or one of them is not there
 */
export async function allocatedBytes(
  paths: readonly string[],
  deadline: Deadline,
): Promise<number | undefined> {
  if (paths.length === 0) {
    return 0;
  }
  const lines = await linesOf('stat', ['--dereference', '--format=%b %B', '--', ...paths], deadline);
  return lines?.reduce((sum, line) => sum + product(line), 0);
}

/** Bytes that the storage keeps for a folder and all in it; undefined as with `allocatedBytes`. */
export async function folderBytes(path: string, deadline: Deadline): Promise<number | undefined> {
  const lines = await linesOf('du', ['--summarize', '--block-size=1', '--', path], deadline);
  return lines === undefined ? undefined : Number.parseInt(lines[0] ?? '', 10);
}

async function linesOf(
  program: string,
  args: readonly string[],
  deadline: Deadline,
): Promise<string[] | undefined> {
  try {
    const { exitCode, stdout } = await run(program, args, { deadline });
    return exitCode === 0 ? stdout.trim().split('\n') : undefined;
  } catch (error) {
    if (isKvmhaError(error)) {
      return undefined;
    }
    throw error;
  }
}

function product(line: string): number {
  return line.split(' ').reduce((result, each) => result * Number(each), 1);
}

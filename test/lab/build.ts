import { createHash, randomUUID } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, renameSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { Deadline } from '../../lib/deadline.ts';
import { runChecked } from '../../lib/run.ts';

/** Below the project's tree, because that is what every node sees. */
const DIRECTORY = resolve(import.meta.dirname, '../../build/test');
const BUILD_TIMEOUT = 60_000;

/**
 * Builds `source` once for each of its contents; tests that run at the same time may all ask for it.
 *
 * @param name of the result
 * @param command the command line that makes `output` of `source`
 * @returns where the result lies, the same path here and in a node
 */
export async function buildOnce(
  name: string,
  source: string,
  command: (source: string, output: string) => readonly [string, ...string[]],
): Promise<string> {
  const hash = createHash('sha256').update(readFileSync(source)).update(command('', '').join('\0'));
  const result = join(DIRECTORY, `${hash.digest('hex').slice(0, 16)}-${name}`);
  if (!existsSync(result)) {
    mkdirSync(DIRECTORY, { recursive: true });
    const output = `${result}.${randomUUID()}`;
    const [program, ...args] = command(source, output);
    await runChecked(program, args, { deadline: Deadline.in(BUILD_TIMEOUT) });
    renameSync(output, result);
  }
  return result;
}

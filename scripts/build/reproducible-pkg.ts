import childProcess from 'node:child_process';
import { promisify } from 'node:util';

/**
 * With it V8's hashes are the same in every process. It is the one such flag that V8 does not compare when it takes
 * compiled code; code compiled with `--hash-seed` it refuses, and would compile everything anew at every start (measured).
 */
export const SAME_HASHES = '--random-seed=1';

/**
 * pkg's function for a single script. It runs Node to make what it puts into the binary: the script with V8's compiled
 * code. That depends on the seed of V8's hashes, which is random unless it is given, and on the script's path, which it
 * holds. So both are the same here in every build.
 *
 * @param directory where the configuration's `main` lies
 */
export async function reproduciblePkg(directory: string) {
  const { execFile } = childProcess;
  const execFileAsync = promisify(execFile);
  const reproducible = (program: string, args: readonly string[]) =>
    args[0] === '--experimental-sea-config'
      ? execFileAsync(program, [SAME_HASHES, ...args], { cwd: directory })
      : execFileAsync(program, args);
  // pkg takes the function when it is loaded, by way of its promisified form.
  childProcess.execFile = Object.assign(
    (() => {
      throw new Error('pkg calls execFile in another way than before');
    }) as unknown as typeof execFile,
    { [promisify.custom]: reproducible },
  );
  try {
    const { default: pkg } = await import('@yao-pkg/pkg/lib-es5/sea.js');
    return pkg.default;
  } finally {
    childProcess.execFile = execFile;
  }
}

import { basename } from 'node:path';
import { messageOf } from '../lib/error.ts';
import { OCF } from '../lib/ocf.ts';
import { answerQuickly } from './ocf/quick.ts';
import { printError } from './output.ts';

/**
 * A monitor runs every few seconds for every guest of a node, and nearly always finds it running well: for that there
 * is a short way, with nothing on it that it does not use. All else is loaded only where that way does not lead to an
 * answer.
 */
async function main(calledAs: string, args: readonly string[]): Promise<number> {
  const name = basename(calledAs);
  const quick = name === 'KvmGuest' ? await answerQuickly(args, process.env) : undefined;
  if (quick?.kind === 'answered') {
    return quick.code;
  }
  const { runAs } = await import('./whole.ts');
  return runAs(name, args, quick?.kind === 'not-well');
}

/** The name that the binary is called under, which Bun has in another place than Node.js. */
const calledAs = process.versions['bun'] === undefined ? process.argv[1] : process.argv0;

// All output is written synchronously (see output.ts), so nothing is lost when the process ends here; and it
// must end here, whatever sockets or timers the work has left behind.
main(calledAs ?? '', process.argv.slice(2)).then(
  (code) => process.exit(code),
  (error: unknown) => {
    printError(`kvmha: ${messageOf(error)}\n`);
    process.exit(OCF.ERR_GENERIC);
  },
);

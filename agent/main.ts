import { basename } from 'node:path';
import { messageOf } from '../lib/error.ts';
import { OCF } from '../lib/ocf.ts';
import { printError } from './output.ts';

/** The file name under which the cluster calls the binary: a link to it in /usr/lib/ocf/resource.d/kvmha. */
const AGENT = 'KvmGuest';

/**
 * Runs the resource agent or the operator's command, whichever the name it was called under says.
 *
 * Each half is loaded when it is needed, and so are the libraries it uses: a monitor runs every few seconds
 * for every guest of a node and must not pay for what it does not use.
 */
async function main(calledAs: string, args: readonly string[]): Promise<number> {
  if (basename(calledAs) === AGENT) {
    const { runAgent } = await import('./ocf/main.ts');
    return runAgent(args);
  }
  const { runCommand } = await import('./command/main.ts');
  return runCommand(args);
}

// All output is written synchronously (see output.ts), so nothing is lost when the process ends here; and it
// must end here, whatever sockets or timers the work has left behind.
main(process.argv[1] ?? '', process.argv.slice(2)).then(
  (code) => process.exit(code),
  (error: unknown) => {
    printError(`kvmha: ${messageOf(error)}\n`);
    process.exit(OCF.ERR_GENERIC);
  },
);

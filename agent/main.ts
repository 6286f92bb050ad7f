import { basename } from 'node:path';
import { messageOf } from '../lib/error.ts';
import { OCF } from '../lib/ocf.ts';
import { printError } from './output.ts';

/**
 * Runs one of the resource agents or the operator's command, whichever the name it was called under says. The cluster
 * calls the agents by links to the binary in /usr/lib/ocf/resource.d/kvmha.
 *
 * Each part is loaded when it is needed, and so are the libraries it uses: a monitor runs every few seconds
 * for every guest of a node and must not pay for what it does not use.
 */
async function main(calledAs: string, args: readonly string[]): Promise<number> {
  switch (basename(calledAs)) {
    case 'KvmGuest': {
      const { runAgent } = await import('./ocf/main.ts');
      return runAgent(args);
    }
    case 'KvmWatch': {
      const { runWatchAgent } = await import('./watch/ocf.ts');
      return runWatchAgent(args);
    }
    default: {
      const { runCommand } = await import('./command/main.ts');
      return runCommand(args);
    }
  }
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

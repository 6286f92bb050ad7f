import { secureEnvironment } from './environment-for-programs.ts';

/**
 * Runs one of the resource agents or the operator's command, whichever the name it was called under says. The cluster
 * calls the agents by links to the binary in /usr/lib/ocf/resource.d/kvmha.
 *
 * Each part is loaded when it is needed, and so are the libraries it uses.
 *
 * @param quickLookFailed as in `runAgent`
 * @returns the exit code
 */
export async function runAs(
  name: string,
  args: readonly string[],
  quickLookFailed: boolean,
): Promise<number> {
  secureEnvironment(process.env);
  switch (name) {
    case 'KvmGuest': {
      const { runAgent } = await import('./ocf/main.ts');
      return runAgent(args, quickLookFailed);
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

import { Command, CommanderError } from 'commander';
import { version } from '../built-in.ts';
import { print, printError } from '../output.ts';
import { addWatch } from './watch.ts';

/**
 * Runs the operator's command line.
 *
 * @returns the exit code
 */
export async function runCommand(args: readonly string[]): Promise<number> {
  const program = new Command('kvmha')
    .description('Failover-safe KVM guests for Pacemaker clusters')
    .version(version())
    .configureOutput({ writeOut: print, writeErr: printError })
    .exitOverride();
  let code = 0;
  addWatch(program, (result) => {
    code = result;
  });
  try {
    await program.parseAsync(args, { from: 'user' });
    return code;
  } catch (error) {
    if (error instanceof CommanderError) {
      return error.exitCode;
    }
    throw error;
  }
}

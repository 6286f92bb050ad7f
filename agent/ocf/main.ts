import { OCF } from '../../lib/ocf.ts';
import { metadata } from '../built-in.ts';
import { print, printError } from '../output.ts';

/**
 * Performs one action of the resource agent.
 *
 * @returns the OCF exit code
 */
export async function runAgent(args: readonly string[]): Promise<number> {
  const [action] = args;
  if (action === 'meta-data') {
    print(metadata());
    return OCF.SUCCESS;
  }
  printError(`ocf-exit-reason:${action ?? 'no action'} is not implemented\n`);
  return OCF.ERR_UNIMPLEMENTED;
}

import type { Deadline } from '../../lib/deadline.ts';
import type { ActionContext } from './context.ts';

/** Why a monitor may change nothing about its guest now. */
export async function hindranceToChange(_context: ActionContext): Promise<string | undefined> {
  return undefined;
}

/** Why a faulted guest is not quiesced now. */
export async function hindranceToQuiesce(
  _context: ActionContext,
  _deadline: Deadline,
): Promise<string | undefined> {
  return undefined;
}

export async function rememberPreserved(_context: ActionContext, _fault: string): Promise<void> {}

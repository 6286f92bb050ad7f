import type { Deadline } from '../deadline.ts';
import { isKvmhaError, messageOf } from '../error.ts';
import { run } from '../run.ts';

/** Nothing of the cluster could be asked, which the agent run by hand must live with. */
export type NoAnswer =
  /** No cluster runs on this node. */
  | { readonly kind: 'none'; readonly why: string }
  /** A cluster may run here, but it does not answer, or not in time or not in its language. */
  | { readonly kind: 'silent'; readonly why: string };

export type Answer =
  | {
      readonly kind: 'answer';
      readonly exitCode: number;
      readonly stdout: string;
      /** What the program said when it failed, on one line. */
      readonly said: string;
    }
  | NoAnswer;

/** CRM_EX_DISCONNECT (crm/common/results.h): the cluster's daemons do not run here. */
const DISCONNECTED = 102;

/**
 * Runs one of Pacemaker's programs. An exit code other than "not connected" is an answer, whatever it is: a
 * daemon that hangs lets the program hang (seen with the CIB manager, pacemakerd and the controller stopped:
 * more than 20 s), so the deadline should be short.
 */
export async function ask(
  program: string,
  args: readonly string[],
  deadline: Deadline,
  more: { readonly input?: string; readonly env?: Readonly<Record<string, string>> } = {},
): Promise<Answer> {
  try {
    const { exitCode, stdout, stderr } = await run(program, args, { ...more, deadline });
    if (exitCode === DISCONNECTED) {
      return { kind: 'none', why: 'Pacemaker does not run on this node' };
    }
    const said = (stderr.trim() || stdout.trim()).replace(/\s+/g, ' ').slice(0, 500);
    return { kind: 'answer', exitCode, stdout, said };
  } catch (error) {
    if (isKvmhaError(error, 'program-missing')) {
      return { kind: 'none', why: messageOf(error) };
    }
    if (isKvmhaError(error)) {
      return { kind: 'silent', why: messageOf(error) };
    }
    throw error;
  }
}

/** How an order to the cluster ended. */
export type Ordered =
  | { readonly kind: 'done' }
  /** It answered, and refused. */
  | { readonly kind: 'failed'; readonly why: string }
  | NoAnswer;

/** Runs one of Pacemaker's programs that changes something. */
export async function order(program: string, args: readonly string[], deadline: Deadline): Promise<Ordered> {
  const answer = await ask(program, args, deadline);
  if (answer.kind !== 'answer') {
    return answer;
  }
  return answer.exitCode === 0
    ? { kind: 'done' }
    : { kind: 'failed', why: `${program} exited ${answer.exitCode}: ${answer.said}` };
}

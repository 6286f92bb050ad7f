/** Exit codes of the operator's command; each command's --help says what they mean there. */
export const EXIT = {
  DONE: 0,
  /** Something was not done, is not as it should be, or needs attention. */
  FAILED: 1,
  USAGE: 2,
  /** Of `doctor`, which tells errors from warnings. */
  ERRORS: 3,
} as const;

export type ExitCode = (typeof EXIT)[keyof typeof EXIT];

/** The command was called in a way in which it cannot do anything. */
export class UsageError extends Error {}

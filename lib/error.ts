/**
 * The failures that the parts of kvmha hand to each other. Each carries a code that callers branch on,
 * a sentence for people, and the failure beneath it as `cause`.
 */
export type ErrorCode =
  /** The operation's deadline passed while waiting. */
  | 'deadline'
  /** A program could not be started at all (missing, not executable). */
  | 'program-missing'
  /** A program ran and reported failure. */
  | 'program-failed'
  /** Nobody listens: a socket is absent or refuses the connection. */
  | 'unreachable'
  /** The peer closed the connection or spoke something that is not its protocol. */
  | 'protocol'
  /** QEMU answered a QMP command with an error object. */
  | 'qmp-error'
  /** libvirt does not know the domain. */
  | 'no-domain'
  /** A file is missing or cannot be read or written. */
  | 'file'
  /** What was read is malformed, too large or contradicts itself. */
  | 'malformed'
  /** Another actor holds the guest's lock. */
  | 'locked';

export class KvmhaError extends Error {
  readonly code: ErrorCode;

  constructor(code: ErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = 'KvmhaError';
    this.code = code;
  }
}

/** Whether `error` is a KvmhaError, of one of `codes` when any are given. */
export function isKvmhaError(error: unknown, ...codes: ErrorCode[]): error is KvmhaError {
  return error instanceof KvmhaError && (codes.length === 0 || codes.includes(error.code));
}

/** The sentence of any thrown value, on one line. */
export function messageOf(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error);
  return text.replace(/\s+/g, ' ').trim();
}

/**
 * errno names by which the kernel says that it, or this process, is short of something (open(2), fork(2), socket(2)):
 * nothing of what was asked for.
 */
const SHORTAGES: readonly (string | undefined)[] = ['EMFILE', 'ENFILE', 'ENOMEM', 'ENOBUFS', 'EAGAIN'];

/** Whether something failed, or one of its causes did, only because there was too little of something at the moment. */
export function isShortage(error: unknown): boolean {
  return error instanceof Error && (SHORTAGES.includes(errnoOf(error)) || isShortage(error.cause));
}

/** The errno name (`ENOENT`, ...) of a failed system call, if `error` is one. */
export function errnoOf(error: unknown): string | undefined {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : undefined;
}

/** Exit codes of an OCF resource agent, named as ocf-returncodes names them without `OCF_`. */
export const OCF = {
  SUCCESS: 0,
  ERR_GENERIC: 1,
  ERR_ARGS: 2,
  ERR_UNIMPLEMENTED: 3,
  ERR_PERM: 4,
  ERR_INSTALLED: 5,
  ERR_CONFIGURED: 6,
  NOT_RUNNING: 7,
  RUNNING_PROMOTED: 8,
  FAILED_PROMOTED: 9,
  DEGRADED: 190,
  DEGRADED_PROMOTED: 191,
} as const;

export type OcfCode = (typeof OCF)[keyof typeof OCF];

/** Ends an action with `code`; the message is the exit reason that the cluster shows. */
export class OcfFailure extends Error {
  readonly code: OcfCode;

  constructor(code: OcfCode, reason: string, options?: ErrorOptions) {
    super(reason, options);
    this.name = 'OcfFailure';
    this.code = code;
  }
}

import type { Reported } from '../record/reported.ts';
import type { Observation } from '../state/observation.ts';

export type ReportedErrors = Pick<Reported, 'fault' | 'survived'> | undefined;

/** What was reported of the guest in events, and what QEMU's counters show. */
export function reportedErrors(
  reported: ReportedErrors,
  counted: string | undefined,
): Pick<Observation, 'heldFault' | 'survivedError'> {
  const survivedError = [reported?.survived, counted].filter((each) => each !== undefined).join('; ');
  return {
    ...(reported?.fault === undefined ? {} : { heldFault: reported.fault }),
    ...(survivedError === '' ? {} : { survivedError }),
  };
}

import type { GuestReport } from '../../../agent/command/report.ts';

/** A guest that runs well. */
export const RUNNING_GUEST: GuestReport = {
  name: 'web',
  uuid: '11111111-1111-4222-8333-444444444444',
  resource: 'vm-web',
  state: 'running',
  reason: 'QMP says running',
  fault: null,
  since: '2026-11-25T02:01:07.123Z',
  qemu: { pid: 318, memory: 3 * 1024 ** 3 },
  proof: null,
  postmortem: null,
  disk: null,
  attention: null,
};

import { PROOF_ITEMS, type Proof } from '../../../lib/quiesce/proof.ts';
import {
  DOMAIN_STATES,
  type LibvirtView,
  type MonitorView,
  type Observation,
  type ProcessView,
  RUN_STATES,
} from '../../../lib/state/observation.ts';
import { LABELS } from './labels.ts';

export const ALIVE: ProcessView = { kind: 'alive', pid: 7, stopped: false };
export const STOPPED: ProcessView = { kind: 'alive', pid: 7, stopped: true };
export const DYING: ProcessView = { kind: 'dying', pid: 7 };
export const NO_PROCESS: ProcessView = { kind: 'none' };
export const UNKNOWN_PROCESS: ProcessView = { kind: 'unknown', why: 'EACCES' };
export const PROCESSES = [ALIVE, STOPPED, DYING, NO_PROCESS, UNKNOWN_PROCESS];

export const NO_DOMAIN: LibvirtView = { kind: 'no-domain' };
export const SILENT_LIBVIRT: LibvirtView = { kind: 'silent', why: 'connection refused' };
export const NOT_ASKED = { kind: 'not-asked' } as const;

export const NO_MONITOR: MonitorView = { kind: 'absent' };
export const SILENT_MONITOR: MonitorView = { kind: 'silent', why: 'no greeting' };

export function says(state: string, reason: string, job?: boolean): LibvirtView {
  return job === undefined ? { kind: 'state', state, reason } : { kind: 'state', state, reason, job };
}

/** A label as virsh prints it: "paused (I/O error)". */
export function label(text: string): LibvirtView {
  const parts = /^(.*) \((.*)\)$/.exec(text);
  if (parts?.[1] === undefined || parts[2] === undefined) {
    throw new Error(`no label: ${text}`);
  }
  return says(parts[1], parts[2]);
}

/** What QMP answers in `runstate`; `failed` are the io-status values of query-block that are not ok. */
export function status(runstate: string, ...failed: ('failed' | 'nospace')[]): MonitorView {
  return {
    kind: 'status',
    runstate,
    running: runstate === 'running',
    failedDevices: failed.map((ioStatus, index) => ({ device: `virtio-disk${index}`, ioStatus })),
  };
}

/** A guest that runs in every view, except for what `differences` say. */
export function observe(differences: Partial<Observation> = {}): Observation {
  return {
    libvirt: says('running', 'booted'),
    monitor: status('running'),
    process: ALIVE,
    quiesceBegun: false,
    ...differences,
  };
}

export const WHOLE_PROOF: Proof = Object.fromEntries(
  PROOF_ITEMS.map((item) => [item, { holds: true, seen: 'seen' }]),
);

/** A preserved guest as libvirt and QMP show it. */
export function observePreserved(differences: Partial<Observation> = {}): Observation {
  return observe({
    libvirt: says('paused', 'I/O error'),
    monitor: status('io-error', 'failed'),
    proof: WHOLE_PROOF,
    quiesceBegun: true,
    ...differences,
  });
}

export const ALL_LABELS: LibvirtView[] = DOMAIN_STATES.flatMap((state) =>
  LABELS[state].map((reason) => says(state, reason)),
);
export const ALL_LIBVIRT_VIEWS: LibvirtView[] = [
  ...ALL_LABELS,
  says('paused', 'a reason of the future'),
  says('hibernating', 'a state of the future'),
  NO_DOMAIN,
  SILENT_LIBVIRT,
  NOT_ASKED,
];
export const ALL_MONITOR_VIEWS: MonitorView[] = [
  ...RUN_STATES.map((runstate) => status(runstate)),
  status('io-error', 'nospace'),
  status('a runstate of the future'),
  NO_MONITOR,
  SILENT_MONITOR,
  NOT_ASKED,
];

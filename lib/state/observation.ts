import type { Proof } from '../quiesce/proof.ts';

/** virDomainState as `virsh domstate` prints it. */
export const DOMAIN_STATES = [
  'no state',
  'running',
  'idle',
  'paused',
  'in shutdown',
  'shut off',
  'crashed',
  'pmsuspended',
] as const;
export type DomainState = (typeof DOMAIN_STATES)[number];

/** RunState of QAPI `query-status` (qapi/run-state.json). */
export const RUN_STATES = [
  'debug',
  'inmigrate',
  'internal-error',
  'io-error',
  'paused',
  'postmigrate',
  'prelaunch',
  'finish-migrate',
  'restore-vm',
  'running',
  'save-vm',
  'shutdown',
  'suspended',
  'watchdog',
  'guest-panicked',
  'colo',
] as const;
export type RunState = (typeof RUN_STATES)[number];

/** What libvirt says of the domain. */
export type LibvirtView =
  /**
   * `virsh domstate --reason`; a state or reason newer than this program is kept as the text it is.
   * `job`: whether libvirt has a job (migration, save, dump) on the domain, where it was asked. `incoming`: that job
   * is a migration to this node.
   */
  | {
      readonly kind: 'state';
      readonly state: DomainState | (string & {});
      readonly reason: string;
      readonly job?: boolean;
      readonly incoming?: boolean;
    }
  | { readonly kind: 'no-domain' }
  /** The daemon is dead, hung or refuses: nothing is known from it. */
  | { readonly kind: 'silent'; readonly why: string }
  /** The guest's own monitor had answered, and libvirt was not needed. */
  | { readonly kind: 'not-asked' };

/** What the guest's QEMU says of itself over QMP. */
export type MonitorView =
  | {
      readonly kind: 'status';
      readonly runstate: RunState | (string & {});
      /** `query-status`'s `running`: the vCPUs run. */
      readonly running: boolean;
      /** Devices whose `io-status` in `query-block` is not `ok`, where it was asked. */
      readonly failedDevices: readonly FailedDevice[];
    }
  /** No socket to ask and libvirt could not pass the question on, or no process is there to be asked. */
  | { readonly kind: 'absent' }
  /** A socket is there, but no answer came in time. */
  | { readonly kind: 'silent'; readonly why: string }
  | { readonly kind: 'not-asked' };

export interface FailedDevice {
  readonly device: string;
  readonly ioStatus: 'failed' | 'nospace';
}

/** The domain's qemu process as /proc shows it. */
export type ProcessView =
  | {
      readonly kind: 'alive';
      readonly pid: number;
      /** Stopped by a signal (state T): it answers nobody, and may go on at any moment. */
      readonly stopped: boolean;
    }
  /** The leader is dead but a thread of it is left (a write in uninterruptible sleep may still finish). */
  | { readonly kind: 'dying'; readonly pid: number }
  | { readonly kind: 'none' }
  /** The process table could not be read. */
  | { readonly kind: 'unknown'; readonly why: string };

/** What is known of a migration that this domain took part in. */
export interface MigrationView {
  /** The target was seen running this domain. */
  readonly targetRunning: boolean;
  /** This qemu still holds a lock on an image of the domain. */
  readonly holdsImageLock: boolean;
}

/** Everything that one look at a guest showed. Plain data: classification needs nothing else. */
export interface Observation {
  readonly libvirt: LibvirtView;
  readonly monitor: MonitorView;
  readonly process: ProcessView;
  /** The proof as it holds now; only looked for where a quiesce was begun or its nodes were seen. */
  readonly proof?: Proof;
  /** A record says that the quiesce sequence passed a step after which the guest cannot simply go on. */
  readonly quiesceBegun: boolean;
  readonly migration?: MigrationView;
  /** This qemu was started to take in a guest from elsewhere and has not opened its images for writing since. */
  readonly neverRan?: boolean;
  /** A fault held against a guest that still runs, set by whoever saw its event (memory failure). */
  readonly heldFault?: string;
  /** An error that the guest survived, as it is shown to people. */
  readonly survivedError?: string;
  /** libvirt was told to start this domain here and has not said how that has ended. */
  readonly startPending?: boolean;
  /** The vCPU threads used processor time; only looked for where nobody else could tell whether they run. */
  readonly vcpusUseTime?: boolean;
}

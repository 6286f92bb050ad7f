import type { Journal } from '../journal.ts';
import type { Log } from '../log.ts';
import type { Policy } from '../policy.ts';
import type { Policy as StatePolicy } from '../state/verdict.ts';

export interface GuestName {
  /** The domain's name. */
  readonly name: string;
  readonly uuid: string;
}

/** A guest that a resource of the cluster runs here. */
export interface ResourceGuest extends GuestName {
  /** The URI of its libvirt. */
  readonly hypervisor: string;
}

/** What was decided beforehand about one guest. */
export interface GuestPolicy {
  readonly watch: Policy['watch'];
  /** What the monitor of its resource goes by. */
  readonly state: StatePolicy;
}

/** What was heard of a guest, and nobody can ask for. */
export type News =
  | { readonly fault: string }
  /** An error that the guest has survived. */
  | { readonly survived: string }
  /** Which I/O error has stopped it. */
  | { readonly ioError: 'nospace' | 'failed' }
  /** It runs, whatever was wrong before. */
  | { readonly runs: true };

/** How the attempt to let a guest fail over ended; `why` is a clause for people. */
export interface Recovery {
  readonly kind: /** It is proved to be failover-safe, and the cluster was told. */
    | 'requested'
    /** Nothing is left to do here: the cluster has it elsewhere already, or no cluster has it. */
    | 'settled'
    /** It is proved, but the cluster could not be told: the next monitor will. */
    | 'not-told'
    /** It is not proved, so nobody was told: what is to be done is the monitor's. */
    | 'not-proved';
  readonly why: string;
}

/** All that a watched guest does to the world, so that the same code runs in production and in tests. */
export interface World {
  readonly log: Log;
  readonly journal: Pick<Journal, 'record'>;
  /** The guests that resources run here. */
  guests(): readonly ResourceGuest[];
  /** What was decided beforehand about a guest; the defaults where nothing was, or it cannot be read. */
  policy(guest: GuestName): Promise<GuestPolicy>;
  /** Keeps what was heard, for every look at this run of the guest. @throws KvmhaError `file` */
  keep(guest: GuestName, news: News): void;
  /** QEMU has said that the host lost memory of the guest's: an error of the host's memory that is heard of is that. */
  hostLostMemoryOf(guest: GuestName): void;
  /** Quiesces a guest and tells the cluster once that is proved. Does not throw. */
  failOver(guest: GuestName, fault: string): Promise<Recovery>;
}

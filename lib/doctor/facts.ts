import type { ClusterConfiguration, ConfiguredResource } from '../cluster/configuration.ts';
import type { Policy } from '../policy.ts';
import type { GuestDefinition } from './definition.ts';
import type { Mount } from './mounts.ts';

/** What was asked for, or why nobody could tell. */
export type Known<T> =
  | { readonly kind: 'known'; readonly value: T }
  | { readonly kind: 'unknown'; readonly why: string };

export function known<T>(value: T): Known<T> {
  return { kind: 'known', value };
}

export function unknown(why: string): Known<never> {
  return { kind: 'unknown', why };
}

/** Everything that the rules judge. */
export interface Facts {
  /** This node's name in the cluster, else its host name. */
  readonly node: string;
  /** Seconds since 1970 by this node's clock. */
  readonly now: number;
  readonly host: HostFacts;
  readonly libvirt: Known<Hypervisor>;
  readonly cluster: Known<ClusterFacts>;
  /** Where the cluster is unknown: it runs here, but does not answer. */
  readonly clusterHangs: boolean;
  /** The hypervisors of the other nodes, by the nodes' names, for those to which a guest can be migrated. */
  readonly others: ReadonlyMap<string, Known<Hypervisor>>;
  /** The libvirts of other nodes that cannot be reached as the parameters of guests say. */
  readonly unreachable: readonly Unreachable[];
  readonly guests: readonly GuestFacts[];
}

export interface Unreachable {
  readonly node: string;
  /** The URI that a migration connects to. */
  readonly uri: string;
  readonly why: string;
  /** The guests whose migration goes that way. */
  readonly guests: readonly string[];
}

export interface ClusterFacts {
  readonly configuration: ClusterConfiguration;
  /** Whether there is a designated controller. */
  readonly hasController: boolean;
  readonly quorum: boolean;
}

/** A node's libvirt and QEMU, as libvirt tells. */
export interface Hypervisor {
  readonly uuid: string;
  /** "9.0.0" */
  readonly libvirtVersion: string | undefined;
  /** "7.2.22" */
  readonly qemuVersion: string | undefined;
  /** The processor in libvirt's words: its model, and what it has beside. */
  readonly cpu: string;
  /** What machine types that are only other names stand for: `pc`, `q35`. */
  readonly machineAliases: ReadonlyMap<string, string>;
  /** `selinux`, `apparmor`; not `dac`, which all have. */
  readonly confinement: readonly string[];
}

export interface HostFacts {
  /** A program that keeps the clock runs. */
  readonly clockIsKept: boolean;
  /** /dev/kvm is there. */
  readonly hasKvm: boolean;
  readonly libvirtGuests: {
    readonly enabled: boolean;
    readonly onBoot: string;
    readonly onShutdown: string;
  };
  readonly watcher: Known<'answers' | 'none'>;
  readonly qemuUser: { readonly name: string; readonly uid: number; readonly groups: readonly number[] };
  /** libvirt gives a guest its images at the start. */
  readonly dynamicOwnership: boolean;
  /** The kernel takes locks on NFS again that it had lost, as if nobody else had had them meanwhile. */
  readonly recoversLostLocks: boolean;
  /** qemu.conf's lock_manager, `lockd` or `sanlock`. */
  readonly lockManager: string | undefined;
}

export interface GuestFacts {
  /** The domain's name, else the resource's. */
  readonly name: string;
  readonly uuid: string | undefined;
  readonly resource: ConfiguredResource | undefined;
  /** Where its XML is; undefined for a domain of libvirt's that no resource names. */
  readonly config: string | undefined;
  readonly definition: Known<GuestDefinition>;
  /** What is wrong with its parameters, by itself or on this node. */
  readonly parameterProblems: readonly string[];
  readonly setErrorPolicy: boolean;
  readonly policy: Known<Policy>;
  readonly policyPath: string;
  /** What libvirt keeps of it here; undefined where it knows no such domain. */
  readonly domain:
    | { readonly persistent: boolean; readonly autostart: boolean; readonly managedSave: boolean }
    | undefined;
  readonly images: readonly ImageFacts[];
  /** Its qemu on this node, where it has one. */
  readonly running: RunningFacts | undefined;
  /** Where the cluster would start it if it failed here; undefined where it does not run here. */
  readonly destination: { readonly kind: 'node' | 'nowhere' | 'unknown'; readonly why: string } | undefined;
  /** Bridges and programs that its XML names and this node lacks. */
  readonly missing: readonly string[];
}

export interface RunningFacts {
  readonly pid: number;
  /** It offers a QMP socket of its own to the agent. */
  readonly ownSocket: boolean;
  /** It is preserved, or its quiescing was begun. */
  readonly preserved: boolean;
  /** Why it could not be quiesced as it is; empty if it could. */
  readonly refusals: Known<readonly string[]>;
  /** What libvirt says that it runs now. */
  readonly definition: Known<GuestDefinition>;
  /** The security label of the process; undefined where nothing confines it. */
  readonly label: string | undefined;
}

export interface ImageFacts {
  /** The disk's name in the guest (`vda`). */
  readonly target: string;
  readonly path: string;
  readonly readOnly: boolean;
  readonly shareable: boolean;
  readonly file: Known<FileFacts>;
  /** The storage did not answer in time: nothing else may be asked of it. */
  readonly hangs: boolean;
}

export interface FileFacts {
  readonly kind: 'file' | 'block' | 'other';
  /** The file's own mode and owner, then those of the folders above it. */
  readonly access: readonly FileAccess[];
  readonly mount: Mount | undefined;
}

export interface FileAccess {
  readonly path: string;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
}

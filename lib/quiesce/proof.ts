/**
 * What must be observed before a guest may be called quiesced-failover-safe, in the order people read it.
 * Each was seen, none is concluded from a reply; one that is missing or does not hold makes the answer no.
 */
export const PROOF_ITEMS = [
  /** qemu is alive, its identity verified, and no signal has stopped it. */
  'qemu-alive',
  /** `query-status` says the vCPUs do not run, and their threads used no processor time between two looks. */
  'vcpus-stopped',
  /** Every write the guest was told is durable is on the images: QEMU's flush reported no error, and fsync neither. */
  'writes-durable',
  /** No block node of qemu refers to anything but the sentinels, and those are inactive. */
  'block-nodes-released',
  /** No file descriptor, mapping or lock of the process refers to an image of the guest. */
  'images-released',
  /** The sentinels' files are gone, so that `cont` cannot activate the disks again. */
  'resume-blocked',
  /** QEMU names a reason that blocks saving and migrating. */
  'migration-blocked',
] as const;
export type ProofItem = (typeof PROOF_ITEMS)[number];

export interface Finding {
  readonly holds: boolean;
  /** What was seen, for people: "query-status says paused, running:false". */
  readonly seen: string;
}

/** The findings of one look. An item without a finding does not hold. */
export type Proof = { readonly [item in ProofItem]?: Finding };

/** The items of `proof` that are missing or do not hold. Only an empty list is a complete proof. */
export function missingItems(proof: Proof | undefined): readonly ProofItem[] {
  return PROOF_ITEMS.filter((item) => proof?.[item]?.holds !== true);
}

/** Whether `proof` is complete: the single gate through which a guest is called failover-safe. */
export function isComplete(proof: Proof | undefined): boolean {
  return missingItems(proof).length === 0;
}

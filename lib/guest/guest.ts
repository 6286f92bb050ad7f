import type { Virsh } from '../libvirt/virsh.ts';

/** A guest that the cluster or an operator names, before anything was looked at. */
export interface Guest {
  /** The domain's name in its XML. */
  readonly name: string;
  /** The domain's uuid where its XML has one; without, libvirt makes up another at each start. */
  readonly uuid: string | undefined;
  /** Pacemaker's name for it, where Pacemaker asks. */
  readonly resource: string | undefined;
  readonly virsh: Virsh;
}

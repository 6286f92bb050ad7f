import type { LabNode } from '../lab/client.ts';
import { type Entry, journal } from './watch.ts';

/** An entry of the journal of a node. */
export interface NodeEntry extends Entry {
  readonly node: string;
}

/** When the steps of a failover were taken, in milliseconds since 1970, as far as the journals tell. */
export interface Failover {
  /** QEMU's own time of its report that a write or a read has failed and it stops the guest; only a watcher hears it. */
  readonly reported?: number | undefined;
  /** The watcher, or else the monitor, has seen that the guest has to leave; `by` says which. */
  readonly detected?: number | undefined;
  readonly by?: string | undefined;
  /** It is proved to be failover-safe. */
  readonly proved?: number | undefined;
  /** The watcher has told the cluster that the guest has failed. */
  readonly told?: number | undefined;
  /** Its vCPUs run on another node: QEMU's own time where a watcher runs, else the agent's, a little later. */
  readonly runs?: number | undefined;
}

/** What the journals of the nodes that are on hold of a guest since a moment, in milliseconds since 1970. */
export function journals(nodes: readonly LabNode[], guest: string, since: number): NodeEntry[] {
  return nodes
    .filter((node) => node.isOn)
    .flatMap((node) => journal(node, guest).map((entry) => ({ ...entry, node: node.name })))
    .filter(({ time }) => Date.parse(time) >= since);
}

/** The steps of a guest's failover from a node, out of the journals of all nodes. */
export function failoverOf(entries: readonly NodeEntry[], from: string): Failover {
  const here = entries.filter(({ node }) => node === from);
  const elsewhere = entries.filter(({ node }) => node !== from);
  const proved = here.find(({ what }) => what === 'proved');
  const decided = here.find((entry) => entry.what === 'decided' && entry['do'] === 'fail-over') ?? proved;
  return {
    reported: momentOf(here.find((entry) => entry['event'] === 'BLOCK_IO_ERROR')),
    detected: momentOf(decided),
    by: decided?.by,
    proved: momentOf(proved),
    told: momentOf(here.find((entry) => entry['action'] === 'fail-over' && entry['outcome'] === 'requested')),
    runs:
      momentOf(elsewhere.find((entry) => entry['event'] === 'RESUME')) ??
      momentOf(elsewhere.find((entry) => entry['action'] === 'boot' && entry['outcome'] === 'started')),
  };
}

/** QEMU's own time of what was seen, or the time when it was written down. */
function momentOf(entry: NodeEntry | undefined): number | undefined {
  return entry === undefined ? undefined : Date.parse(String(entry['at'] ?? entry.time));
}

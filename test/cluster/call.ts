/**
 * Calls a function of lib/ in a node of the lab and prints what it returns as JSON:
 *
 *   node test/cluster/call.ts FUNCTION MILLISECONDS [ARGUMENT as JSON ...]
 */
import { type ClusterView, readCluster } from '../../lib/cluster/cluster-view.ts';
import { findDestination } from '../../lib/cluster/destination.ts';
import { requestFailover } from '../../lib/cluster/failover.ts';
import { hindrance, noHelpElsewhere } from '../../lib/cluster/hindrance.ts';
import { clearPreserved, isMarked, markPreserved } from '../../lib/cluster/placement.ts';
import { setUtilization } from '../../lib/cluster/utilization.ts';
import { Deadline } from '../../lib/deadline.ts';
import { closeLook, look } from '../../lib/guest/look.ts';
import { Virsh } from '../../lib/libvirt/virsh.ts';
import { classify } from '../../lib/state/classify.ts';

const [name, milliseconds, ...json] = process.argv.slice(2);
const args = json.map((each) => JSON.parse(each));
const deadline = Deadline.in(Number(milliseconds));

const FUNCTIONS: { readonly [name: string]: () => Promise<unknown> } = {
  /** A whole look at the guest of a name. */
  look: async () => {
    const guest = { name: args[0], uuid: undefined, resource: args[0], virsh: new Virsh('qemu:///system') };
    const seen = await look(guest, deadline);
    closeLook(seen);
    return { ...classify(seen.observation), proof: seen.observation.proof };
  },
  readCluster: () => readCluster(args[0], deadline, args[1]),
  judge: async () => {
    const view: ClusterView = await readCluster(args[0], deadline);
    const destination = view.kind === 'cluster' ? await findDestination(view, deadline) : undefined;
    return { destination, hindrance: hindrance(view), noHelp: noHelpElsewhere(view, destination) };
  },
  markPreserved: () => markPreserved(args[0], args[1], deadline, args[2]),
  clearPreserved: () => clearPreserved(args[0], deadline, args[1]),
  isMarked: () => isMarked(args[0], args[1], deadline),
  requestFailover: () => requestFailover(args[0], args[1], deadline),
  setUtilization: () => setUtilization(args[0], args[1], args[2], deadline),
};

const begun = performance.now();
const result = await FUNCTIONS[name ?? '']?.();
console.log(JSON.stringify({ result, milliseconds: Math.round(performance.now() - begun) }));
process.exit(0);

import { Deadline, sleep } from '../../../lib/deadline.ts';
import type { Cluster, ClusterGuest } from '../../cluster/support.ts';
import type { LabNode } from '../../lab/client.ts';
import { failoverOf, journals } from '../../support/failover.ts';
import { Watch } from '../../support/watch.ts';

/** Milliseconds between two monitors in the recommended configuration. */
const MONITOR_INTERVAL = 10_000;

/** Milliseconds for the cluster to come to rest, with a stop that takes all of its timeout. */
const PATIENCE = 240_000;

/** How long the guest is waited for, in milliseconds. */
const LIMIT = 60_000;

/** What happens to the guest. */
export const FAULTS = {
  'io-error': {
    words: 'I/O error that stops the guest',
    domain: {},
    strike: async (guest: ClusterGuest, node: LabNode) => guest.fault(node).set('W', guest.disk),
  },
  panic: {
    words: 'guest panic',
    domain: { pvpanic: true },
    strike: (guest: ClusterGuest, node: LabNode) => guest.press(node, 'p'),
  },
  killed: {
    words: 'SIGKILL to qemu',
    domain: {},
    strike: async (guest: ClusterGuest, node: LabNode) => {
      await node.check(['pkill', '-KILL', '-f', `guest=${guest.name},`]);
    },
  },
  power: {
    words: 'power cut of the node',
    domain: {},
    strike: (_: ClusterGuest, node: LabNode) => node.powerOff(),
  },
};

export type FaultName = keyof typeof FAULTS;

/** What the guest runs under. */
export const AGENTS = {
  polling: { words: 'KvmGuest, monitor alone', options: {}, watcher: false },
  watcher: { words: 'KvmGuest and the watcher', options: {}, watcher: true },
  virtualdomain: {
    words: 'VirtualDomain',
    options: { agent: 'ocf:heartbeat:VirtualDomain' },
    watcher: false,
  },
} as const;

export type AgentName = keyof typeof AGENTS;

/** What came of one fault. Milliseconds are since the fault; null is what did not happen. */
export interface Outcome {
  readonly agent: AgentName;
  readonly fault: FaultName;
  /** Until QEMU reported an I/O error that stopped the guest; only a watcher hears it. */
  readonly reported?: number | null;
  /** Until kvmha had seen that the guest has to leave, and until it was proved to be failover-safe. */
  readonly detected: number | null;
  readonly proved: number | null;
  /** Until the watcher had told the cluster, and until the guest's vCPUs ran on another node. */
  readonly told?: number | null;
  readonly runs?: number | null;
  /** Until the guest wrote again, and where. */
  readonly wrote: number | null;
  readonly node: string | null;
  /** How long that was waited for. */
  readonly limit: number;
  /** How many nodes were fenced, and how many healthy guests of the same node were rebooted. */
  readonly fenced: number;
  readonly rebooted: number;
  /** The first QEMU is there for a post-mortem after the guest wrote again, or what was waited for passed. */
  readonly preserved: boolean;
}

export interface Run {
  readonly agent: AgentName;
  readonly fault: FaultName;
  /** A name that no guest of the cluster has had; the healthy guest beside it gets one that ends in "-healthy". */
  readonly name: string;
  /** When the fault comes, as a share of the time between two monitors. */
  readonly phase: number;
}

/**
 * Starts a guest and a healthy one on the first node, lets a fault come, and waits until the guest writes again.
 * Nothing of them is left in the cluster afterwards.
 */
export async function measure(cluster: Cluster, run: Run): Promise<Outcome> {
  const { agent, fault, name } = run;
  const { domain, strike } = FAULTS[fault];
  const node1 = cluster.node(1);
  const make = (name: string) =>
    cluster.makeGuest(name, {
      domain: { disks: [{ path: `/shared/${name}.img` }], ...domain },
      monitor: `${MONITOR_INTERVAL / 1000}s`,
      prefers: [node1.name],
      ...AGENTS[agent].options,
    });
  const [guest, healthy] = await Promise.all([make(name), make(`${name}-healthy`)]);
  const guests = [guest, healthy];
  await cluster.configure(guests.map((each) => each.configuration()).join(''));
  await Promise.all(guests.map((each) => each.runsOn('node1')));
  if (AGENTS[agent].watcher) {
    await new Watch(node1).follows(name);
  }
  // The first monitors of both have answered by then.
  await settled(cluster);
  await sleep(run.phase * MONITOR_INTERVAL);

  const [pid] = await guest.pids(node1);
  const before = await healthy.boot();
  const boot = node1.pid;
  const begun = Date.now();
  const calls = cluster.lab.fenceLog().length;
  await strike(guest, node1);
  const writer = await Deadline.in(LIMIT).poll(20, () => guest.writers[1]);
  const place = writer === undefined ? null : ((await guest.runsOn()).name ?? null);
  const isPreserved =
    node1.isOn && node1.pid === boot && pid !== undefined && (await guest.pids(node1)).includes(pid);
  if (writer !== undefined) {
    await settled(cluster);
  }
  const after = await healthy.boot();
  const steps = failoverOf(journals(cluster.lab.nodes, name, begun), node1.name);
  await guest.judge();
  await healthy.judge();
  const since = (moment: number | undefined) => (moment === undefined ? null : moment - begun);
  const outcome = {
    agent,
    fault,
    reported: since(steps.reported),
    detected: since(steps.detected),
    proved: since(steps.proved),
    told: since(steps.told),
    runs: since(steps.runs),
    wrote: since(writer?.since),
    node: place,
    limit: LIMIT,
    fenced: cluster.lab
      .fenceLog()
      .slice(calls)
      .filter((line) => / (?:reboot|off) \S+ exits 0$/.test(line)).length,
    rebooted: after.boots - before.boots,
    preserved: isPreserved,
  };
  await remove(cluster, guests);
  return outcome;
}

/** Puts the watcher onto every node, or takes it away. */
export async function setWatcher(cluster: Cluster, wanted: boolean): Promise<void> {
  const role = wanted ? 'Started' : 'Stopped';
  await cluster.sh(`crm_resource --resource kvm-watch --meta -p target-role -v ${role}`);
  await settled(cluster);
}

async function settled(cluster: Cluster): Promise<void> {
  await cluster.lab.waitForCluster();
  await cluster.anyNode.check(['crm_resource', '--wait'], { timeout: PATIENCE });
}

async function remove(cluster: Cluster, guests: readonly ClusterGuest[]): Promise<void> {
  await cluster.lab.waitForCluster();
  const names = guests.map(({ name }) => name);
  for (const name of names) {
    await cluster.sh(`crm_resource --resource ${name} --meta -p target-role -v Stopped`);
  }
  // A guest that stands still hears no request to shut down.
  await Promise.all(cluster.lab.nodes.flatMap((node) => guests.map((guest) => endOn(node, guest))));
  await settled(cluster);
  for (const guest of guests) {
    guest.stopWatching();
  }
  await cluster.sh(`crm --force configure delete ${names.join(' ')}`);
  await settled(cluster);
}

async function endOn(node: LabNode, guest: ClusterGuest): Promise<void> {
  guest.fault(node).clear();
  const released = await node.exec(['kvmha', 'release', guest.name]);
  if (released.exitCode !== 0) {
    await node.exec(['virsh', 'destroy', guest.name]);
  }
}

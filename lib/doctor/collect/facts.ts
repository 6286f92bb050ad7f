import { hostname } from 'node:os';
import { type RunningCluster, readCluster } from '../../cluster/cluster-view.ts';
import { type ClusterConfiguration, KVM_GUEST, readConfiguration } from '../../cluster/configuration.ts';
import type { Deadline } from '../../deadline.ts';
import { KvmhaError } from '../../error.ts';
import { knownGuests } from '../../guest/known-guests.ts';
import { migrationTarget } from '../../guest/migration-target.ts';
import { readParameters } from '../../parameters.ts';
import { type Facts, type GuestFacts, type Hypervisor, type Known, known, unknown } from '../facts.ts';
import { collectGuest, type Subject, subjectsOf } from './guests.ts';
import { collectHost } from './host.ts';
import { askHypervisor } from './hypervisor.ts';

/** How many guests are looked at at a time: each look starts a few programs. */
const AT_A_TIME = 4;
/** Milliseconds in which libvirt, here or on another node, must answer. */
const LIBVIRT_PATIENCE = 6000;
const CLUSTER_PATIENCE = 10_000;

/**
 * Collects everything that the rules judge. What does not answer is a fact, too, and keeps nothing else waiting.
 *
 * @param word a guest that alone is looked at closely: its name, its uuid or its resource
 * @throws KvmhaError `no-domain` when nothing is known of that guest
 */
export async function collectFacts(
  uri: string,
  word: string | undefined,
  deadline: Deadline,
): Promise<{ readonly facts: Facts; readonly only: string | undefined }> {
  const [host, libvirt, configuration, view, knownHere] = await Promise.all([
    collectHost(deadline),
    askHypervisor(uri, deadline.within(LIBVIRT_PATIENCE)),
    readConfiguration(deadline.within(CLUSTER_PATIENCE)),
    // Of no resource: what it says of the cluster itself is wanted.
    readCluster('kvmha', deadline.within(CLUSTER_PATIENCE)),
    knownGuests(uri, deadline),
  ]);
  const configured = configuration.kind === 'configuration' ? configuration : undefined;
  const subjects = await subjectsOf(configured, knownHere, deadline);
  const chosen = word === undefined ? undefined : subjects.find((subject) => isMeant(subject, word));
  if (word !== undefined && chosen === undefined) {
    throw new KvmhaError(
      'no-domain',
      `nothing is known of a guest "${word}" on this node, nor of a resource of that name. "kvmha status" and crm_mon list those that are known`,
    );
  }
  const node = view.kind === 'cluster' ? view.localNode : hostname();
  const [guests, others] = await Promise.all([
    collectGuests(subjects, chosen, deadline),
    askOthers(configured, view.kind === 'cluster' ? view : undefined, chosen, deadline),
  ]);
  const silent = configuration.kind === 'configuration' ? view : configuration;
  return {
    facts: {
      node,
      now: Date.now() / 1000,
      host,
      libvirt,
      cluster:
        configured !== undefined && view.kind === 'cluster'
          ? known({ configuration: configured, hasController: view.hasController, quorum: view.quorum })
          : unknown('why' in silent ? silent.why : 'it does not answer'),
      others,
      guests,
    },
    only: chosen?.name,
  };
}

function isMeant({ name, resource, guest, definition }: Subject, word: string): boolean {
  const uuid = guest?.uuid ?? (definition.kind === 'known' ? definition.value.uuid : undefined);
  return name === word || resource?.id === word || uuid?.toLowerCase() === word.toLowerCase();
}

async function collectGuests(
  subjects: readonly Subject[],
  chosen: Subject | undefined,
  deadline: Deadline,
): Promise<GuestFacts[]> {
  const guests: GuestFacts[] = [];
  for (let index = 0; index < subjects.length; index += AT_A_TIME) {
    const next = subjects.slice(index, index + AT_A_TIME);
    guests.push(
      ...(await Promise.all(
        next.map((subject) => collectGuest(subject, chosen === undefined || subject === chosen, deadline)),
      )),
    );
  }
  return guests;
}

/** Asks the other nodes' libvirt as a migration of a guest would reach it. */
async function askOthers(
  configuration: ClusterConfiguration | undefined,
  view: RunningCluster | undefined,
  chosen: Subject | undefined,
  deadline: Deadline,
): Promise<Map<string, Known<Hypervisor>>> {
  const resource = chosen?.resource ?? configuration?.resources.find(({ agent }) => agent === KVM_GUEST);
  if (resource === undefined || view === undefined) {
    return new Map();
  }
  const environment = [...resource.parameters].map(([key, value]) => [`OCF_RESKEY_${key}`, value]);
  const { parameters } = readParameters(Object.fromEntries(environment));
  const names = view.nodes
    .filter(({ name, online, type }) => online && type === 'member' && name !== view.localNode)
    .map(({ name }) => name);
  return new Map(
    await Promise.all(
      names.map(
        async (name) =>
          [
            name,
            await askHypervisor(
              migrationTarget(parameters, name).remoteUri,
              deadline.within(LIBVIRT_PATIENCE),
            ),
          ] as const,
      ),
    ),
  );
}

import { hostname } from 'node:os';
import { type RunningCluster, readCluster } from '../../cluster/cluster-view.ts';
import {
  type ClusterConfiguration,
  type ConfiguredResource,
  KVM_GUEST,
  readConfiguration,
} from '../../cluster/configuration.ts';
import type { Deadline } from '../../deadline.ts';
import { KvmhaError } from '../../error.ts';
import { knownGuests } from '../../guest/known-guests.ts';
import { migrationTarget } from '../../guest/migration-target.ts';
import { readParameters } from '../../parameters.ts';
import { type Facts, type GuestFacts, known, unknown } from '../facts.ts';
import { collectGuest, type Subject, subjectsOf } from './guests.ts';
import { collectHost } from './host.ts';
import { askHypervisor } from './hypervisor.ts';

/** How many guests are looked at at a time: each look starts a few programs. */
const AT_A_TIME = 4;
/** Milliseconds in which libvirt, here or on another node, must answer. */
const LIBVIRT_PATIENCE = 10_000;
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
  const [guests, reached] = await Promise.all([
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
      clusterHangs: configuration.kind === 'silent' || view.kind === 'silent',
      ...reached,
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

/** Asks the other nodes' libvirt as migrations of guests reach it: each guest's parameters say how. */
async function askOthers(
  configuration: ClusterConfiguration | undefined,
  view: RunningCluster | undefined,
  chosen: Subject | undefined,
  deadline: Deadline,
): Promise<Pick<Facts, 'others' | 'unreachable'>> {
  const names = (view?.nodes ?? [])
    .filter(({ name, online, type }) => online && type === 'member' && name !== view?.localNode)
    .map(({ name }) => name);
  const resources = (configuration?.resources ?? []).filter(
    ({ id, agent }) => agent === KVM_GUEST && (chosen === undefined || id === chosen.resource?.id),
  );
  const ways = names.flatMap((node) => waysTo(node, resources));
  const asked = await Promise.all(
    ways.map(async (way) => ({
      ...way,
      answer: await askHypervisor(way.uri, deadline.within(LIBVIRT_PATIENCE)),
    })),
  );
  return {
    others: new Map(
      names.flatMap((name) => {
        const answers = asked.filter(({ node }) => node === name).map(({ answer }) => answer);
        const best = answers.find(({ kind }) => kind === 'known') ?? answers[0];
        return best === undefined ? [] : [[name, best] as const];
      }),
    ),
    unreachable: asked.flatMap(({ node, uri, guests, answer }) =>
      answer.kind === 'known' ? [] : [{ node, uri, guests, why: answer.why }],
    ),
  };
}

/** The URIs by which migrations reach a node: one for most clusters, however many guests there are. */
function waysTo(
  node: string,
  resources: readonly ConfiguredResource[],
): { readonly node: string; readonly uri: string; readonly guests: string[] }[] {
  const ways = new Map<string, string[]>();
  for (const { id, parameters: given } of resources) {
    const environment = [...given].map(([key, value]) => [`OCF_RESKEY_${key}`, value]);
    const { parameters } = readParameters(Object.fromEntries(environment));
    const uri = migrationTarget(parameters, node).remoteUri;
    ways.set(uri, [...(ways.get(uri) ?? []), id]);
  }
  return [...ways].map(([uri, guests]) => ({ node, uri, guests }));
}

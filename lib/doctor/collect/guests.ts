import { existsSync, readFileSync } from 'node:fs';
import { readCluster } from '../../cluster/cluster-view.ts';
import {
  type ClusterConfiguration,
  type ConfiguredResource,
  KVM_GUEST,
  VIRTUAL_DOMAIN,
} from '../../cluster/configuration.ts';
import { findDestination } from '../../cluster/destination.ts';
import type { Deadline } from '../../deadline.ts';
import { isKvmhaError, messageOf } from '../../error.ts';
import type { Guest } from '../../guest/guest.ts';
import type { KnownGuests } from '../../guest/known-guests.ts';
import { closeLook, type Look, look } from '../../guest/look.ts';
import { socketsOf } from '../../guest/sockets.ts';
import { findLocalProblems } from '../../local-problems.ts';
import { DEFAULT_POLICY_PATH, readParameters } from '../../parameters.ts';
import { loadPolicy } from '../../policy.ts';
import { assessGuest } from '../../quiesce/assess-guest.ts';
import { readTextFile } from '../../text-file.ts';
import { type GuestDefinition, parseDefinition } from '../definition.ts';
import { type GuestFacts, type Known, known, type RunningFacts, unknown } from '../facts.ts';
import { collectImages, silenceOf } from './images.ts';

/** More than any domain XML needs, in bytes. */
const MAX_XML = 1024 * 1024;
/** Milliseconds for one guest, so that one that hangs does not take the others' time. */
const PATIENCE = 20_000;

/** A guest before it is looked at. */
export interface Subject {
  readonly name: string;
  readonly resource: ConfiguredResource | undefined;
  readonly definition: Known<GuestDefinition>;
  /** What this node knows of it. */
  readonly guest: Guest | undefined;
  /** The storage that its XML is on does not answer. */
  readonly hangs?: true;
}

/** Every guest that the cluster is configured to run, and every one that this node knows beside. */
export async function subjectsOf(
  configuration: ClusterConfiguration | undefined,
  { guests, virsh }: KnownGuests,
  deadline: Deadline,
): Promise<Subject[]> {
  const resources = (configuration?.resources ?? []).filter(
    ({ agent }) => agent === KVM_GUEST || agent === VIRTUAL_DOMAIN,
  );
  const configured = await Promise.all(
    resources.map(async (resource): Promise<Subject> => {
      const path = resource.parameters.get('config') ?? '';
      // A read of our own on storage that hangs would never end, nor let this process end.
      const silence = await silenceOf(path, deadline);
      const definition =
        silence === undefined
          ? await attempt(async () => parseDefinition((await readTextFile(path, MAX_XML)).text, path))
          : unknown(silence);
      const local = guests.find((guest) => guest.resource === resource.id);
      const name = definition.kind === 'known' ? definition.value.name : (local?.name ?? resource.id);
      const guest = local ?? guests.find((each) => each.name === name);
      return { name, resource, definition, guest, ...(silence === undefined ? {} : { hangs: true }) };
    }),
  );
  const others = guests.filter((guest) => !configured.some(({ name }) => name === guest.name));
  const unconfigured = await Promise.all(
    others.map(
      async (guest): Promise<Subject> => ({
        name: guest.name,
        resource: undefined,
        definition: await attempt(async () => {
          const words = ['dumpxml', '--inactive', '--security-info', guest.uuid ?? guest.name];
          return parseDefinition(await virsh.command(words, deadline.within(PATIENCE)), guest.name);
        }),
        guest,
      }),
    ),
  );
  return [...configured, ...unconfigured];
}

/**
 * Looks at one guest.
 *
 * @param closely whether to ask its QEMU and the scheduler, too
 */
export async function collectGuest(
  { name, resource, definition, guest, hangs }: Subject,
  closely: boolean,
  wholeDeadline: Deadline,
): Promise<GuestFacts> {
  const deadline = wholeDeadline.within(PATIENCE);
  const { parameters, problems } = readParameters(
    Object.fromEntries([...(resource?.parameters ?? [])].map(([key, value]) => [`OCF_RESKEY_${key}`, value])),
  );
  const isOurs = resource?.agent === KVM_GUEST;
  const local = isOurs && !hangs ? await findLocalProblems(parameters) : [];
  const policyPath = isOurs ? parameters.policy : DEFAULT_POLICY_PATH;
  const images = definition.kind === 'known' ? await collectImages(definition.value.disks, deadline) : [];
  const silent = images.some((image) => image.hangs);
  const running = guest === undefined || !closely ? undefined : await runningFacts(guest, silent, deadline);
  return {
    name,
    uuid: guest?.uuid ?? (definition.kind === 'known' ? definition.value.uuid : undefined),
    resource,
    config: resource?.parameters.get('config'),
    definition,
    parameterProblems: isOurs ? [...problems, ...local].map(({ reason }) => reason) : [],
    setErrorPolicy: !isOurs || parameters.set_error_policy,
    policy: await attempt(() => loadPolicy(policyPath)),
    policyPath,
    domain: guest === undefined ? undefined : await domainFacts(guest, deadline),
    images,
    running,
    destination:
      resource === undefined || running === undefined || running.preserved
        ? undefined
        : await destinationOf(resource.id, deadline),
    missing: definition.kind === 'known' ? missingHere(definition.value) : [],
  };
}

async function attempt<T>(work: () => Promise<T>): Promise<Known<T>> {
  try {
    return known(await work());
  } catch (error) {
    if (isKvmhaError(error)) {
      return unknown(messageOf(error));
    }
    throw error;
  }
}

async function domainFacts(guest: Guest, deadline: Deadline): Promise<GuestFacts['domain']> {
  const facts = await attempt(() => guest.virsh.information(guest.uuid ?? guest.name, deadline));
  // That libvirt is silent is a finding of its own.
  return facts.kind === 'unknown'
    ? undefined
    : {
        persistent: facts.value.get('Persistent') === 'yes',
        autostart: facts.value.get('Autostart') === 'enable',
        managedSave: facts.value.get('Managed save') === 'yes',
      };
}

async function runningFacts(
  guest: Guest,
  silentStorage: boolean,
  deadline: Deadline,
): Promise<RunningFacts | undefined> {
  const seen = await look(guest, deadline);
  try {
    const { qemu, observation, record } = seen;
    return qemu === undefined
      ? undefined
      : {
          pid: qemu.pid,
          ownSocket: existsSync(socketsOf(guest.name).agent),
          preserved: observation.quiesceBegun || observation.proof !== undefined || record !== undefined,
          refusals: silentStorage ? unknown('its storage does not answer') : await refusalsOf(seen, deadline),
          definition: await attempt(async () =>
            parseDefinition(
              await guest.virsh.command(
                ['dumpxml', `--domain=${guest.uuid ?? qemu.uuid ?? guest.name}`],
                deadline,
              ),
              guest.name,
            ),
          ),
          label: labelOf(qemu.pid),
        };
  } finally {
    closeLook(seen);
  }
}

async function refusalsOf(
  { qemu, monitor, observation }: Look,
  deadline: Deadline,
): Promise<Known<readonly string[]>> {
  if (observation.quiesceBegun) {
    return known([]);
  }
  if (qemu === undefined || monitor === undefined || observation.monitor.kind !== 'status') {
    return unknown('it does not answer over QMP');
  }
  return attempt(async () => {
    const assessment = await assessGuest(qemu, monitor, deadline);
    return assessment.kind === 'refused' ? assessment.reasons : [];
  });
}

/** The label that SELinux or AppArmor confines a process by. */
function labelOf(pid: number): string | undefined {
  try {
    const label = readFileSync(`/proc/${pid}/attr/current`, 'utf8').replace(/\0/g, '').trim();
    return label === '' || label.startsWith('unconfined') || label === 'kernel' ? undefined : label;
  } catch {
    return undefined; // No such module, or the process is gone.
  }
}

async function destinationOf(resource: string, deadline: Deadline): Promise<GuestFacts['destination']> {
  const view = await readCluster(resource, deadline);
  if (view.kind !== 'cluster' || !view.resource?.activeOn.includes(view.localNode)) {
    return undefined;
  }
  const destination = await findDestination(view, deadline);
  return destination.kind === 'node' ? { kind: 'node', why: '' } : destination;
}

function missingHere({ bridges, emulator }: GuestDefinition): string[] {
  return [
    ...bridges.filter((name) => !existsSync(`/sys/class/net/${name}`)).map((name) => `the bridge ${name}`),
    ...(emulator === undefined || existsSync(emulator) ? [] : [`the emulator ${emulator}`]),
  ];
}

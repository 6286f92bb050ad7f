import { mkdirSync } from 'node:fs';
import { basename } from 'node:path';
import type { ClusterView } from '../../lib/cluster/cluster-view.ts';
import type { Deadline } from '../../lib/deadline.ts';
import { errnoOf, isKvmhaError, isShortage, type KvmhaError, messageOf } from '../../lib/error.ts';
import type { Guest } from '../../lib/guest/guest.ts';
import type { Journal } from '../../lib/journal.ts';
import { domainIdentityOf, lastDomainIdentityOf } from '../../lib/libvirt/domain-identity.ts';
import type { DomainIdentity } from '../../lib/libvirt/identity-cache.ts';
import { Virsh } from '../../lib/libvirt/virsh.ts';
import { OCF, OcfFailure } from '../../lib/ocf.ts';
import type { Parameters } from '../../lib/parameters.ts';
import type { Policy } from '../../lib/policy.ts';
import { RESOURCE_DIRECTORY, resourceFile } from '../../lib/record/resources.ts';
import type { OcfEnvironment } from './environment.ts';
import type { Log } from './log.ts';

/** Everything one action works with. */
export interface ActionContext {
  readonly environment: OcfEnvironment;
  /** The environment variables that it was read from. */
  readonly variables: Readonly<Record<string, string | undefined>>;
  readonly parameters: Parameters;
  readonly guest: Guest;
  /** By when the action must have answered. */
  readonly deadline: Deadline;
  readonly log: Log;
  /** Where it is kept what was done about the guest. */
  readonly journal: Journal;
  /** It was looked quickly already whether the guest runs well, and it was not seen to. */
  readonly quickLookFailed: boolean;
  /** The policy file's content, read when it is first needed. */
  policy(): Promise<Policy>;
  /** What the cluster's state was when it was first asked for. */
  cluster(deadline: Deadline): Promise<ClusterView>;
}

/** Milliseconds between two attempts to read what could not be read for lack of something. */
const SHORTAGE_PAUSE = 200;

/** Actions that must find a guest even when its configuration is lost: what runs must be seen and stopped. */
const LENIENT_ACTIONS = ['stop', 'monitor', 'status'];

/** What an action is called with. */
export type Call = Pick<
  ActionContext,
  'environment' | 'variables' | 'parameters' | 'deadline' | 'log' | 'journal' | 'quickLookFailed'
>;

/**
 * Puts together what an action works with. Nothing is looked at yet but what the guest is called.
 *
 * @throws OcfFailure as `identifyGuest` does
 */
export async function makeContext(call: Call): Promise<ActionContext> {
  const { environment, parameters } = call;
  const guest = await identifyGuest(call);
  let policy: Promise<Policy> | undefined;
  let cluster: Promise<ClusterView> | undefined;
  return {
    ...call,
    guest,
    policy: () => {
      policy ??= import('../../lib/policy.ts').then(({ loadPolicy }) => loadPolicy(parameters.policy));
      return policy;
    },
    cluster: (patience) => {
      cluster ??= import('../../lib/cluster/cluster-view.ts').then(({ readCluster }) =>
        readCluster(environment.instance, patience, environment.node),
      );
      return cluster;
    },
  };
}

/**
 * Finds out which guest the resource is.
 *
 * @throws OcfFailure when its configuration cannot be used: ERR_PERM, ERR_INSTALLED when it is missing, ERR_ARGS when
 *   it is not what it should be on this node
 */
async function identifyGuest({ environment, parameters, deadline, log }: Call): Promise<Guest> {
  let shortage: KvmhaError | undefined;
  const identity = await deadline.within(deadline.remaining() / 2).poll(SHORTAGE_PAUSE, async () => {
    try {
      return await domainIdentity(environment, parameters.config, log);
    } catch (error) {
      if (!isKvmhaError(error)) {
        throw error;
      }
      shortage = error; // It may pass: another process ends, and what it had can be had.
      return undefined;
    }
  });
  if (identity === undefined) {
    // Nor may it be guessed: that there is no guest of a name that is not the guest's would be no "not running".
    throw new OcfFailure(
      OCF.ERR_GENERIC,
      `which guest this is cannot be read, because this node is short of something: ${messageOf(shortage)}. Nothing is known of the guest; see which limit is too low or what uses up memory or open files`,
      { cause: shortage },
    );
  }
  return { ...identity, resource: environment.instance, virsh: new Virsh(parameters.hypervisor) };
}

/** @throws KvmhaError when it cannot be read for lack of something, OcfFailure as `identifyGuest` */
async function domainIdentity(
  environment: OcfEnvironment,
  config: string,
  log: Log,
): Promise<DomainIdentity> {
  const cache = identityCache(environment.instance);
  try {
    return await domainIdentityOf(config, cache);
  } catch (error) {
    if (!isKvmhaError(error)) {
      throw error;
    }
    const lenient = LENIENT_ACTIONS.includes(environment.action);
    const last = lenient ? lastDomainIdentityOf(config, cache) : undefined;
    if (last === undefined && isShortage(error)) {
      throw error;
    }
    if (!lenient) {
      throw new OcfFailure(codeOf(error), messageOf(error), { cause: error });
    }
    if (last !== undefined) {
      log.warn(
        `${last.name}: its configuration cannot be read, going by what it was before: ${messageOf(error)}`,
      );
      return last;
    }
    // What never ran here under this resource can only be found by the name its file has.
    const name = basename(config).replace(/\.xml$/, '');
    log.warn(`${messageOf(error)}; looking for a guest named "${name}", as the file is`);
    return { name, uuid: undefined };
  }
}

/** A file per resource, beside the guests' records. */
function identityCache(instance: string): string {
  try {
    mkdirSync(RESOURCE_DIRECTORY, { recursive: true, mode: 0o700 });
  } catch {
    // A file system that is full or read-only, something else in its place: it goes without a cache.
  }
  return resourceFile(instance);
}

function codeOf(error: KvmhaError) {
  if (error.code === 'malformed') {
    return OCF.ERR_ARGS;
  }
  return errnoOf(error.cause) === 'EACCES' ? OCF.ERR_PERM : OCF.ERR_INSTALLED;
}

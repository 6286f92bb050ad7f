import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import type { Deadline } from '../deadline.ts';
import { errnoOf, isKvmhaError, KvmhaError, messageOf } from '../error.ts';
import { Virsh } from '../libvirt/virsh.ts';
import { allQemuProcesses } from '../qemu/qemu-process.ts';
import { STATE_DIRECTORY } from '../record/directory.ts';
import { allRecords } from '../record/record.ts';
import { allResourceRecords } from '../record/resource-record.ts';
import { rememberedGuest, rememberedResource } from '../record/resources.ts';
import { readRunningRecord } from '../record/running-record.ts';
import type { Guest } from './guest.ts';

/** The guests of this node, from everything that knows some: libvirt, the process table and the records. */
export interface KnownGuests {
  readonly guests: readonly Guest[];
  /** For a guest that is none of them. */
  readonly virsh: Virsh;
  /** Why libvirt could not be asked; undefined if it answered. */
  readonly libvirtSilent: string | undefined;
  /** What could not be read, in words for people. */
  readonly problems: readonly string[];
}

/** libvirt must not keep the command waiting once for every guest when it hangs. */
class SilentVirsh extends Virsh {
  readonly #failure: KvmhaError;

  constructor(uri: string, failure: KvmhaError) {
    super(uri);
    this.#failure = failure;
  }

  override command(): Promise<string> {
    return Promise.reject(this.#failure);
  }
}

interface Mention {
  readonly name: string | undefined;
  readonly uuid: string;
  readonly resource?: string | undefined;
}

/** Milliseconds in which libvirt must list its domains. */
const PATIENCE = 5000;

/** Lists every guest that this node has records of or a qemu for, and every domain that libvirt knows. */
export async function knownGuests(uri: string, deadline: Deadline): Promise<KnownGuests> {
  const problems: string[] = [];
  const attempt = (read: () => Mention[]): Mention[] => {
    try {
      return read();
    } catch (error) {
      if (!isKvmhaError(error)) {
        throw error;
      }
      problems.push(messageOf(error));
      return [];
    }
  };
  const { domains, failure } = await libvirtDomains(uri, deadline.within(PATIENCE));
  const virsh = failure === undefined ? new Virsh(uri) : new SilentVirsh(uri, failure);
  const readable = <T extends object>(records: readonly (T | KvmhaError)[]): T[] =>
    records.filter((record): record is T => {
      if (record instanceof KvmhaError) {
        problems.push(messageOf(record));
        return false;
      }
      return true;
    });
  const mentions = [
    ...readable(allRecords()).map(({ name, uuid, resource }) => ({ name, uuid, resource })),
    ...readable(allResourceRecords()).map(({ name, uuid, environment }) => ({
      name,
      uuid,
      resource: environment['OCF_RESOURCE_INSTANCE'],
    })),
    ...attempt(() => allQemuProcesses().map(({ name, uuid }) => ({ name, uuid }))),
    ...domains,
    ...attempt(ranHere),
  ];
  const guests = merge(mentions).map((mention): Guest => {
    const remembered = rememberedResource(mention);
    return {
      name: mention.name ?? remembered?.name ?? mention.uuid,
      uuid: mention.uuid,
      resource: mention.resource ?? remembered?.resource,
      virsh,
    };
  });
  return {
    guests: guests.sort((one, other) => one.name.localeCompare(other.name)),
    virsh,
    libvirtSilent: failure === undefined ? undefined : messageOf(failure),
    problems,
  };
}

/**
 * The guest that a person means: by its name, its uuid or its resource. One that is not here, but that the agent
 * remembers, is a guest, too.
 *
 * @returns undefined when nothing is known of it
 */
export function findGuest({ guests, virsh }: KnownGuests, word: string): Guest | undefined {
  const found =
    guests.find(({ name }) => name === word) ??
    guests.find(({ uuid }) => uuid?.toLowerCase() === word.toLowerCase()) ??
    guests.find(({ resource }) => resource === word);
  if (found !== undefined) {
    return found;
  }
  const remembered = rememberedResource({ name: word, uuid: undefined }) ?? rememberedGuest(word);
  return remembered === undefined ? undefined : { ...remembered, virsh };
}

async function libvirtDomains(
  uri: string,
  deadline: Deadline,
): Promise<{ domains: Mention[]; failure: KvmhaError | undefined }> {
  try {
    return { domains: await new Virsh(uri).domains(deadline), failure: undefined };
  } catch (error) {
    if (isKvmhaError(error)) {
      return { domains: [], failure: error };
    }
    throw error;
  }
}

/** Those that ran here since boot. */
function ranHere(): Mention[] {
  return foldersOfGuests()
    .filter((uuid) => readRunningRecord({ name: uuid, uuid }) !== undefined)
    .map((uuid) => ({ name: undefined, uuid }));
}

function foldersOfGuests(): string[] {
  try {
    return readdirSync(join(STATE_DIRECTORY, 'guests'));
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') {
      return [];
    }
    throw new KvmhaError('file', `${STATE_DIRECTORY}: ${messageOf(error)}`, { cause: error });
  }
}

/** One guest for each uuid. */
function merge(mentions: readonly Mention[]): Mention[] {
  const merged = new Map<string, Mention>();
  for (const { name, uuid, resource } of mentions) {
    const known = merged.get(uuid.toLowerCase());
    merged.set(uuid.toLowerCase(), {
      name: known?.name ?? name,
      uuid: uuid.toLowerCase(),
      resource: known?.resource ?? resource,
    });
  }
  return [...merged.values()];
}

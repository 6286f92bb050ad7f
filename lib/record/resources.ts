import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { STATE_DIRECTORY } from './directory.ts';

/** Where what is known of each resource on this node lies: a file per resource. */
export const RESOURCE_DIRECTORY = join(STATE_DIRECTORY, 'resources');

/** The file in which the agent remembers which guest a resource is (see lib/libvirt/domain-identity.ts). */
export function resourceFile(instance: string): string {
  const name = encodeURIComponent(instance.toWellFormed()).replaceAll('.', '%2E').slice(0, 200);
  return join(RESOURCE_DIRECTORY, `${name}.json`);
}

export interface Remembered {
  readonly resource: string;
  readonly name: string;
  readonly uuid: string | undefined;
}

/**
 * What the agent has remembered since boot of the resource that a guest is: the cluster need not run to tell it.
 *
 * @returns undefined when the agent was not called for it, or not often enough to remember it
 */
export function rememberedResource(guest: {
  readonly name: string | undefined;
  readonly uuid: string | undefined;
}): Remembered | undefined {
  const candidates = remembered().filter(({ name, uuid }) =>
    uuid === undefined || guest.uuid === undefined ? name === guest.name : uuid === guest.uuid.toLowerCase(),
  );
  // A resource that was renamed leaves the older file.
  return candidates.sort((one, other) => other.time - one.time)[0];
}

/** The guest that a resource is, as `rememberedResource`. */
export function rememberedGuest(resource: string): Remembered | undefined {
  return remembered().find((each) => each.resource === resource);
}

function remembered(): (Remembered & { readonly time: number })[] {
  let files: string[];
  try {
    files = readdirSync(RESOURCE_DIRECTORY).filter((file) => file.endsWith('.json'));
  } catch {
    return [];
  }
  return files.flatMap((file) => {
    const path = join(RESOURCE_DIRECTORY, file);
    try {
      const entry: { name?: unknown; uuid?: unknown } | null = JSON.parse(readFileSync(path, 'utf8'));
      return typeof entry?.name === 'string'
        ? [
            {
              resource: decodeURIComponent(file.replace(/\.json$/, '')),
              name: entry.name,
              uuid: typeof entry.uuid === 'string' ? entry.uuid : undefined,
              time: statSync(path).mtimeMs,
            },
          ]
        : [];
    } catch {
      return []; // Being replaced, or damaged: then the agent reads the guest's configuration again, too.
    }
  });
}

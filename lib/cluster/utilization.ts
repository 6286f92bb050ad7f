import { renameSync, rmSync, writeFileSync } from 'node:fs';
import type { Deadline } from '../deadline.ts';
import { isKvmhaError, messageOf } from '../error.ts';
import { readTextFile } from '../text-file.ts';
import { type Ordered, order } from './ask.ts';
import { configuredId } from './resource-id.ts';

const NAMES = ['cpu', 'host_memory', 'hv_memory'] as const;
type Name = (typeof NAMES)[number];

/**
 * The utilization attributes a resource is to have: CPUs, and MiB of memory. One that is undefined is left alone,
 * one that is null is removed.
 */
export type Utilization = { readonly [name in Name]?: number | null | undefined };

const MAX_CACHE_BYTES = 4096;

/**
 * Sets the resource's utilization attributes, each with one call of crm_resource (20 ms) and only if it is not
 * what this node set last. What another node or an operator has set since does not show there, so the cache must be
 * removed when a guest starts or arrives (`forgetUtilization`).
 *
 * @param cache path of a file in the guest's folder below /run/kvmha
 * @returns `done` with the names that were set; otherwise what kept the first of them, and those after it, from
 *   being set: it is tried again at the next call
 */
export async function setUtilization(
  resource: string,
  wanted: Utilization,
  cache: string,
  deadline: Deadline,
): Promise<
  { readonly kind: 'done'; readonly changed: readonly string[] } | Exclude<Ordered, { kind: 'done' }>
> {
  const known = await readCache(cache, resource);
  const changed = NAMES.filter((name) => wanted[name] !== undefined && wanted[name] !== known[name]);
  for (const name of changed) {
    const outcome = await set(resource, name, wanted[name] ?? null, deadline);
    if (outcome.kind !== 'done') {
      return outcome;
    }
    known[name] = wanted[name] ?? null;
  }
  if (changed.length > 0) {
    const failure = writeCache(cache, resource, known);
    if (failure !== undefined) {
      return failure;
    }
  }
  return { kind: 'done', changed };
}

/** Makes the next `setUtilization` set everything. @param cache its file, which need not exist */
export function forgetUtilization(cache: string): void {
  rmSync(cache, { force: true });
}

function set(resource: string, name: Name, value: number | null, deadline: Deadline): Promise<Ordered> {
  const change =
    value === null
      ? [`--delete-parameter=${name}`]
      : [`--set-parameter=${name}`, `--parameter-value=${value}`];
  // --force: of a clone's primitive crm_resource would change the clone, which has no utilization, and fail.
  const args = [`--resource=${configuredId(resource)}`, '--utilization', ...change, '--force'];
  return order('crm_resource', args, deadline);
}

type Known = { [name in Name]?: number | null };

/** A cache that cannot be read says nothing: everything is set again. */
async function readCache(path: string, resource: string): Promise<Known> {
  try {
    const { text } = await readTextFile(path, MAX_CACHE_BYTES);
    const cached: { resource?: unknown; values?: Known } | null = JSON.parse(text);
    return cached?.resource === resource && typeof cached.values === 'object' ? { ...cached.values } : {};
  } catch (error) {
    if (isKvmhaError(error) || error instanceof SyntaxError) {
      return {};
    }
    throw error;
  }
}

function writeCache(path: string, resource: string, values: Known) {
  const draft = `${path}.${process.pid}`;
  try {
    writeFileSync(draft, `${JSON.stringify({ resource, values })}\n`, { mode: 0o600 });
    renameSync(draft, path);
    return undefined;
  } catch (error) {
    return { kind: 'failed' as const, why: `${path} cannot be written: ${messageOf(error)}` };
  }
}

import type { Facts } from './facts.ts';
import { type Finding, sorted } from './finding.ts';
import { CLUSTER_RULES } from './rules/cluster.ts';
import { DISK_RULES } from './rules/disk.ts';
import { GUEST_RULES } from './rules/guest.ts';
import { HOST_RULES } from './rules/host.ts';
import { RESOURCE_RULES } from './rules/resource.ts';

/**
 * Judges the facts by every rule.
 *
 * @param only the guest that was asked about: what is about others is left out
 * @returns the findings, the worst first
 */
export function judge(facts: Facts, only?: string): Finding[] {
  const others = new Set(
    facts.guests
      .filter(({ name }) => only !== undefined && name !== only)
      .flatMap(({ name, resource }) => [name, ...(resource === undefined ? [] : [resource.id])]),
  );
  const found = [
    ...[...HOST_RULES, ...CLUSTER_RULES].flatMap((rule) => rule(facts)),
    ...facts.guests.flatMap((guest) =>
      [...RESOURCE_RULES, ...GUEST_RULES, ...DISK_RULES].flatMap((rule) => rule(guest, facts)),
    ),
  ];
  return sorted(found.filter(({ subject }) => !others.has(subject)));
}

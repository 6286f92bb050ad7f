/** The configuration that docs/configuration.md recommends for a guest, with the reason for each line there. */

export interface RecommendedOperation {
  readonly name: 'start' | 'stop' | 'monitor' | 'migrate_to' | 'migrate_from';
  /** Seconds. */
  readonly timeout: number;
  /** Seconds; 0 for what does not recur. */
  readonly interval: number;
}

export const RECOMMENDED_OPERATIONS: readonly RecommendedOperation[] = [
  { name: 'start', timeout: 90, interval: 0 },
  { name: 'stop', timeout: 90, interval: 0 },
  { name: 'monitor', timeout: 30, interval: 10 },
  { name: 'migrate_to', timeout: 120, interval: 0 },
  { name: 'migrate_from', timeout: 60, interval: 0 },
];

export const RECOMMENDED_META = {
  'allow-migrate': 'true',
  'migration-threshold': '1',
  'multiple-active': 'stop_unexpected',
} as const satisfies Readonly<Record<string, string>>;

/** The id of the constraint that keeps a guest off the node of its preserved copy. */
export function ruleId(resource: string): string {
  return `${resource}-where-not-preserved`;
}

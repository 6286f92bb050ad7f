import { Deadline } from '../../lib/deadline.ts';
import type { OcfEnvironment } from './environment.ts';

/**
 * The moment by which an action answers: earlier than the cluster's timeout, after which no answer is heard and
 * the action is killed. The cluster counts from the start of this process, which may be slow on a busy node.
 */
export function actionDeadline({ timeout }: OcfEnvironment): Deadline {
  const sinceStart = performance.now();
  return Deadline.in(timeout - sinceStart).reserving(Math.min(1500, timeout / 10));
}

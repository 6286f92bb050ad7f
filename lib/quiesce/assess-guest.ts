import { statfsSync, statSync } from 'node:fs';
import type { Deadline } from '../deadline.ts';
import { isKvmhaError, messageOf } from '../error.ts';
import type { Connection } from '../linux/connections.ts';
import type { FileIdentity } from '../linux/open-files.ts';
import type { QemuProcess } from '../qemu/qemu-process.ts';
import type { Monitor } from '../qemu/qmp.ts';
import { type Assessment, assess, type Plan } from './assess.ts';
import { identifyImages } from './image.ts';
import { inspect } from './inspection.ts';
import { firstConnections } from './network-disk.ts';

/**
 * Whether a guest could be quiesced now, and how: its plan with the images of its media, or the reasons why not.
 * Changes nothing.
 *
 * @throws KvmhaError as `inspect`
 */
export async function assessGuest(
  qemu: QemuProcess,
  monitor: Monitor,
  deadline: Deadline,
): Promise<
  | {
      readonly kind: 'plan';
      readonly plan: Plan;
      readonly images: readonly FileIdentity[];
      /** Those to the servers of its media on the network. */
      readonly connections: readonly Connection[];
    }
  | Extract<Assessment, { kind: 'refused' }>
> {
  const assessment = assess(await inspect(qemu.argv, monitor, deadline), fileSystemOf);
  if (assessment.kind === 'refused') {
    return assessment;
  }
  const files = assessment.plan.media.flatMap((medium) => medium.files);
  try {
    const servers = assessment.plan.media.flatMap((medium) => medium.servers ?? []);
    return {
      ...assessment,
      images: await identifyImages(qemu.pid, files, deadline),
      connections: await firstConnections(qemu, servers, deadline),
    };
  } catch (error) {
    if (isKvmhaError(error)) {
      return { kind: 'refused', reasons: [messageOf(error)] };
    }
    throw error;
  }
}

/** A device that is mapped as memory (DAX) is on no file system of its own. */
function fileSystemOf(path: string): number | undefined {
  const stats = statSync(path, { throwIfNoEntry: false });
  return stats?.isFile() || stats?.isDirectory() ? statfsSync(path).type : undefined;
}

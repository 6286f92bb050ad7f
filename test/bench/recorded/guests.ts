import { join } from 'node:path';
import { Deadline } from '../../../lib/deadline.ts';
import type { LabNode } from '../../lab/client.ts';

/** Milliseconds until all guests must be there. */
const PATIENCE = 60_000;

/** The name of a recorded guest, of its domain as of its resource. */
export function nameOf(number: number): string {
  return `recorded${number}`;
}

/** Where the domain's XML of a recorded guest is, in its node. */
export function configOf(number: number): string {
  return `/run/${nameOf(number)}.xml`;
}

/** Recorded guests (serve.ts) in a node, which are there until they are disposed of. */
export async function recordedGuests(node: LabNode, count: number): Promise<Disposable> {
  const child = node.spawn([process.execPath, join(import.meta.dirname, 'serve.ts'), String(count)]);
  let printed = '';
  const ready = new Promise<void>((resolve, reject) => {
    const hear = (chunk: Buffer) => {
      printed += chunk;
      if (printed.startsWith('ready\n')) {
        resolve();
      }
    };
    child.stdout?.on('data', hear);
    child.stderr?.on('data', hear);
    child.on('error', reject);
    child.on('exit', () => reject(new Error(`the recorded guests ended: ${printed}`)));
  });
  await Deadline.in(PATIENCE).race(ready, `${count} recorded guests`);
  return {
    [Symbol.dispose]() {
      process.kill(-(child.pid ?? 0), 'SIGKILL');
    },
  };
}

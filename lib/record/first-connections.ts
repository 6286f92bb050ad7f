import { join } from 'node:path';
import type { Connection } from '../linux/connections.ts';
import type { ProcessIdentity } from '../linux/process.ts';
import { domainDirectory, makeDomainDirectory } from './directory.ts';
import { readJsonFile, removeFile, writeJsonFile } from './json-file.ts';

/**
 * The connections to servers of disks that a qemu had before its guest ran for the first time. A guest whose connections
 * are others now has lost one on the way, and with it perhaps a write that its server has not carried out yet.
 */
export interface FirstConnections {
  readonly qemu: ProcessIdentity;
  readonly connections: readonly Connection[];
}

/** @throws KvmhaError `file` */
export function writeFirstConnections(uuid: string, record: FirstConnections): void {
  makeDomainDirectory(uuid);
  writeJsonFile(pathOf(uuid), record);
}

/**
 * @returns undefined when nothing is recorded of this very qemu
 * @throws KvmhaError `file`, `malformed`
 */
export function readFirstConnections(
  uuid: string,
  { pid, startTime }: ProcessIdentity,
): readonly Connection[] | undefined {
  const record = readJsonFile(pathOf(uuid), isFirstConnections);
  return record?.qemu.pid === pid && record.qemu.startTime === startTime ? record.connections : undefined;
}

/** @throws KvmhaError `file` */
export function removeFirstConnections(uuid: string): void {
  removeFile(pathOf(uuid));
}

function pathOf(uuid: string): string {
  return join(domainDirectory(uuid), 'connections.json');
}

function isFirstConnections(value: unknown): value is FirstConnections {
  const record = value as Partial<FirstConnections> | null;
  return (
    typeof record?.qemu?.pid === 'number' &&
    typeof record.qemu.startTime === 'number' &&
    Array.isArray(record.connections) &&
    record.connections.every((connection) => typeof connection === 'string')
  );
}

import { join } from 'node:path';
import type { DomainIdentity } from '../libvirt/identity-cache.ts';
import { domainDirectory, makeDomainDirectory, uuidForName } from './directory.ts';
import { readJsonFile, removeFile, writeJsonFile } from './json-file.ts';

/**
 * That libvirt was told to start a domain. libvirtd goes on with it when the one who asked is gone: until it has said
 * how that has ended, the domain may come to run at any moment.
 */
export interface PendingStart {
  /** Of the domain. */
  readonly uuid: string;
}

/** @throws KvmhaError `file` */
export function writePendingStart(domain: DomainIdentity, start: PendingStart): void {
  makeDomainDirectory(keyOf(domain));
  writeJsonFile(pathOf(domain), start);
}

/**
 * @returns undefined when libvirt has said how every start has ended
 * @throws KvmhaError `file`, `malformed`
 */
export function readPendingStart(domain: DomainIdentity): PendingStart | undefined {
  return readJsonFile(pathOf(domain), isPendingStart);
}

/** @throws KvmhaError `file` */
export function removePendingStart(domain: DomainIdentity): void {
  removeFile(pathOf(domain));
}

function keyOf({ uuid, name }: DomainIdentity): string {
  return uuid ?? uuidForName(name);
}

function pathOf(domain: DomainIdentity): string {
  return join(domainDirectory(keyOf(domain)), 'starting.json');
}

function isPendingStart(value: unknown): value is PendingStart {
  return typeof (value as Partial<PendingStart> | null)?.uuid === 'string';
}

import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { KvmhaError, messageOf } from '../error.ts';

/** Where records live: emptied at boot, as the qemu processes are that they speak of. */
export const STATE_DIRECTORY = '/run/kvmha';

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

/**
 * A uuid for a domain whose XML has none: always the same for the same name, so that its records and its lock are
 * found again. A name-based uuid (RFC 9562, version 5) in a name space of kvmha's own.
 */
export function uuidForName(name: string): string {
  // Not imported at the top: it would cost every monitor 2 ms.
  const { createHash } = process.getBuiltinModule('node:crypto');
  const hash = createHash('sha1').update(`kvmha domain ${name}`).digest();
  hash[6] = ((hash[6] ?? 0) & 0x0f) | 0x50;
  hash[8] = ((hash[8] ?? 0) & 0x3f) | 0x80;
  return hash.toString('hex', 0, 16).replace(/(.{8})(.{4})(.{4})(.{4})(.{12})/, '$1-$2-$3-$4-$5');
}

/**
 * The folder of one domain's records.
 *
 * @param uuid of the domain; anything that is not one is refused, it becomes part of a path
 * @throws KvmhaError `malformed`
 */
export function domainDirectory(uuid: string): string {
  const name = uuid.toLowerCase();
  if (!UUID.test(name)) {
    throw new KvmhaError('malformed', `"${uuid}" is not a domain's uuid`);
  }
  return join(STATE_DIRECTORY, 'guests', name);
}

/**
 * Makes the folder of one domain's records if needed, readable by root alone.
 *
 * @throws KvmhaError `malformed`, `file`
 */
export function makeDomainDirectory(uuid: string): string {
  return make(domainDirectory(uuid));
}

/** Makes the folder of all records if needed, readable by root alone. @throws KvmhaError `file` */
export function makeStateDirectory(): string {
  return make(STATE_DIRECTORY);
}

function make(directory: string): string {
  try {
    mkdirSync(directory, { recursive: true, mode: 0o700 });
  } catch (cause) {
    throw new KvmhaError('file', `${directory} cannot be made: ${messageOf(cause)}`, { cause });
  }
  return directory;
}

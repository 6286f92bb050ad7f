import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { errnoOf, isKvmhaError, KvmhaError, messageOf } from '../error.ts';
import { domainDirectory, makeDomainDirectory, STATE_DIRECTORY } from './directory.ts';
import { readJsonFile, removeFile, writeJsonFile } from './json-file.ts';

/**
 * Which resource of the cluster runs a guest here, and how Pacemaker calls the agent for it. Nobody but the agent is
 * told what the parameters are in the end: in the CIB they can come from templates and depend on rules.
 */
export interface ResourceRecord {
  /** The domain's name. */
  readonly name: string;
  readonly uuid: string;
  /** The agent's environment: the resource's id, its parameters, and what Pacemaker says of itself and the node. */
  readonly environment: Readonly<Record<string, string>>;
}

/** What of an action's environment is the same in every action of a resource on a node. */
export function lastingEnvironment(
  env: Readonly<Record<string, string | undefined>>,
): Record<string, string> {
  return Object.fromEntries(
    Object.entries(env).filter((entry): entry is [string, string] => {
      const [name, value] = entry;
      return value !== undefined && (LASTING.includes(name) || isParameter(name));
    }),
  );
}

const META = 'OCF_RESKEY_CRM_meta_';
const LASTING = ['OCF_ROOT', 'OCF_RA_VERSION_MAJOR', 'OCF_RESOURCE_INSTANCE', `${META}on_node`];

function isParameter(name: string): boolean {
  return name.startsWith('OCF_RESKEY_') && !name.startsWith(META);
}

/** Writes the record of a domain. @throws KvmhaError `file` */
export function writeResourceRecord(record: ResourceRecord): void {
  makeDomainDirectory(record.uuid);
  writeJsonFile(resourceRecordPath(record.uuid), record);
}

/** Reads the record of a domain; undefined when no resource runs it here. @throws KvmhaError `file`, `malformed` */
export function readResourceRecord(uuid: string): ResourceRecord | undefined {
  return readJsonFile(resourceRecordPath(uuid), isResourceRecord);
}

/** All guests that resources run here; a record that cannot be read is given as its error. */
export function allResourceRecords(): (ResourceRecord | KvmhaError)[] {
  let uuids: string[];
  try {
    uuids = readdirSync(join(STATE_DIRECTORY, 'guests'));
  } catch (cause) {
    return errnoOf(cause) === 'ENOENT'
      ? []
      : [new KvmhaError('file', `${STATE_DIRECTORY}: ${messageOf(cause)}`, { cause })];
  }
  return uuids.flatMap((uuid) => {
    try {
      return readResourceRecord(uuid) ?? [];
    } catch (error) {
      if (isKvmhaError(error)) {
        return error;
      }
      throw error;
    }
  });
}

/** Forgets which resource runs a domain, once it runs it no more. @throws KvmhaError `file` */
export function removeResourceRecord(uuid: string): void {
  removeFile(resourceRecordPath(uuid));
}

/** Where the record of a domain is. @throws KvmhaError `malformed` */
export function resourceRecordPath(uuid: string): string {
  return join(domainDirectory(uuid), 'resource.json');
}

function isResourceRecord(value: unknown): value is ResourceRecord {
  const record = value as Partial<ResourceRecord> | null;
  return (
    typeof record?.name === 'string' &&
    typeof record.uuid === 'string' &&
    typeof record.environment === 'object' &&
    record.environment !== null &&
    typeof record.environment['OCF_RESOURCE_INSTANCE'] === 'string' &&
    Object.values(record.environment).every((each) => typeof each === 'string')
  );
}

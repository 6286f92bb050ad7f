import { readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { errnoOf, KvmhaError, messageOf } from '../error.ts';

/** The format of the records that this program writes; one that was written before there was a number has the same. */
const FORMAT = 1;

/** What is written for a record: with the number of its format. */
export function withFormat<T extends object>(record: T): T & { readonly format: number } {
  return { format: FORMAT, ...record };
}

/**
 * A record as it is, without the number of its format.
 *
 * @throws KvmhaError `malformed` when a newer program has written it: what that means by it is not known here
 */
export function withoutFormat(value: unknown, path: string): unknown {
  if (typeof value !== 'object' || value === null || !('format' in value)) {
    return value;
  }
  const { format, ...record } = value;
  if (format !== FORMAT) {
    throw new KvmhaError(
      'malformed',
      `${path} cannot be read: its format is ${JSON.stringify(format)}, and this version of kvmha knows ${FORMAT} alone`,
    );
  }
  return record;
}

/**
 * Reads a JSON file of this program's own.
 *
 * @returns its value if `accepts` it, undefined when there is no such file
 * @throws KvmhaError `file`, `malformed`: what cannot be read is not nothing
 */
export function readJsonFile<T>(path: string, accepts: (value: unknown) => value is T): T | undefined {
  let value: unknown;
  try {
    value = JSON.parse(readFileSync(path, 'utf8'));
  } catch (cause) {
    if (errnoOf(cause) === 'ENOENT') {
      return undefined;
    }
    const code = cause instanceof SyntaxError ? 'malformed' : 'file';
    throw new KvmhaError(code, `${path}: ${messageOf(cause)}`, { cause });
  }
  const record = withoutFormat(value, path);
  if (!accepts(record)) {
    throw new KvmhaError('malformed', `${path} is not a record of this program`);
  }
  return record;
}

/** Writes a JSON file, whole or not at all, readable by root alone. @throws KvmhaError `file` */
export function writeJsonFile(path: string, value: object): void {
  const draft = `${path}.${process.pid}`;
  try {
    writeFileSync(draft, `${JSON.stringify(withFormat(value))}\n`, { mode: 0o600 });
    renameSync(draft, path);
  } catch (cause) {
    throw new KvmhaError('file', `${path} cannot be written: ${messageOf(cause)}`, { cause });
  }
}

/** Removes a file; that it is not there is no failure. @throws KvmhaError `file` */
export function removeFile(path: string): void {
  try {
    rmSync(path, { force: true });
  } catch (cause) {
    throw new KvmhaError('file', `${path} cannot be removed: ${messageOf(cause)}`, { cause });
  }
}

import { readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { errnoOf, KvmhaError, messageOf } from '../error.ts';

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
  if (!accepts(value)) {
    throw new KvmhaError('malformed', `${path} is not a record of this program`);
  }
  return value;
}

/** Writes a JSON file, whole or not at all, readable by root alone. @throws KvmhaError `file` */
export function writeJsonFile(path: string, value: unknown): void {
  const draft = `${path}.${process.pid}`;
  try {
    writeFileSync(draft, `${JSON.stringify(value)}\n`, { mode: 0o600 });
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

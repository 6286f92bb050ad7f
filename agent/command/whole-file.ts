import { renameSync, rmSync, writeFileSync } from 'node:fs';
import { KvmhaError, messageOf } from '../../lib/error.ts';

/**
 * Writes a file whole or not at all: whoever reads it meanwhile reads what was there before.
 *
 * @param mode of a file as of chmod(2)
 * @throws KvmhaError `file`
 */
export function writeWhole(path: string, text: string, mode: number): void {
  const draft = `${path}.${process.pid}`;
  try {
    writeFileSync(draft, text, { mode });
    renameSync(draft, path);
  } catch (cause) {
    rmSync(draft, { force: true });
    throw new KvmhaError('file', `${path} cannot be written: ${messageOf(cause)}`, { cause });
  }
}

import { chmodSync, mkdirSync } from 'node:fs';

/** Makes a folder of exactly this mode, whatever the umask is. @returns its path */
export function makeFolder(path: string, mode: number): string {
  mkdirSync(path);
  chmodSync(path, mode);
  return path;
}

import { lstatSync, realpathSync } from 'node:fs';
import { dirname } from 'node:path';
import { errnoOf } from '../error.ts';

/** Mode bits of chmod(2): writable for everybody, and that only owners may remove or rename what is in a folder. */
const WRITABLE_BY_ALL = 0o002;
const STICKY = 0o1000;

/**
 * What in a path another user has put there, or could replace: something of a user other than root and this one in a
 * folder that everybody may write to (/tmp, /var/tmp), a symbolic link among it, or anything in such a folder without
 * the sticky bit. Folders that belong to a user, below folders of root's, are for whoever has named them to judge.
 *
 * @param path absolute; what is not there yet is left out
 * @returns a sentence for people; undefined where there is nothing of the kind
 * @throws the system's error where the path cannot be followed
 */
export function othersFolderIn(path: string): string | undefined {
  const parent = dirname(path);
  if (parent === path) {
    return undefined;
  }
  const above = othersFolderIn(parent);
  if (above !== undefined) {
    return above;
  }
  const entry = statOf(path);
  if (entry === undefined) {
    return undefined;
  }
  const folder = lstatSync(realpathSync(parent));
  if ((folder.mode & WRITABLE_BY_ALL) !== 0) {
    if ((folder.mode & STICKY) === 0) {
      return `everybody may replace what is in ${parent}`;
    }
    if (entry.uid !== 0 && entry.uid !== process.geteuid?.()) {
      return `${path} belongs to user ${entry.uid}, in a folder that everybody may write to`;
    }
  }
  return entry.isSymbolicLink() ? othersFolderIn(realpathSync(path)) : undefined;
}

function statOf(path: string) {
  try {
    return lstatSync(path);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') {
      return undefined;
    }
    throw error;
  }
}

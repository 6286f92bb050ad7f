import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';

/** The project's changelog, in the form of Debian's policy (section 4.4). */
export const CHANGELOG = resolve(import.meta.dirname, '../packaging/debian/changelog');

/**
 * When this version was released, by the changelog's first entry: what is built says this, not when it was built, so that
 * it is the same whenever that is.
 *
 * @throws Error when there is none
 */
export function releaseDate(): Date {
  const [, written] = /^ -- .*> {2}(.*)$/m.exec(readFileSync(CHANGELOG, 'utf8')) ?? [];
  const date = new Date(written ?? '');
  if (Number.isNaN(date.getTime())) {
    throw new Error(`${CHANGELOG} gives no date for its first entry`);
  }
  return date;
}

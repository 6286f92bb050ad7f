import { writeSync } from 'node:fs';
import { errnoOf } from '../lib/error.ts';

/** How long a non-blocking output may stay full before what is left is given up. */
const PATIENCE_MS = 5_000;
const PAUSE_MS = 5;

/**
 * Writes `text` to standard output before it returns. `process.stdout` would keep what exceeds a pipe's
 * buffer for later, to be lost on `process.exit`, and costs a millisecond to set up.
 *
 * @returns false when nobody reads it any more
 */
export function print(text: string): boolean {
  return writeFully(1, text);
}

/** Writes `text` to standard error before it returns; false as with `print`. */
export function printError(text: string): boolean {
  return writeFully(2, text);
}

function writeFully(fd: number, text: string): boolean {
  const giveUp = performance.now() + PATIENCE_MS;
  let rest = Buffer.from(text);
  while (rest.length > 0) {
    try {
      rest = rest.subarray(writeSync(fd, rest));
    } catch (error) {
      // Whoever started us may share a non-blocking pipe with us: wait for its reader.
      if (errnoOf(error) !== 'EAGAIN' || performance.now() > giveUp) {
        return false; // No reader (EPIPE) or no place (ENOSPC): there is nobody left to tell.
      }
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, PAUSE_MS);
    }
  }
  return true;
}

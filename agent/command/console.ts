import { isatty } from 'node:tty';
import type { Log } from '../../lib/log.ts';
import { printError } from '../output.ts';

/**
 * Text fit for a terminal: a guest's name, and what QEMU says of it, may hold anything.
 *
 * @returns it on one line, without control characters and without marks that reorder text
 */
export function plain(text: string): string {
  return text.replace(/[\p{Cc}\p{Zl}\p{Zp}\u202A-\u202E\u2066-\u2069]+/gu, ' ').trim();
}

/** Escape sequences are for terminals alone, and for those who have not asked to be spared (https://no-color.org). */
function isColoured(): boolean {
  return isatty(1) && !process.env['NO_COLOR'] && process.env['TERM'] !== 'dumb';
}

const COLOURS = { red: 31, yellow: 33, blue: 34, green: 32 } as const;

/** A word in a colour, where standard output takes colours. */
export function colour(word: string, name: keyof typeof COLOURS): string {
  return isColoured() ? `\u001b[${COLOURS[name]}m${word}\u001b[0m` : word;
}

export function bold(word: string): string {
  return isColoured() ? `\u001b[1m${word}\u001b[0m` : word;
}

/** What a command does, told on standard error while it does it. */
export class ConsoleLog implements Log {
  debug(): void {
    // For the agent's log: a person at the terminal sees the outcome.
  }

  info(message: string): void {
    printError(`${plain(message)}\n`);
  }

  warn(message: string): void {
    printError(`${plain(message)}\n`);
  }

  err(message: string): void {
    printError(`${plain(message)}\n`);
  }
}

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

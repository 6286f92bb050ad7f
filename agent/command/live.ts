import { stripVTControlCharacters } from 'node:util';
import { print } from '../output.ts';

/** What a look has seen: in words, and what it comes to. */
export interface Looked<T> {
  readonly text: string;
  readonly result: T;
}

export interface LiveOptions {
  readonly title: string;
  /** Between the end of a look and the beginning of the next. */
  readonly seconds: number;
  /** Every look's text as it is, on a terminal, too. */
  readonly bare: boolean;
}

// Control sequences of the terminal (ECMA-48, and xterm's private modes): a screen of its own, without a cursor.
const ENTER = '\u001b[?1049h\u001b[?25l';
const LEAVE = '\u001b[?25h\u001b[?1049l';
const HOME = '\u001b[H';
const CLEAR_LINE = '\u001b[K';
const CLEAR_BELOW = '\u001b[J';

/**
 * Shows what `look` says, again and again, until the process is told to end (SIGINT, SIGTERM, SIGHUP) or nobody reads
 * it any more. On a terminal each look replaces the last one, and the terminal is left as it was; elsewhere they are
 * printed one after the other.
 *
 * @returns the result of the last look that was shown, undefined if none was: Ctrl-C hits what a look has started, too,
 *   and such a look does not count
 * @throws what `look` throws
 */
export async function live<T>(look: () => Promise<Looked<T>>, options: LiveOptions): Promise<T | undefined> {
  const ended = untilToldToEnd();
  if (process.stdout.isTTY && !options.bare) {
    return onTerminal(look, options, ended);
  }
  let result: T | undefined;
  for (;;) {
    const looked = await Promise.race([look(), ended]);
    if (looked === undefined) {
      return result;
    }
    const { text } = looked;
    const isRead = print(options.bare ? text : `${heading(options.title)}\n\n${text}\n`);
    result = looked.result;
    if (!isRead || (await pause(options.seconds, ended))) {
      return result;
    }
  }
}

async function onTerminal<T>(
  look: () => Promise<Looked<T>>,
  { title, seconds }: LiveOptions,
  ended: Promise<undefined>,
): Promise<T | undefined> {
  let result: T | undefined;
  const terminal = process.stdout;
  let shown = 'looking ...\n';
  let isEntered = false;
  // A resize, or the end of a look, may come after a suspended process was told to go on, but before SIGCONT arrives:
  // what were drawn then would stay on the shell's screen.
  const draw = () => !isEntered || print(frame(shown, terminal));
  const enter = () => {
    print(ENTER);
    isEntered = true;
    draw();
  };
  const leave = () => {
    isEntered = false;
    print(LEAVE);
  };
  const suspend = () => {
    leave();
    // The handler has taken the place of what the signal does otherwise.
    process.kill(process.pid, 'SIGSTOP');
  };
  process.on('exit', leave);
  process.on('SIGTSTP', suspend);
  process.on('SIGCONT', enter);
  terminal.on('resize', draw);
  enter();
  try {
    for (;;) {
      const looked = await Promise.race([look(), ended]);
      if (looked === undefined) {
        return result;
      }
      result = looked.result;
      shown = `${heading(title)}, every ${seconds} s. Ctrl-C ends it.\n\n${looked.text}`;
      if (!draw() || (await pause(seconds, ended))) {
        return result;
      }
    }
  } finally {
    leave();
    process.off('exit', leave);
    process.off('SIGTSTP', suspend);
    process.off('SIGCONT', enter);
    terminal.off('resize', draw);
  }
}

function heading(title: string): string {
  return `${title} at ${new Date().toISOString().replace(/\.\d+Z$/, 'Z')}`;
}

/** Resolves to undefined at the first of the signals that would end the process. */
function untilToldToEnd(): Promise<undefined> {
  return new Promise((resolve) => {
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
      process.once(signal, () => resolve(undefined));
    }
  });
}

/** @returns whether it was told to end meanwhile */
async function pause(seconds: number, ended: Promise<undefined>): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined;
  const over = new Promise<true>((resolve) => {
    timer = setTimeout(() => resolve(true), seconds * 1000);
  });
  const first = await Promise.race([over, ended]);
  clearTimeout(timer);
  return first === undefined;
}

/**
 * What draws `text` over whatever is on a terminal. Lines that are too long go on beneath, and what does not fit is
 * counted in the last line.
 *
 * @param text may hold colours
 */
export function frame(
  text: string,
  { rows, columns }: { readonly rows: number; readonly columns: number },
): string {
  const lines = text
    .trimEnd()
    .split('\n')
    .flatMap((line) => wrap(line, columns));
  const fits = lines.length <= rows;
  const kept = fits ? lines : lines.slice(0, rows - 1);
  const rest = fits
    ? []
    : [`(${lines.length - kept.length} more lines; a higher terminal shows them)`.slice(0, columns)];
  // No line break behind the last line: in the last row it would move everything up.
  return `${HOME}${[...kept, ...rest].map((line) => `${line}${CLEAR_LINE}`).join('\r\n')}${CLEAR_BELOW}`;
}

/** Breaks a line at spaces, and a word where it is longer than a line. */
function wrap(line: string, columns: number): string[] {
  const lines = [''];
  let width = 0;
  for (const piece of line.split(/( +)/)) {
    let rest = piece;
    if (width > 0 && width + widthOf(rest) > columns) {
      lines.push('');
      width = 0;
      rest = rest.trimStart();
    }
    while (widthOf(rest) > columns) {
      const characters = [...stripVTControlCharacters(rest)];
      lines[lines.length - 1] = characters.slice(0, columns).join('');
      lines.push('');
      rest = characters.slice(columns).join('');
    }
    lines[lines.length - 1] += rest;
    width += widthOf(rest);
  }
  return lines.map((each) => each.trimEnd());
}

function widthOf(text: string): number {
  return [...stripVTControlCharacters(text)].length;
}

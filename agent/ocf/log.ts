import type { ChildProcess } from 'node:child_process';
import { appendFileSync } from 'node:fs';
import { isatty } from 'node:tty';
import type { Log as PlainLog } from '../../lib/log.ts';
import { printError } from '../output.ts';
import type { OcfEnvironment } from './environment.ts';

/** The levels of ocf_log (ocf-shellfuncs), the word each puts before the message, and syslog's number. */
const LEVELS = {
  err: { word: 'ERROR', syslog: 3 },
  warn: { word: 'WARNING', syslog: 4 },
  info: { word: 'INFO', syslog: 6 },
  debug: { word: 'DEBUG', syslog: 7 },
} as const;

type Level = keyof typeof LEVELS;

/** Longer messages are cut; in UTF-8 this still fits into what `logger` is told to accept. */
const MAX_CHARACTERS = 2000;
const LOGGER_SIZE = '8KiB';

/**
 * The agent's log. It goes where ocf_log's messages go: to syslog if HA_LOGFACILITY names a facility (which
 * Pacemaker does), to the file HA_LOGFILE, and to standard error if there is neither, or if somebody runs
 * the agent in a terminal. Debug messages are written only if HA_debug says so, and to HA_DEBUGLOG instead of
 * HA_LOGFILE. (Of ocf_log's ways, only the one through the old ha_logger daemon is missing.)
 *
 * Everything is written before the call returns, because an agent may be killed at any moment. Node.js has no
 * UNIX datagram sockets, which syslog wants, so the program `logger` is started with the first message and
 * gets this and all later messages through a pipe; it lives in its own session, so that it still delivers
 * them when the cluster kills the agent's process group. A healthy monitor logs nothing and starts nothing.
 *
 * Messages may contain text that a guest controls: control characters, line ends and the prefix of the exit
 * reason are taken out of them.
 */
export class Log implements PlainLog {
  readonly #settings: OcfEnvironment['log'];
  readonly #exitReasonPrefix: string;
  #terminal: boolean | undefined;
  #logger: ChildProcess | 'missing' | undefined;

  constructor(environment: Pick<OcfEnvironment, 'log' | 'exitReasonPrefix'>) {
    this.#settings = environment.log;
    this.#exitReasonPrefix = environment.exitReasonPrefix;
  }

  err(message: string): void {
    this.#write('err', message, { toStderr: true });
  }

  warn(message: string): void {
    this.#write('warn', message, { toStderr: true });
  }

  info(message: string): void {
    this.#write('info', message, { toStderr: true });
  }

  debug(message: string): void {
    if (this.#settings.debug) {
      this.#write('debug', message, { toStderr: true });
    }
  }

  /**
   * Tells the cluster why the action fails. Of several reasons it shows the last (Pacemaker looks for the
   * last occurrence of the prefix on standard error), and none when the action is timed out. The reason is
   * logged too.
   */
  exitReason(reason: string): void {
    printError(`${this.#exitReasonPrefix}${this.#clean(reason)}\n`);
    this.#write('err', reason, { toStderr: false });
  }

  #write(level: Level, message: string, { toStderr }: { readonly toStderr: boolean }): void {
    const { facility, file, debugFile, tag } = this.#settings;
    const text = `${LEVELS[level].word}: ${this.#clean(message)}`;
    this.#terminal ??= isatty(0);
    if (this.#terminal) {
      if (toStderr) {
        printError(`${text}\n`);
      }
      return;
    }
    const files = level === 'debug' ? [debugFile] : [file, debugFile === file ? undefined : debugFile];
    let written = false;
    for (const path of files) {
      if (path !== undefined) {
        written = append(path, `${date()}  ${tag}:    ${text}\n`) || written;
      }
    }
    if (facility !== undefined) {
      written = this.#sendToSyslog(facility, tag, level, text) || written;
    }
    if (!written && toStderr) {
      printError(`${date()} ${text}\n`);
    }
  }

  #sendToSyslog(facility: string, tag: string, level: Level, text: string): boolean {
    this.#logger ??= startLogger(facility, tag);
    if (this.#logger === 'missing') {
      return false;
    }
    // With room in the pipe, the text has been handed to the kernel when this returns.
    this.#logger.stdin?.write(`<${LEVELS[level].syslog}>${text}\n`);
    return true;
  }

  #clean(message: string): string {
    const line = message
      .replace(/[\p{Cc}\p{Zl}\p{Zp}\u202A-\u202E\u2066-\u2069]+/gu, ' ')
      .replaceAll(this.#exitReasonPrefix, '?')
      .trim();
    return line.length > MAX_CHARACTERS ? `${line.slice(0, MAX_CHARACTERS)}...` : line;
  }
}

function startLogger(facility: string, tag: string): ChildProcess | 'missing' {
  // Not imported at the top: it would cost every monitor of a healthy guest.
  const { spawn } = process.getBuiltinModule('node:child_process');
  const logger = spawn(
    'logger',
    ['--prio-prefix', '--priority', `${facility}.notice`, '--tag', tag, '--size', LOGGER_SIZE],
    { stdio: ['pipe', 'ignore', 'ignore'], detached: true },
  );
  // That it could not be started is known at once; the event would come too late.
  logger.on('error', () => undefined);
  logger.stdin?.on('error', () => undefined);
  if (logger.pid === undefined) {
    return 'missing';
  }
  logger.unref();
  const { stdin } = logger;
  if (stdin !== null && 'unref' in stdin && typeof stdin.unref === 'function') {
    stdin.unref();
  }
  return logger;
}

function append(path: string, line: string): boolean {
  try {
    appendFileSync(path, line, { mode: 0o640 });
    return true;
  } catch {
    return false;
  }
}

const MONTHS = ['Jan', 'Feb', 'Mar', 'Apr', 'May', 'Jun', 'Jul', 'Aug', 'Sep', 'Oct', 'Nov', 'Dec'];

/** As `date "+%b %d %T"` in the C locale. */
function date(): string {
  const now = new Date();
  const [day, hours, minutes, seconds] = [
    now.getDate(),
    now.getHours(),
    now.getMinutes(),
    now.getSeconds(),
  ].map((part) => String(part).padStart(2, '0'));
  return `${MONTHS[now.getMonth()]} ${day} ${hours}:${minutes}:${seconds}`;
}

import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Deadline } from '../../lib/deadline.ts';
import { runChecked } from '../../lib/run.ts';

/** Why there can be no terminal here; false where there can. */
export const noTerminal: string | false =
  spawnSync('tmux', ['-V'], { stdio: 'ignore' }).status === 0 ? false : 'tmux is not installed';

/** How long anything that is waited for may take. */
const PATIENCE = 60_000;

/** A real terminal, of tmux, with a program in it. */
export class Terminal implements AsyncDisposable {
  /** For tmux's socket, which stays when its server has ended. */
  readonly #folder = mkdtempSync(join(tmpdir(), 'kvmha-terminal-'));

  private constructor() {}

  static async open(
    command: readonly string[],
    { rows = 40, columns = 120 }: { readonly rows?: number; readonly columns?: number } = {},
  ): Promise<Terminal> {
    const terminal = new Terminal();
    const size = ['-x', String(columns), '-y', String(rows)];
    await terminal.#tmux('-f', '/dev/null', 'new-session', '-d', ...size, ...command);
    return terminal;
  }

  /** Presses keys, in tmux's words: `C-c`, `Enter`. */
  async press(...keys: readonly string[]): Promise<void> {
    await this.#tmux('send-keys', ...keys);
  }

  async type(text: string): Promise<void> {
    await this.#tmux('send-keys', '-l', text);
    await this.press('Enter');
  }

  async resize(columns: number, rows: number): Promise<void> {
    await this.#tmux('resize-window', '-x', String(columns), '-y', String(rows));
  }

  /** What can be read on it. */
  screen(): Promise<string> {
    return this.#tmux('capture-pane', '-p');
  }

  /** Whether a program has a screen of its own, and whether there is a cursor. */
  async modes(): Promise<{ alternate: boolean; cursor: boolean }> {
    const said = await this.#tmux('display-message', '-p', '#{alternate_on} #{cursor_flag}');
    const [alternate, cursor] = said.trim().split(' ');
    return { alternate: alternate === '1', cursor: cursor === '1' };
  }

  /** Waits until what can be read matches. */
  async shows(pattern: RegExp): Promise<string> {
    let last = '';
    const screen = await Deadline.in(PATIENCE).poll(50, async () => {
      last = await this.screen();
      return pattern.test(last) ? last : undefined;
    });
    if (screen === undefined) {
      throw new Error(`the terminal never showed ${pattern}, but:\n${last}`);
    }
    return screen;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#tmux('kill-server').catch(() => '');
    rmSync(this.#folder, { recursive: true });
  }

  #tmux(...args: readonly string[]): Promise<string> {
    const deadline = Deadline.in(PATIENCE);
    return runChecked('tmux', ['-S', join(this.#folder, 'socket'), ...args], {
      deadline,
      env: { TERM: 'xterm-256color' },
    });
  }
}

/** Shows what a demo does, line by line with a clock, and keeps count of what was claimed and did not hold. */
export class Screen {
  readonly #write: (text: string) => void;
  readonly #colour: boolean;
  readonly #width: number;
  readonly #begun = performance.now();
  #failures = 0;

  constructor(output: {
    readonly write: (text: string) => void;
    readonly isTTY: boolean;
    readonly columns: number | undefined;
    readonly environment: Readonly<Record<string, string | undefined>>;
  }) {
    this.#write = output.write;
    // https://no-color.org: any value but the empty one.
    this.#colour = output.isTTY && !output.environment['NO_COLOR'];
    this.#width = Math.max(60, Math.min(output.columns ?? 100, 100));
  }

  /** How many claims did not hold. */
  get failures(): number {
    return this.#failures;
  }

  /** What the next lines are about. */
  title(text: string): void {
    this.#write(`\n${this.#paint(BOLD, text)}\n`);
  }

  /** What happens now. */
  step(text: string): void {
    const seconds = ((performance.now() - this.#begun) / 1000).toFixed(1);
    this.#write(this.#wrapped(this.#paint(DIM, `${seconds.padStart(6)} s  `), text));
  }

  /** What came of it, or why it is so. */
  detail(text: string): void {
    this.#write(this.#wrapped(INDENT, text));
  }

  /** A fact that must hold for the demo to have shown what it is for. */
  claim(text: string, holds: boolean, otherwise = ''): void {
    if (!holds) {
      this.#failures += 1;
    }
    const mark = holds ? this.#paint(GREEN, '    true  ') : this.#paint(RED, '   FALSE  ');
    this.#write(this.#wrapped(mark, holds || otherwise === '' ? text : `${text} (${otherwise})`));
  }

  #wrapped(first: string, text: string): string {
    const lines: string[] = [];
    let line = '';
    for (const word of text
      .replace(/[\p{Cc}]+/gu, ' ')
      .trim()
      .split(/ +/)) {
      if (line !== '' && INDENT.length + line.length + 1 + word.length > this.#width) {
        lines.push(line);
        line = '';
      }
      line = line === '' ? word : `${line} ${word}`;
    }
    lines.push(line);
    return lines.map((each, index) => `${index === 0 ? first : INDENT}${each}\n`).join('');
  }

  #paint(colour: string, text: string): string {
    return this.#colour ? `\u001b[${colour}m${text}\u001b[0m` : text;
  }
}

const INDENT = ' '.repeat(10);
const [BOLD, DIM, GREEN, RED] = ['1', '2', '32', '31;1'] as const;

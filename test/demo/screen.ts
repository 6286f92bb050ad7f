/** A claim of the demo that does not hold. The demo ends with it: what follows would build on it. */
export class FalseClaim extends Error {}

/** Shows what a demo does, line by line with a clock. */
export class Screen {
  readonly #write: (text: string) => void;
  readonly #colour: boolean;
  readonly #width: number;
  readonly #begun = performance.now();

  constructor(output: {
    readonly write: (text: string) => void;
    readonly isTTY: boolean;
    readonly columns: number | undefined;
    readonly environment: Readonly<Record<string, string | undefined>>;
  }) {
    this.#write = output.write;
    // https://no-color.org: any value but the empty one.
    this.#colour = output.isTTY && !output.environment['NO_COLOR'];
    this.#width = Math.max(60, Math.min(output.columns ?? 110, 110));
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

  /**
   * A fact that must hold for the demo to have shown what it is for.
   *
   * @param otherwise what was seen instead
   * @throws FalseClaim when it does not
   */
  claim(text: string, holds: boolean, otherwise = ''): void {
    this.#claim(this.#paint(GREEN, '    true  '), text, holds, otherwise);
  }

  /**
   * A claim that something has happened, some milliseconds after a moment that the reader knows of.
   *
   * @param after undefined when it has not happened
   * @param atLeast how many milliseconds after that moment it cannot have happened yet
   * @throws FalseClaim when it has not, or has happened too early
   */
  moment(after: number | undefined, text: string, atLeast = 0): void {
    const otherwise =
      after === undefined ? 'it has not happened' : `after ${seconds(after)}, which is too early`;
    const mark = this.#paint(GREEN, `+${seconds(after ?? 0)}  `.padStart(INDENT.length));
    this.#claim(mark, text, after !== undefined && after >= atLeast, otherwise);
  }

  /** Lines as they are, each below the other: a table. */
  lines(text: string): void {
    for (const line of text.trimEnd().split('\n')) {
      this.#write(`${INDENT}${line}\n`);
    }
  }

  #claim(mark: string, text: string, holds: boolean, otherwise: string): void {
    const words = holds || otherwise === '' ? text : `${text} (${otherwise})`;
    this.#write(this.#wrapped(holds ? mark : this.#paint(RED, '   FALSE  '), words));
    if (!holds) {
      throw new FalseClaim(words);
    }
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

function seconds(milliseconds: number): string {
  return `${(milliseconds / 1000).toFixed(2)} s`;
}

const INDENT = ' '.repeat(10);
const [BOLD, DIM, GREEN, RED] = ['1', '2', '32', '31;1'] as const;

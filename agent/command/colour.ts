import { styleText } from 'node:util';

export type Colour = 'green' | 'yellow' | 'red' | 'cyan';

/** Gives text a colour, or leaves it as it is. */
export type Paint = (colour: Colour, text: string) => string;

export const unpainted: Paint = (_, text) => text;

/** For standard output: colours on a terminal that has some, unless NO_COLOR is set (https://no-color.org). */
export function paintForOutput(): Paint {
  return process.stdout.isTTY && process.stdout.hasColors()
    ? (colour, text) => styleText(colour, text, { validateStream: false })
    : unpainted;
}

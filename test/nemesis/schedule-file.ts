import { ACTIONS, type ActionName, type Round, type Stroke } from './schedule.ts';

/** Rounds to be played again, on a cluster with or without the watcher. */
export interface Written {
  readonly watcher: boolean;
  readonly rounds: readonly Round[];
}

/** The file's text: one stroke a line, so that people can take some out. */
export function writeSchedule({ watcher, rounds }: Written): string {
  const blocks = rounds.map(({ strokes }) => {
    const lines = strokes.map((stroke) => `    ${JSON.stringify(stroke)}`);
    return `  [\n${lines.join(',\n')}\n  ]`;
  });
  return `{"watcher": ${watcher}, "rounds": [\n${blocks.join(',\n')}\n]}\n`;
}

/**
 * Reads what `writeSchedule` has written, and people may have changed.
 *
 * @throws an Error that says what is wrong in it
 */
export function readSchedule(text: string): Written {
  const { watcher, rounds } = fieldsOf(JSON.parse(text), 'the file');
  if (typeof watcher !== 'boolean') {
    throw new Error('"watcher" is neither true nor false');
  }
  if (!Array.isArray(rounds) || rounds.length === 0) {
    throw new Error('"rounds" is not a list of rounds');
  }
  return {
    watcher,
    rounds: rounds.map((strokes: unknown, index) => {
      if (!Array.isArray(strokes) || strokes.length === 0) {
        throw new Error(`round ${index + 1} is not a list of strokes`);
      }
      return { strokes: strokes.map((stroke) => strokeOf(stroke, `round ${index + 1}`)) };
    }),
  };
}

function strokeOf(value: unknown, where: string): Stroke {
  const { action, at, lasts, guest, node, variant } = fieldsOf(value, `a stroke of ${where}`);
  if (typeof action !== 'string' || !Object.hasOwn(ACTIONS, action)) {
    throw new Error(`${where}: ${JSON.stringify(action)} is none of ${Object.keys(ACTIONS).join(', ')}`);
  }
  const number = (name: string, from: number, to: number, given: unknown): number => {
    if (typeof given !== 'number' || !Number.isInteger(given) || given < from || given > to) {
      throw new Error(
        `${where}, ${action}: "${name}" is ${JSON.stringify(given)}, not a whole number from ${from} to ${to}`,
      );
    }
    return given;
  };
  if (typeof variant !== 'string') {
    throw new Error(`${where}, ${action}: "variant" is not a string`);
  }
  return {
    action: action as ActionName,
    at: number('at', 0, 600_000, at),
    lasts: number('lasts', 0, 600_000, lasts),
    guest: number('guest', 0, 3, guest),
    node: number('node', 1, 3, node),
    variant,
  };
}

function fieldsOf(value: unknown, what: string): { [name: string]: unknown } {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new Error(`${what} is no JSON object`);
  }
  return value as { [name: string]: unknown };
}

import type { Round, Stroke } from './schedule.ts';

export interface Limits {
  /** How often a smaller schedule may be tried. */
  readonly tries: number;
  /** Whether there is time for one more; there always is if it is not given. */
  readonly mayTry?: () => boolean;
}

export interface Shrunk {
  /** The smallest schedule that was seen to fail: the one that was given if none of the tries failed. */
  readonly rounds: readonly Round[];
  /** How many schedules were tried. */
  readonly tries: number;
  /** Whether any of the tries failed. */
  readonly cameAgain: boolean;
  /** Whether all that are one stroke smaller were tried, and passed. */
  readonly isMinimal: boolean;
}

/** A stroke and the number of its round. */
interface Placed {
  readonly round: number;
  readonly stroke: Stroke;
}

/**
 * Looks for a smaller schedule that still fails: a function of what `fails` answers and the limits. The last round
 * alone is tried first, then the whole; if neither fails, the failure has not come again. Then whole rounds are left
 * out, and then strokes, as in "Simplifying and Isolating Failure-Inducing Input" (Zeller and Hildebrandt, 2002).
 * What fails only at times may stay larger than it would have to be, and never gets larger.
 *
 * @param rounds a schedule that has failed in its last round
 * @param fails plays a schedule anew, and says whether it fails in the same way
 */
export async function shrink(
  rounds: readonly Round[],
  fails: (rounds: readonly Round[]) => Promise<boolean>,
  { tries: most, mayTry = () => true }: Limits,
): Promise<Shrunk> {
  let tries = 0;
  let isCut = false;
  const attempt = async (smaller: readonly Round[]): Promise<boolean> => {
    isCut ||= tries >= most || !mayTry();
    if (isCut) {
      return false;
    }
    tries += 1;
    return await fails(smaller);
  };
  const last = rounds.slice(-1);
  let smallest = rounds;
  if (rounds.length > 1 && (await attempt(last))) {
    smallest = last;
  } else if (!(await attempt(rounds))) {
    return { rounds, tries, cameAgain: false, isMinimal: false };
  }
  smallest = await without(smallest, attempt);
  const placed = smallest.flatMap(({ strokes }, round) => strokes.map((stroke) => ({ round, stroke })));
  smallest = inRounds(await without(placed, (some) => attempt(inRounds(some))));
  return { rounds: smallest, tries, cameAgain: true, isMinimal: !isCut };
}

function inRounds(placed: readonly Placed[]): Round[] {
  const numbers = [...new Set(placed.map(({ round }) => round))];
  return numbers.map((number) => ({
    strokes: placed.filter(({ round }) => round === number).map(({ stroke }) => stroke),
  }));
}

/** Leaves out parts of a list that fails, ever smaller ones, until it fails no more when any one item is left out. */
async function without<T>(
  list: readonly T[],
  fails: (list: readonly T[]) => Promise<boolean>,
): Promise<readonly T[]> {
  let left = list;
  let size = Math.ceil(left.length / 2);
  while (left.length > 1) {
    let at = 0;
    let isSmaller = false;
    while (at < left.length && left.length > 1) {
      const rest = left.toSpliced(at, size);
      if (rest.length > 0 && (await fails(rest))) {
        left = rest;
        isSmaller = true;
      } else {
        at += size;
      }
    }
    if (size === 1 && !isSmaller) {
      break;
    }
    size = Math.max(1, Math.ceil(Math.min(size, left.length) / 2));
  }
  return left;
}

/**
 * Torments clusters in the lab, one after the other, until the time is over or something was found. What was found is
 * then looked for with ever smaller schedules:
 *
 *   node test/nemesis/soak.ts [--seconds N] [--seed N] [--rounds N] [--watcher yes|no] [--only ACTION,...] [--short]
 *     [--strokes FILE] [--tries N] [--try-seconds N]
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { messageOf } from '../../lib/error.ts';
import { type Finding, torment } from './nemesis.ts';
import { ACTIONS, type Round } from './schedule.ts';
import { readSchedule, type Written, writeSchedule } from './schedule-file.ts';
import { shrink } from './shrink.ts';

/** A cluster's history is judged whole, so that it must not grow for hours. */
const ROUNDS = 10;

/** Where the schedules that have failed are left. */
const FOLDER = 'build/nemesis';

const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '3600' },
    seed: { type: 'string' },
    rounds: { type: 'string', default: String(ROUNDS) },
    watcher: { type: 'string' },
    only: { type: 'string' },
    short: { type: 'boolean', default: false },
    strokes: { type: 'string' },
    tries: { type: 'string' },
    'try-seconds': { type: 'string' },
  },
});

function refuse(words: string): never {
  console.error(words);
  process.exit(2);
}

function count(name: 'seconds' | 'seed' | 'rounds' | 'tries' | 'try-seconds', otherwise: number): number {
  const text = values[name] ?? '';
  if (!/^\d{0,9}$/.test(text)) {
    refuse(`${name}: "${text}" is not a whole number of at most nine digits`);
  }
  return text === '' ? otherwise : Number(text);
}

function fileOfStrokes(): Written | undefined {
  if (!values.strokes) {
    return undefined;
  }
  try {
    return readSchedule(readFileSync(values.strokes, 'utf8'));
  } catch (error) {
    return refuse(`strokes: ${values.strokes}: ${messageOf(error)}`);
  }
}

const rounds = count('rounds', ROUNDS);
const until = Date.now() + count('seconds', 3600) * 1000;
const first = count('seed', Date.now() % 1_000_000);
const tries = count('tries', 24);
const trySeconds = count('try-seconds', 3600);
const isReplay = (values.seed ?? '') !== '';
if (!['', 'yes', 'no'].includes(values.watcher ?? '')) {
  refuse(`watcher: "${values.watcher}" is neither yes nor no`);
}
const unknown = (values.only || 'storage-fails').split(',').find((name) => !Object.hasOwn(ACTIONS, name));
if (unknown !== undefined) {
  refuse(`only: "${unknown}" is none of ${Object.keys(ACTIONS).join(', ')}`);
}

/** Leaves a schedule in a file. @returns the command that plays it */
function keep(name: string, written: Written): string {
  mkdirSync(FOLDER, { recursive: true });
  const path = join(FOLDER, name);
  writeFileSync(path, writeSchedule(written));
  return `make soak STROKES=${path}`;
}

const strokesIn = (some: readonly Round[]) => some.reduce((sum, { strokes }) => sum + strokes.length, 0);
const sizeOf = (some: readonly Round[]) => `${some.length} round(s), ${strokesIn(some)} stroke(s)`;

/** Says what was found, looks for less that shows the same, and ends with exit code 1. */
async function report(seed: number, watcher: boolean, finding: Finding): Promise<never> {
  const { kind, text, rounds: played } = finding;
  const same = keep(`${seed}.json`, { watcher, rounds: played });
  console.error(`\n${text}\n\nSeed ${seed}, round ${played.length}. The same again: ${same}`);
  if (tries === 0) {
    process.exit(1);
  }
  console.log(`\nlooking for less that shows the same, in up to ${tries} tries and ${trySeconds} s`);
  const end = Date.now() + trySeconds * 1000;
  let smallest = text;
  let number = 0;
  const fails = async (some: readonly Round[]): Promise<boolean> => {
    number += 1;
    console.log(`try ${number}: ${sizeOf(some)}`);
    try {
      const { finding: found } = await torment({
        ...{ seed, rounds: some.length, watcher, schedule: some },
        tell: (line) => console.log(`  ${line}`),
      });
      const isSame = found?.kind === kind;
      console.log(`try ${number}: ${isSame ? 'the same' : (found?.kind ?? 'nothing')} was found`);
      smallest = isSame ? found.text : smallest;
      return isSame;
    } catch (error) {
      console.log(`try ${number}: it could not be played: ${messageOf(error)}`);
      return false;
    }
  };
  const shrunk = await shrink(played, fails, { tries, mayTry: () => Date.now() < end });
  if (!shrunk.cameAgain) {
    console.error(`\nIn ${shrunk.tries} tries it did not come again: ${kind}. To try again: ${same}`);
    process.exit(1);
  }
  const command = keep(`${seed}-smallest.json`, { watcher, rounds: shrunk.rounds });
  const certainty = shrunk.isMinimal
    ? 'with any one of its strokes left out, it did not come again'
    : 'the tries or the time were used up, so that there may be less';
  console.error(`
${smallest}

The smallest schedule that has shown it has ${sizeOf(shrunk.rounds)} of ${sizeOf(played)}, after ${shrunk.tries} tries (${certainty}):
${writeSchedule({ watcher, rounds: shrunk.rounds })}
To play it: ${command}`);
  process.exit(1);
}

const given = fileOfStrokes();
let [clusters, played] = [0, 0];
for (let seed = first; clusters === 0 || (Date.now() < until && given === undefined); seed++) {
  clusters += 1;
  const drawn = values.watcher ? values.watcher === 'yes' : seed % 2 === 0;
  const watcher = given?.watcher ?? drawn;
  const source = given === undefined ? `seed ${seed}` : values.strokes;
  console.log(`cluster ${clusters}: ${source}, ${watcher ? 'with' : 'without'} the watcher`);
  const only = { short: values.short, ...(values.only ? { only: values.only.split(',') } : {}) };
  const { finding } = await torment({
    ...{ seed, rounds, watcher, ...only, tell: console.log },
    ...(given === undefined ? {} : { schedule: given.rounds }),
    ...((isReplay || given !== undefined) && clusters === 1 ? {} : { until }),
  });
  if (finding !== undefined) {
    await report(seed, watcher, finding);
  }
  played += given?.rounds.length ?? rounds;
}
console.log(`${clusters} clusters, up to ${played} rounds: nothing was found`);
process.exit(0);

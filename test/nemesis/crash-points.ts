/**
 * Interrupts actions at the moments at which they can die, and says what came of each:
 *
 *   node test/nemesis/crash-points.ts [--every N] [--from N] [--only WORDS] [--fate FATE,...] [--jobs N]
 *     [--progress FILE] [--list]
 *
 * With a file for the progress, what it says to be done without a failure is not done again.
 */
import { appendFileSync, readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { Deadline } from '../../lib/deadline.ts';
import { errnoOf } from '../../lib/error.ts';
import { runChecked } from '../../lib/run.ts';
import { Cast, crashPoints, FATES, type Fate, isPossible } from './crash.ts';
import { Stage } from './crash-player.ts';
import { SCENARIOS, type Scenario } from './crash-scenarios.ts';
import type { CrashPoint } from './crash-trace.ts';

const { values } = parseArgs({
  options: {
    every: { type: 'string', default: '1' },
    from: { type: 'string', default: '0' },
    only: { type: 'string', default: '' },
    fate: { type: 'string', default: '' },
    jobs: { type: 'string', default: '2' },
    progress: { type: 'string' },
    list: { type: 'boolean', default: false },
  },
});
const [every, from, jobs] = [Number(values.every), Number(values.from), Number(values.jobs)];
const chosen = SCENARIOS.filter(({ name }) => name.includes(values.only));
const fates = FATES.filter((fate) => values.fate === '' || values.fate.split(',').includes(fate));
const areNumbers = [every, from, jobs].every(Number.isInteger) && every > 0 && from >= 0 && jobs > 0;
if (!areNumbers || chosen.length === 0 || fates.length === 0) {
  const lines = (words: readonly string[]) => words.map((each) => `  ${each}`).join('\n');
  console.error(
    `every and jobs are whole numbers from 1 on, from one from 0 on, the actions are\n${lines(
      SCENARIOS.map(({ name }) => name),
    )}\nand the fates are\n${lines(FATES)}`,
  );
  process.exit(2);
}
try {
  await runChecked('strace', ['--version'], { deadline: Deadline.in(10_000) });
} catch {
  console.error('strace(1) is needed to find the moments at which an action can die, and is not there');
  process.exit(2);
}

/** A line of the file of progress: the moments of an action, or one that was tried. */
type Line =
  | { readonly action: string; readonly points: readonly CrashPoint[] }
  | { readonly action: string; readonly index: number; readonly fate: Fate; readonly result: string };

const lines = readProgress();
const results = { interrupted: 0, ended: 0, failed: 0 };
{
  await using stage = await Stage.set();
  for (const scenario of chosen) {
    await tryAll(stage, scenario);
  }
}
console.log(
  `${results.interrupted} actions were interrupted, ${results.ended} had ended before, ` +
    `${results.failed} came to a bad end`,
);
process.exit(results.failed === 0 ? 0 : 1);

async function tryAll(stage: Stage, scenario: Scenario): Promise<void> {
  const points = await pointsOf(stage, scenario);
  console.log(`${scenario.name}: ${points.length} moments`);
  const tasks = fates.flatMap((fate) =>
    points.flatMap((point, index) => {
      const isChosen = index >= from && (index - from) % every === 0 && isPossible(fate, point, scenario);
      return isChosen && !isDone(scenario, index, fate) ? [{ point, index, fate }] : [];
    }),
  );
  if (values.list) {
    for (const { point, index, fate } of tasks) {
      console.log(`  ${words(point, index, fate)}`);
    }
    return;
  }
  const isAlone = ({ fate }: Task) => scenario.isAlone === true || fate === 'meets-the-watcher';
  const [alone, others] = [tasks.filter(isAlone), tasks.filter((task) => !isAlone(task))];
  await Promise.all(Array.from({ length: jobs }, () => work(stage, scenario, others)));
  await work(stage, scenario, alone);
}

interface Task {
  readonly point: CrashPoint;
  readonly index: number;
  readonly fate: Fate;
}

/** Takes one task after the other from those that are left. */
async function work(stage: Stage, scenario: Scenario, tasks: Task[]): Promise<void> {
  await using cast = new Cast(stage, scenario);
  for (let task = tasks.shift(); task !== undefined; task = tasks.shift()) {
    const { point, index, fate } = task;
    const begun = Date.now();
    const result = await tryOne(cast, point, index, fate);
    results[result] += 1;
    note({ action: scenario.name, index, fate, result, milliseconds: Date.now() - begun });
  }
}

async function tryOne(
  cast: Cast,
  point: CrashPoint,
  index: number,
  fate: Fate,
): Promise<keyof typeof results> {
  const what = words(point, index, fate);
  try {
    const reached = await cast.interrupt(point, fate);
    console.log(`  ${what}${reached ? '' : ' (it had ended before)'}`);
    return reached ? 'interrupted' : 'ended';
  } catch (error) {
    console.error(`  ${what}\n  FAILED: ${error instanceof Error ? error.message : String(error)}`);
    return 'failed';
  }
}

function words(point: CrashPoint, index: number, fate: Fate): string {
  return `${String(index).padStart(3)} ${fate} at ${point.text.slice(0, 100)}`;
}

async function pointsOf(stage: Stage, scenario: Scenario): Promise<readonly CrashPoint[]> {
  for (const line of lines) {
    if ('points' in line && line.action === scenario.name) {
      return line.points;
    }
  }
  const points = await crashPoints(stage, scenario);
  note({ action: scenario.name, points });
  return points;
}

/** What has failed is tried again. */
function isDone({ name }: Scenario, index: number, fate: Fate): boolean {
  return lines.some(
    (line) =>
      'fate' in line &&
      line.action === name &&
      line.index === index &&
      line.fate === fate &&
      line.result !== 'failed',
  );
}

function readProgress(): Line[] {
  if (values.progress === undefined) {
    return [];
  }
  try {
    const text = readFileSync(values.progress, 'utf8');
    // What was being written when the machine went down is no whole line.
    return text
      .slice(0, text.lastIndexOf('\n') + 1)
      .split('\n')
      .filter(Boolean)
      .map((line) => JSON.parse(line));
  } catch (error) {
    if (errnoOf(error) !== 'ENOENT') {
      throw error;
    }
    return [];
  }
}

function note(line: object): void {
  if (values.progress !== undefined) {
    appendFileSync(values.progress, `${JSON.stringify(line)}\n`);
  }
}

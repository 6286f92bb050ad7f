/**
 * Torments clusters in the lab, one after the other, until the time is over or something was found:
 *
 *   node test/nemesis/soak.ts [--seconds N] [--seed N] [--rounds N] [--watcher yes|no] [--only ACTION,...] [--short]
 */
import { parseArgs } from 'node:util';
import { torment } from './nemesis.ts';
import { ACTIONS } from './schedule.ts';

/** A cluster's history is judged whole, so that it must not grow for hours. */
const ROUNDS = 10;

const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '3600' },
    seed: { type: 'string' },
    rounds: { type: 'string', default: String(ROUNDS) },
    watcher: { type: 'string' },
    only: { type: 'string' },
    short: { type: 'boolean', default: false },
  },
});

function refuse(words: string): never {
  console.error(words);
  process.exit(2);
}

function count(name: 'seconds' | 'seed' | 'rounds', otherwise: number): number {
  const text = values[name] ?? '';
  if (!/^\d{0,9}$/.test(text)) {
    refuse(`${name}: "${text}" is not a whole number of at most nine digits`);
  }
  return text === '' ? otherwise : Number(text);
}

const rounds = count('rounds', ROUNDS);
const until = Date.now() + count('seconds', 3600) * 1000;
const first = count('seed', Date.now() % 1_000_000);
const isReplay = (values.seed ?? '') !== '';
if (!['', 'yes', 'no'].includes(values.watcher ?? '')) {
  refuse(`watcher: "${values.watcher}" is neither yes nor no`);
}
const unknown = (values.only || 'storage-fails').split(',').find((name) => !(name in ACTIONS));
if (unknown !== undefined) {
  refuse(`only: "${unknown}" is none of ${Object.keys(ACTIONS).join(', ')}`);
}
let [clusters, played] = [0, 0];
for (let seed = first; clusters === 0 || Date.now() < until; seed++) {
  clusters += 1;
  const watcher =
    values.watcher === undefined || values.watcher === '' ? seed % 2 === 0 : values.watcher === 'yes';
  console.log(`cluster ${clusters}: seed ${seed}, ${watcher ? 'with' : 'without'} the watcher`);
  const only = { short: values.short, ...(values.only ? { only: values.only.split(',') } : {}) };
  const { failure } = await torment({
    ...{ seed, rounds, watcher, ...only, tell: console.log },
    ...(isReplay && clusters === 1 ? {} : { until }),
  });
  if (failure !== undefined) {
    console.error(`\n${failure}`);
    process.exit(1);
  }
  played += rounds;
}
console.log(`${clusters} clusters, up to ${played} rounds: nothing was found`);
process.exit(0);

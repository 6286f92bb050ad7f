/**
 * Interrupts actions at the moments at which they can die, one after the other, and says what came of each:
 *
 *   node test/nemesis/crash-points.ts [--every N] [--from N] [--only WORDS] [--fate FATE] [--list]
 */
import { parseArgs } from 'node:util';
import { Deadline } from '../../lib/deadline.ts';
import { runChecked } from '../../lib/run.ts';
import { crashPoints, FATES, interrupt, SCENARIOS, Stage } from './crash.ts';

const { values } = parseArgs({
  options: {
    every: { type: 'string', default: '1' },
    from: { type: 'string', default: '0' },
    only: { type: 'string', default: '' },
    fate: { type: 'string', default: '' },
    list: { type: 'boolean', default: false },
  },
});
const [every, from] = [Number(values.every), Number(values.from)];
const fates = FATES.filter((fate) => values.fate === '' || fate === values.fate);
const chosen = SCENARIOS.filter(({ name }) => name.includes(values.only));
if (
  !(Number.isInteger(every) && every > 0 && Number.isInteger(from) && from >= 0) ||
  chosen.length === 0 ||
  fates.length === 0
) {
  const names = SCENARIOS.map(({ name }) => `  ${name}`).join('\n');
  console.error(
    `every is a whole number from 1 on, from one from 0 on, fate one of ${FATES.join(', ')}, ` +
      `and the actions are\n${names}`,
  );
  process.exit(2);
}
try {
  await runChecked('strace', ['--version'], { deadline: Deadline.in(10_000) });
} catch {
  console.error('strace(1) is needed to find the moments at which an action can die, and is not there');
  process.exit(2);
}
let [interrupted, failed] = [0, 0];
{
  await using stage = await Stage.set();
  for (const scenario of chosen) {
    const points = await crashPoints(stage, scenario);
    console.log(`${scenario.name}: ${points.length} moments`);
    for (const [index, point] of points.entries()) {
      if (index < from || (index - from) % every !== 0) {
        continue;
      }
      for (const fate of fates) {
        const what = `${String(index).padStart(3)} ${fate} before ${point.text.slice(0, 100)}`;
        if (values.list) {
          console.log(`  ${what}`);
          continue;
        }
        interrupted += 1;
        try {
          await interrupt(stage, scenario, point, fate);
          console.log(`  ${what}`);
        } catch (error) {
          failed += 1;
          console.error(`  ${what}\n  FAILED: ${error instanceof Error ? error.message : String(error)}`);
        }
      }
    }
  }
}
console.log(`${interrupted} actions were interrupted, ${failed} of them with a bad end`);
process.exit(failed === 0 ? 0 : 1);

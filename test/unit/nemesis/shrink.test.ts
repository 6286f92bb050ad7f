import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { type Round, type Stroke, schedule } from '../../nemesis/schedule.ts';
import { shrink } from '../../nemesis/shrink.ts';

const ROUNDS = schedule(101, { rounds: 6, guests: 4, nodes: 3 });
const strokesOf = (rounds: readonly Round[]) => rounds.flatMap(({ strokes }) => strokes);
const PLENTY = { tries: 1000 };

/** Plays nothing: a schedule fails if it holds all of `culprits`; `played` are those that were tried. */
function failsWith(culprits: readonly (Stroke | undefined)[]) {
  const played: (readonly Round[])[] = [];
  const fails = async (rounds: readonly Round[]) => {
    played.push(rounds);
    return culprits.every((culprit) => strokesOf(rounds).some((stroke) => stroke === culprit));
  };
  return { played, fails };
}

describe('shrinking a schedule that fails', () => {
  it('finds the one stroke of the last round that does it', async () => {
    const culprit = ROUNDS.at(-1)?.strokes[0];
    const { rounds, cameAgain, isMinimal } = await shrink(ROUNDS, failsWith([culprit]).fails, PLENTY);
    assert.deepEqual(
      { rounds, cameAgain, isMinimal },
      { rounds: [{ strokes: [culprit] }], cameAgain: true, isMinimal: true },
    );
  });

  it('finds two strokes of different rounds that do it only together, each in a round of its own', async () => {
    const culprits = [ROUNDS[1]?.strokes[1], ROUNDS.at(-1)?.strokes[0]];
    const { rounds, isMinimal } = await shrink(ROUNDS, failsWith(culprits).fails, PLENTY);
    assert.deepEqual(rounds, [{ strokes: [culprits[0]] }, { strokes: [culprits[1]] }]);
    assert.ok(isMinimal);
  });

  it('keeps the order of strokes that all are needed', async () => {
    const { rounds } = await shrink(ROUNDS, failsWith(strokesOf(ROUNDS)).fails, PLENTY);
    assert.deepEqual(rounds, ROUNDS);
  });

  it('tries the last round alone, and then the whole, before it says that a failure does not come again', async () => {
    const { played, fails } = failsWith([undefined]);
    const shrunk = await shrink(ROUNDS, fails, PLENTY);
    assert.deepEqual(shrunk, { rounds: ROUNDS, tries: 2, cameAgain: false, isMinimal: false });
    assert.deepEqual(played, [ROUNDS.slice(-1), ROUNDS]);
  });

  it('never tries an empty schedule or an empty round', async () => {
    const { played, fails } = failsWith([]);
    await shrink(ROUNDS, fails, PLENTY);
    const empty = played.filter(
      (rounds) => rounds.length === 0 || rounds.some(({ strokes }) => strokes.length === 0),
    );
    assert.deepEqual(empty, []);
  });

  it('hands back a schedule that was seen to fail, whatever the number of tries, and says that it may be smaller', async () => {
    const culprits = [ROUNDS[1]?.strokes[1], ROUNDS.at(-1)?.strokes[0]];
    const all = await shrink(ROUNDS, failsWith(culprits).fails, PLENTY);
    for (let most = 0; most < all.tries; most++) {
      const { played, fails } = failsWith(culprits);
      const { rounds, tries, isMinimal } = await shrink(ROUNDS, fails, { tries: most });
      assert.ok(await failsWith(culprits).fails(rounds), `with ${most} tries`);
      assert.deepEqual([tries, isMinimal], [played.length, false], `with ${most} tries`);
      assert.ok(tries <= most);
    }
  });

  it('tries nothing more once the time is over', async () => {
    const { played, fails } = failsWith([ROUNDS.at(-1)?.strokes[0]]);
    const { tries } = await shrink(ROUNDS, fails, { tries: 1000, mayTry: () => played.length < 3 });
    assert.equal(tries, 3);
  });

  it('ends with what fails only every other time', async () => {
    const culprit = ROUNDS.at(-1)?.strokes[0];
    const { fails, played } = failsWith([culprit]);
    const { rounds } = await shrink(
      ROUNDS,
      async (some) => (await fails(some)) && played.length % 2 === 1,
      PLENTY,
    );
    assert.ok(strokesOf(rounds).includes(culprit as Stroke));
    assert.ok(strokesOf(rounds).length < strokesOf(ROUNDS).length);
  });
});

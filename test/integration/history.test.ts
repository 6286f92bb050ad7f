import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { check, type Rule } from '../nemesis/checker.ts';
import { type Player, Stage } from '../nemesis/crash-player.ts';

let stage: Stage;
before(async () => {
  stage = await Stage.set();
});
after(() => stage[Symbol.asyncDispose]());

/** The rules that are broken, by what is seen of a guest. */
async function broken(play: (player: Player) => Promise<void>): Promise<Set<Rule>> {
  const player = await stage.player();
  try {
    await play(player);
    return new Set(check(player.recorder.history()).map(({ rule }) => rule));
  } finally {
    await player.end();
  }
}

describe('what is recorded of a guest with a disk that nothing locks', () => {
  test('tells that it was started on another node while it ran', async () => {
    const rules = await broken(async (player) => {
      await player.started();
      await player.runsThere();
      await player.here.ticks();
    });
    assert.ok(rules.has('one-writer'), [...rules].join());
    assert.ok(rules.has('safe-start'), [...rules].join());
  });

  test('has nothing against a start after it was proved to be failover-safe', async () => {
    const rules = await broken(async (player) => {
      await player.preserved();
      await player.stops();
      await player.runsThere();
    });
    assert.deepEqual([...rules], []);
  });
});

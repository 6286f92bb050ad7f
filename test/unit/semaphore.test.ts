import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { Semaphore } from '../../lib/semaphore.ts';

describe('Semaphore', () => {
  it('lets no more than so many work at a time, and all in the end, in their order', async () => {
    const turns = new Semaphore(2);
    let working = 0;
    let most = 0;
    const begun: number[] = [];
    const results = await Promise.all(
      Array.from({ length: 7 }, (_, index) =>
        turns.run(async () => {
          begun.push(index);
          working += 1;
          most = Math.max(most, working);
          await new Promise((resolve) => setTimeout(resolve, 1));
          working -= 1;
          return index;
        }),
      ),
    );
    assert.deepEqual(results, begun);
    assert.deepEqual(begun, [0, 1, 2, 3, 4, 5, 6]);
    assert.equal(most, 2);
  });

  it('gives the place of work that failed to the next', async () => {
    const turns = new Semaphore(1);
    const failing = turns.run(() => Promise.reject(new Error('no')));
    const next = turns.run(async () => 'yes');
    await assert.rejects(failing, /no/);
    assert.equal(await next, 'yes');
    assert.equal(await turns.run(async () => 'again'), 'again');
  });
});

import assert from 'node:assert/strict';
import { stat } from 'node:fs/promises';
import { describe, test } from 'node:test';
import { Deadline } from '../../lib/deadline.ts';
import { isKvmhaError, isShortage, KvmhaError } from '../../lib/error.ts';

/** Keeps the process from doing anything, as if others had the processor. */
function standStill(milliseconds: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, milliseconds);
}

describe('a deadline', () => {
  test('does not let go of an answer that came while the process did not get the processor', async () => {
    for (let round = 0; round < 20; round += 1) {
      const answer = Deadline.in(1).race(stat('/'), 'an answer');
      standStill(20);
      assert.ok((await answer).isDirectory());
    }
  });

  test('passes where no answer came', async () => {
    await assert.rejects(Deadline.in(1).race(new Promise(() => {}), 'nobody'), (error) =>
      isKvmhaError(error, 'deadline'),
    );
  });
});

describe('a shortage', () => {
  test('is told from other failures, also as the cause of one', () => {
    const failed = (code: string) => Object.assign(new Error(code), { code });
    for (const code of ['EMFILE', 'ENFILE', 'ENOMEM', 'EAGAIN']) {
      assert.ok(isShortage(failed(code)));
      assert.ok(isShortage(new KvmhaError('file', 'unreadable', { cause: failed(code) })));
    }
    for (const other of [failed('ENOENT'), failed('EACCES'), failed('EIO'), new Error('EMFILE'), undefined]) {
      assert.ok(!isShortage(other));
      assert.ok(!isShortage(new KvmhaError('file', 'unreadable', { cause: other })));
    }
  });
});

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { schedule } from '../../nemesis/schedule.ts';
import { readSchedule, writeSchedule } from '../../nemesis/schedule-file.ts';

const STROKE = { action: 'qemu-is-killed', at: 0, lasts: 0, guest: 0, node: 1, variant: '' };
const fileOf = (stroke: object) => JSON.stringify({ watcher: true, rounds: [[stroke]] });

describe('the file of a schedule', () => {
  it('holds every stroke that can be drawn', () => {
    const rounds = schedule(7, { rounds: 200, guests: 4, nodes: 3 });
    const written = { watcher: false, rounds };
    assert.deepEqual(readSchedule(writeSchedule(written)), written);
  });

  const REFUSED: readonly (readonly [text: string, words: RegExp])[] = [
    ['[]', /the file is no JSON object/],
    ['{"rounds": [[]]}', /"watcher" is neither/],
    ['{"watcher": true}', /"rounds" is not a list/],
    ['{"watcher": true, "rounds": []}', /"rounds" is not a list/],
    ['{"watcher": true, "rounds": [[]]}', /round 1 is not a list of strokes/],
    ['{"watcher": true, "rounds": [[7]]}', /a stroke of round 1 is no JSON object/],
    [fileOf({ ...STROKE, action: 'toString' }), /"toString" is none of storage-fails,/],
    [fileOf({ ...STROKE, at: -1 }), /qemu-is-killed: "at" is -1, not a whole number/],
    [fileOf({ ...STROKE, lasts: 0.5 }), /"lasts" is 0.5/],
    [fileOf({ ...STROKE, guest: 4 }), /"guest" is 4, not a whole number from 0 to 3/],
    [fileOf({ ...STROKE, node: '1' }), /"node" is "1", not a whole number from 1 to 3/],
    [fileOf({ ...STROKE, variant: null }), /"variant" is not a string/],
  ];
  for (const [text, words] of REFUSED) {
    it(`is refused with ${words.source} when it is ${text}`, () => {
      assert.throws(() => readSchedule(text), words);
    });
  }
});

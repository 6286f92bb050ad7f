import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { merged, parseJournal } from '../../../lib/timeline/journal-lines.ts';
import { recordedLines } from './recorded.ts';

const NONE = { since: undefined, guests: [] };

describe('the text of a journal', () => {
  test('gives its lines, each with its node', () => {
    const { lines, malformed } = parseJournal(
      '{"time":"2026-11-25T04:00:00Z","by":"agent","what":"done","guest":"web","uuid":"u","resource":"r","x":1}\n\n',
      'node1',
    );
    assert.deepEqual(malformed, []);
    const [line] = lines;
    assert.deepEqual(
      { ...line, entry: undefined },
      {
        time: '2026-11-25T04:00:00.000Z',
        node: 'node1',
        by: 'agent',
        what: 'done',
        guest: 'web',
        uuid: 'u',
        resource: 'r',
        entry: undefined,
      },
    );
    assert.equal(line?.entry['x'], 1);
  });

  test('a line that tells when it happened is put there, not where it was written', () => {
    const { lines } = parseJournal(
      '{"time":"2026-11-25T04:00:09Z","at":"2026-11-25T04:00:01Z","what":"seen"}',
      'node1',
    );
    assert.equal(lines[0]?.time, '2026-11-25T04:00:01.000Z');
  });

  test('what is no line is named by its number and its fault, and the others are read', () => {
    const good = '{"time":"2026-11-25T04:00:00Z","what":"seen"}';
    const text = [
      good,
      '{"time":',
      '[1]',
      'null',
      '{"what":"seen"}',
      '{"time":"soon","what":"seen"}',
      '{"time":"2026-11-25T04:00:00Z"}',
      '\u0000\u0000',
      good,
    ];
    const { lines, malformed } = parseJournal(text.join('\n'), 'n');
    assert.equal(lines.length, 2);
    assert.deepEqual(
      malformed.map(({ line, why }) => `${line} ${why}`),
      [
        '2 it is not JSON',
        '3 it is no JSON object',
        '4 it is no JSON object',
        '5 it has no time',
        '6 it has no time',
        '7 it does not say what happened',
        '8 it is not JSON',
      ],
    );
  });
});

describe('journals together', () => {
  test('are in the order of time, and what happened at one moment stays in its order', () => {
    const at = (time: string, what: string, node: string) =>
      parseJournal(`{"time":"${time}","what":"${what}"}`, node).lines;
    const lines = merged(
      [
        ...at('2026-11-25T04:00:02Z', 'c', 'node1'),
        ...at('2026-11-25T04:00:01Z', 'a', 'node2'),
        ...at('2026-11-25T06:00:01+02:00', 'b', 'node1'),
      ],
      NONE,
    );
    assert.deepEqual(
      lines.map(({ what }) => what),
      ['a', 'b', 'c'],
    );
    const times = recordedLines().map(({ time }) => time);
    assert.deepEqual(times, times.toSorted());
  });

  test('count a line once that is there twice, and twice that two nodes have written', () => {
    const text = '{"time":"2026-11-25T04:00:00Z","what":"seen"}';
    const lines = ['node1', 'node1', 'node2'].flatMap((node) => parseJournal(text, node).lines);
    assert.deepEqual(
      merged(lines, NONE).map(({ node }) => node),
      ['node1', 'node2'],
    );
  });

  test('can be limited to a time and to guests, by name, uuid or resource, whatever a line names', () => {
    const text = [
      '{"time":"2026-11-25T04:00:00Z","what":"1","guest":"web","uuid":"AB-1"}',
      '{"time":"2026-11-25T04:00:01Z","what":"2","guest":"web","resource":"vm-web"}',
      '{"time":"2026-11-25T04:00:02Z","what":"3","guest":"db"}',
      '{"time":"2026-11-25T04:00:03Z","what":"4"}',
    ];
    const { lines } = parseJournal(text.join('\n'), 'n');
    const chosen = (guests: string[], since?: string) =>
      merged(lines, { since, guests })
        .map(({ what }) => what)
        .join('');
    assert.equal(chosen([]), '1234');
    assert.equal(chosen(['web']), '12');
    assert.equal(chosen(['vm-web']), '12');
    assert.equal(chosen(['ab-1']), '12');
    assert.equal(chosen(['web', 'db']), '123');
    assert.equal(chosen(['ghost']), '');
    assert.equal(chosen([], '2026-11-25T04:00:02.000Z'), '34');
    assert.equal(chosen(['web'], '2026-11-25T04:00:01.000Z'), '2');
  });
});

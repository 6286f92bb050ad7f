import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { type History, story, storyOfNode } from '../../nemesis/history.ts';

const LIFE = { incoming: false, last: 60_000 };
const HISTORY: History = {
  lives: [
    { ...LIFE, guest: 'g', node: 'node1', pid: 100, since: 1000, last: 13_000, gone: 14_000 },
    { ...LIFE, guest: 'g', node: 'node2', pid: 200, since: 50_000 },
    { ...LIFE, guest: 'other', node: 'node3', pid: 300, since: 51_000 },
  ],
  events: [
    { kind: 'wrote', guest: 'g', at: 51_000, after: 50_900, boot: 2, instance: 7, tick: 9 },
    { kind: 'told', guest: 'g', node: 'node2', at: 51_100, after: 51_000, tick: 9 },
    { kind: 'wrote', guest: 'g', at: 51_500, after: 51_400, boot: 2, instance: 7, tick: 10 },
    { kind: 'told', guest: 'g', node: 'node2', at: 51_600, after: 51_500, tick: 10 },
    { kind: 'wrote', guest: 'g', at: 52_000, after: 51_900, boot: 2, instance: 7, tick: 11 },
    { kind: 'told', guest: 'g', node: 'node2', at: 52_100, after: 52_000, tick: 11 },
    { kind: 'wrote', guest: 'other', at: 52_500, after: 52_400, boot: 1, instance: 8, tick: 1 },
    { kind: 'cause', at: 53_000, what: 'power-fails', node: 'node2', excuses: ['fencing'] },
    { kind: 'cause', at: 53_000, what: 'corosync-is-stopped', node: 'node3', excuses: ['fencing'] },
    { kind: 'cause', at: 53_000, what: 'network-is-slow', excuses: ['fencing'] },
    { kind: 'node-off', at: 54_000, node: 'node3' },
    { kind: 'told', guest: 'other', node: 'node3', at: 54_000, after: 53_900, tick: 1 },
  ],
};
const words = (lines: readonly string[]) => lines.map((line) => line.slice('00:00:00.000 '.length));

describe('the story of a guest', () => {
  it('leaves out other guests, nodes that it has nothing to do with, other times, and ticks between others', () => {
    assert.deepEqual(words(story(HISTORY, 'g', 55_000)), [
      'qemu 200 of g on node2 starts',
      'boot 2 (7) has written tick 9',
      'on node2 it says that tick 9 is written',
      'boot 2 (7) has written tick 11',
      'on node2 it says that tick 11 is written',
      'done to node2: power-fails',
      'done to the cluster: network-is-slow',
    ]);
  });
});

describe('the story of a node', () => {
  it('tells of its guests, what was done to it or the whole cluster, and not what its guests said', () => {
    assert.deepEqual(words(storyOfNode(HISTORY, 'node3', 55_000)), [
      'qemu 300 of other on node3 starts',
      'done to node3: corosync-is-stopped',
      'done to the cluster: network-is-slow',
      'node3 is off',
    ]);
  });
});

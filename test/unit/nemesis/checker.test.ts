import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { check, type Rule } from '../../nemesis/checker.ts';
import type { Cause, Event, Life } from '../../nemesis/history.ts';

/** The qemu that runs the guest first, on node1 from second 1 on, and one that runs it on node2 from second 20 on. */
const FIRST = { node: 'node1', pid: 100 };
const SECOND = { node: 'node2', pid: 200 };

const life = (of: typeof FIRST, since: number, last: number, more: Partial<Life> = {}): Life => ({
  guest: 'g',
  incoming: false,
  ...of,
  since: since * 1000,
  last: last * 1000,
  ...more,
});
const gone = (second: number) => ({ gone: second * 1000 });
const found = (second: number) => ({ guest: 'g', at: second * 1000, after: second * 1000 - 100 });
const wrote = (second: number, boot: number, tick: number, instance = boot * 0x1000): Event => ({
  kind: 'wrote',
  ...found(second),
  boot,
  instance,
  tick,
});
const told = (second: number, node: string, tick: number): Event => ({
  kind: 'told',
  ...found(second),
  node,
  tick,
});
const booted = (second: number, node: string, boot: number, tick: number): Event => ({
  kind: 'booted',
  ...found(second),
  node,
  boot,
  tick,
});
const holders = (second: number, ...pids: number[]): Event => ({ kind: 'holders', ...found(second), pids });
const on = <K extends 'proved' | 'ended' | 'resumed' | 'resuming'>(kind: K, second: number, node = 'node1') =>
  ({ kind, guest: 'g', node, at: second * 1000, by: 'agent', how: 'fence' }) as unknown as Event;
const cause = (second: number, more: Partial<Cause> = {}): Event => ({
  kind: 'cause',
  at: second * 1000,
  what: 'its storage fails',
  guest: 'g',
  excuses: ['restart'],
  ...more,
});
const node = (kind: 'node-off' | 'node-fenced', second: number, name = 'node1'): Event => ({
  kind,
  at: second * 1000,
  node: name,
});
const atRest = (second: number, ...activeOn: string[]): Event => ({
  kind: 'at-rest',
  guest: 'g',
  at: second * 1000,
  activeOn,
});

/** The guest boots and writes on node1; at second 10 its storage fails, and it is proved to be safe at second 12. */
const FAULT: Event[] = [
  booted(2, 'node1', 1, 0),
  holders(2, 100),
  wrote(3, 1, 1),
  told(3, 'node1', 1),
  wrote(9, 1, 50),
  told(9, 'node1', 50),
  cause(10),
  holders(12, ...[]),
];
/** It boots and writes on node2 from second 20 on. */
const ELSEWHERE: Event[] = [
  booted(21, 'node2', 2, 50),
  holders(21, 200),
  wrote(22, 2, 51),
  told(22, 'node2', 51),
  wrote(40, 2, 200),
  told(40, 'node2', 200),
];
const PRESERVED = [life(FIRST, 1, 60), life(SECOND, 20, 60)];
const DESTROYED = [life(FIRST, 1, 13, gone(14)), life(SECOND, 20, 60)];

interface Case {
  readonly lives?: readonly Life[];
  readonly events: readonly Event[];
}

function rules({ lives = PRESERVED, events }: Case): Rule[] {
  return [...new Set(check({ lives, events }).map(({ rule }) => rule))];
}

const failover = (...more: Event[]): Event[] => [...FAULT, on('proved', 12), ...ELSEWHERE, ...more];

interface Pair {
  readonly rule: Rule;
  readonly bad: readonly [what: string, history: Case];
  readonly good: readonly [what: string, history: Case];
}

/** For each violation, a history that differs as little as can be and holds none. */
const PAIRS: readonly Pair[] = [
  {
    rule: 'one-writer',
    bad: [
      'a boot that writes after a later one has begun',
      { lives: DESTROYED, events: [...FAULT, on('ended', 14), ...ELSEWHERE, wrote(41, 1, 201)] },
    ],
    good: [
      'a boot that writes on',
      { lives: DESTROYED, events: [...FAULT, on('ended', 14), ...ELSEWHERE, wrote(41, 2, 201)] },
    ],
  },
  {
    rule: 'one-writer',
    bad: ['another instance that writes as the same boot', { events: failover(wrote(41, 2, 201, 7)) }],
    good: ['the same instance that writes as the same boot', { events: failover(wrote(41, 2, 201, 0x2000)) }],
  },
  {
    rule: 'one-writer',
    bad: ['two processes that hold the image', { events: failover(holders(41, 200, 300)) }],
    good: ['one process after the other', { events: failover(holders(41), holders(42, 300)) }],
  },
  {
    rule: 'one-writer',
    bad: [
      'a tick that is done on two nodes',
      { events: failover(told(41, 'node2', 201), told(42, 'node3', 201)) },
    ],
    good: [
      'a tick on one node and the next on another, as after a migration',
      { events: failover(told(41, 'node2', 201), wrote(42, 2, 202), told(42, 'node3', 202)) },
    ],
  },
  {
    rule: 'one-writer',
    bad: [
      'two guests that count the same boot',
      { events: failover(cause(30), booted(41, 'node2', 3, 200), booted(42, 'node3', 3, 200)) },
    ],
    good: ['one that counts the next', { events: failover(cause(30), booted(41, 'node2', 3, 200)) }],
  },
  {
    rule: 'safe-start',
    bad: ['a start while the first is alive and nothing is proved', { events: [...FAULT, ...ELSEWHERE] }],
    good: ['a start after the proof', { events: failover() }],
  },
  {
    rule: 'safe-start',
    bad: ['a proof that comes after the start', { events: [...FAULT, on('proved', 20.1), ...ELSEWHERE] }],
    good: ['a proof that comes just before it', { events: [...FAULT, on('proved', 19.9), ...ELSEWHERE] }],
  },
  {
    rule: 'safe-start',
    bad: ['a proof on another node', { events: [...FAULT, on('proved', 12, 'node3'), ...ELSEWHERE] }],
    good: ['a proof on this node', { events: [...FAULT, on('proved', 12, 'node1'), ...ELSEWHERE] }],
  },
  {
    rule: 'safe-start',
    bad: [
      'a proof of an earlier qemu',
      {
        lives: [
          life({ node: 'node1', pid: 90 }, 0, 12.5, gone(12.6)),
          life(FIRST, 13, 60),
          life(SECOND, 20, 60),
        ],
        events: failover(),
      },
    ],
    good: [
      'a proof of this one, and one of an earlier',
      {
        lives: [
          life({ node: 'node1', pid: 90 }, 0, 12.5, gone(12.6)),
          life(FIRST, 13, 60),
          life(SECOND, 20, 60),
        ],
        events: failover(on('proved', 15)),
      },
    ],
  },
  {
    rule: 'safe-start',
    bad: ['a start after the preserved guest was resumed', { events: failover(on('resumed', 15)) }],
    good: [
      'a start after it was resumed and proved again',
      { events: failover(on('resumed', 14), on('proved', 15)) },
    ],
  },
  {
    rule: 'safe-start',
    bad: [
      'a start elsewhere after the first has died, of which nobody has made sure',
      { lives: DESTROYED, events: [...FAULT, ...ELSEWHERE] },
    ],
    good: [
      'a start elsewhere after a finished fencing stage',
      { lives: DESTROYED, events: [...FAULT, on('ended', 14), ...ELSEWHERE] },
    ],
  },
  {
    rule: 'safe-start',
    bad: [
      'a start elsewhere before the node is off',
      { lives: DESTROYED, events: [...FAULT, ...ELSEWHERE, node('node-off', 21)] },
    ],
    good: [
      'a start elsewhere after its node is off',
      { lives: DESTROYED, events: [...FAULT, node('node-off', 14), ...ELSEWHERE] },
    ],
  },
  {
    rule: 'safe-start',
    bad: [
      'a fencing stage that is said to be finished while the process lives',
      { events: [...FAULT, on('ended', 14), ...ELSEWHERE] },
    ],
    good: [
      'a start on the same node, after the first has died there',
      {
        lives: [life(FIRST, 1, 13, gone(14)), life({ node: 'node1', pid: 300 }, 20, 60)],
        events: [...FAULT, booted(21, 'node1', 2, 50), wrote(22, 2, 51)],
      },
    ],
  },
  {
    rule: 'safe-start',
    bad: [
      'a start elsewhere while the journal was in order',
      {
        lives: DESTROYED,
        events: [...FAULT, { kind: 'journal-lost', at: 25_000, until: 30_000, node: 'node1' }, ...ELSEWHERE],
      },
    ],
    good: [
      'a start elsewhere of which the journal could not tell',
      {
        lives: DESTROYED,
        events: [...FAULT, { kind: 'journal-lost', at: 12_000, until: 15_000, node: 'node1' }, ...ELSEWHERE],
      },
    ],
  },
  {
    rule: 'safe-start',
    bad: [
      'a start elsewhere, of which the journal lost nothing but what was due long before',
      {
        lives: DESTROYED,
        events: [...FAULT, { kind: 'journal-lost', at: 4000, until: 7000, node: 'node1' }, ...ELSEWHERE],
      },
    ],
    good: [
      'a start elsewhere, of which the journal may have lost the line right after the last write',
      {
        lives: DESTROYED,
        events: [...FAULT, { kind: 'journal-lost', at: 4000, until: 9000, node: 'node1' }, ...ELSEWHERE],
      },
    ],
  },
  {
    rule: 'safe-start',
    bad: [
      'a resume after the guest has run elsewhere',
      { events: failover(on('resuming', 44), on('resumed', 45)) },
    ],
    good: [
      'a resume after a qemu elsewhere that has never written',
      {
        lives: [life(FIRST, 1, 60), life(SECOND, 20, 22, gone(23))],
        events: [...FAULT, on('proved', 12), on('resuming', 44), on('resumed', 45)],
      },
    ],
  },
  {
    rule: 'safe-start',
    bad: [
      'a qemu that is no migration’s beside a healthy one',
      { events: [...FAULT.filter(({ kind }) => kind !== 'cause')], lives: PRESERVED },
    ],
    good: [
      'one that waits for a live migration',
      {
        events: [...FAULT.filter(({ kind }) => kind !== 'cause')],
        lives: [life(FIRST, 1, 60), life(SECOND, 20, 60, { incoming: true })],
      },
    ],
  },
  {
    rule: 'no-lost-write',
    bad: [
      'a boot that does not find what was told before',
      { events: [...FAULT, on('proved', 12), booted(21, 'node2', 2, 49), wrote(22, 2, 51)] },
    ],
    good: [
      'a boot that finds more than was told',
      { events: [...FAULT, on('proved', 12), booted(21, 'node2', 2, 51), wrote(22, 2, 52)] },
    ],
  },
  {
    rule: 'no-lost-write',
    bad: ['a disk that goes back', { events: failover(wrote(41, 2, 199)) }],
    good: ['a disk that stands still', { events: failover(wrote(41, 2, 200)) }],
  },
  {
    rule: 'no-lost-write',
    bad: [
      'a tick that was told and is not on the disk at last',
      { events: failover(told(41, 'node2', 201), wrote(50, 2, 200)) },
    ],
    good: [
      'a tick that was told after the last look at the disk',
      { events: failover(wrote(50, 2, 200), told(51, 'node2', 201)) },
    ],
  },
  {
    rule: 'preserved-is-still',
    bad: ['a preserved guest that holds its image again', { events: failover(holders(30, 100)) }],
    good: ['another one that holds the image', { events: failover(holders(30, 200)) }],
  },
  {
    rule: 'preserved-is-still',
    bad: [
      'a preserved guest that has never let go of its image',
      {
        lives: [life(FIRST, 1, 60)],
        events: [...FAULT.filter((each) => each.at !== 12_000), on('proved', 12)],
      },
    ],
    good: [
      'one that was seen to have let go of it, at the first look after the proof',
      {
        lives: [life(FIRST, 1, 60)],
        events: [
          ...FAULT.filter((each) => each.at !== 12_000),
          on('proved', 12),
          { ...holders(12.1), after: 11_999 } as Event,
        ],
      },
    ],
  },
  {
    rule: 'preserved-is-still',
    bad: [
      'a preserved guest that lets go of its image only some time after the proof',
      {
        lives: [life(FIRST, 1, 60)],
        events: [...FAULT.filter((each) => each.at !== 12_000), on('proved', 12), holders(13)],
      },
    ],
    good: [
      'one that lets go of it after it was resumed',
      {
        lives: [life(FIRST, 1, 60)],
        events: [
          ...FAULT.filter((each) => each.at !== 12_000),
          on('proved', 12),
          on('resumed', 12.5),
          holders(13),
        ],
      },
    ],
  },
  {
    rule: 'preserved-is-still',
    bad: [
      'a guest that was resumed, preserved a second time, and holds its image then',
      {
        lives: [life(FIRST, 1, 60)],
        events: failover(on('resumed', 14), on('proved', 16), holders(18, 100)).filter(
          (each) => each.at < 20_000,
        ),
      },
    ],
    good: [
      'a guest that was resumed, preserved a second time, and held its image in between',
      {
        lives: [life(FIRST, 1, 60)],
        events: failover(
          on('resumed', 14),
          holders(15, 100),
          holders(15.5),
          on('proved', 16),
          holders(18, 200),
        ).filter((each) => each.at < 20_000),
      },
    ],
  },
  {
    rule: 'preserved-is-still',
    bad: [
      'a preserved guest that says what is on no disk',
      { lives: [life(FIRST, 1, 60)], events: [...FAULT, on('proved', 12), told(15, 'node1', 51)] },
    ],
    good: [
      'what was said before the proof, and is logged late',
      {
        lives: [life(FIRST, 1, 60)],
        events: [...FAULT, wrote(11.9, 1, 51), on('proved', 12), told(15, 'node1', 51)],
      },
    ],
  },
  {
    rule: 'preserved-is-still',
    bad: [
      'a preserved guest that boots',
      { lives: [life(FIRST, 1, 60)], events: [...FAULT, on('proved', 12), booted(15, 'node1', 2, 50)] },
    ],
    good: [
      'a guest that is started anew where its preserved copy was released',
      {
        lives: [life(FIRST, 1, 13, gone(14)), life({ node: 'node1', pid: 300 }, 14.5, 60)],
        events: [...FAULT, on('proved', 12), booted(15, 'node1', 2, 50)],
      },
    ],
  },
  {
    rule: 'preserved-is-still',
    bad: [
      'a preserved guest that says more than the next one has found',
      {
        lives: PRESERVED,
        events: [...FAULT, on('proved', 12), ...ELSEWHERE.slice(0, 2), told(25, 'node1', 51)],
      },
    ],
    good: [
      'one of which the next one has found what it says',
      {
        lives: PRESERVED,
        events: [...FAULT, on('proved', 12), booted(21, 'node2', 2, 51), told(25, 'node1', 51)],
      },
    ],
  },
  {
    rule: 'preserved-is-still',
    bad: ['a preserved guest that writes', { events: [...FAULT, on('proved', 12), wrote(15, 1, 51)] }],
    good: [
      'a guest that was resumed on purpose and writes',
      {
        lives: [life(FIRST, 1, 60)],
        events: [...FAULT, on('proved', 12), on('resumed', 14), wrote(15, 1, 51)],
      },
    ],
  },
  {
    rule: 'preserved-is-still',
    bad: [
      'a preserved guest that holds its image long after a resume that was called before it was preserved',
      {
        lives: [life(FIRST, 1, 160)],
        events: [...FAULT, on('resuming', 11), on('proved', 112), holders(120, 100)],
      },
    ],
    good: [
      'a guest that is resumed by a call that has waited for its quiesce',
      {
        lives: [life(FIRST, 1, 60)],
        events: [...FAULT, on('resuming', 11), on('proved', 12), holders(20, 100)],
      },
    ],
  },
  {
    rule: 'healthy-stays',
    bad: [
      'a guest that boots again though nothing was done to it',
      {
        lives: DESTROYED,
        events: [...FAULT.filter(({ kind }) => kind !== 'cause'), on('ended', 14), ...ELSEWHERE],
      },
    ],
    good: [
      'a guest that boots again after something was done to it',
      { lives: DESTROYED, events: [...FAULT, on('ended', 14), ...ELSEWHERE] },
    ],
  },
  {
    rule: 'healthy-stays',
    bad: [
      'a guest that boots again after something was done to another node',
      {
        lives: DESTROYED,
        events: [
          ...FAULT.filter(({ kind }) => kind !== 'cause'),
          cause(10, { guest: undefined, node: 'node3' }),
          on('ended', 14),
          ...ELSEWHERE,
        ],
      },
    ],
    good: [
      'a guest that boots again after something was done to its node',
      {
        lives: DESTROYED,
        events: [
          ...FAULT.filter(({ kind }) => kind !== 'cause'),
          cause(10, { guest: undefined, node: 'node1' }),
          on('ended', 14),
          ...ELSEWHERE,
        ],
      },
    ],
  },
  {
    rule: 'healthy-stays',
    bad: [
      'one cause and two boots',
      { lives: DESTROYED, events: [...FAULT, on('ended', 14), ...ELSEWHERE, wrote(50, 3, 201)] },
    ],
    good: [
      'a guest that migrates, and goes on as the same boot',
      {
        lives: [life(FIRST, 1, 13, gone(14)), life(SECOND, 10, 60, { incoming: true })],
        events: [...FAULT, wrote(22, 1, 51)],
      },
    ],
  },
  {
    rule: 'no-needless-fencing',
    bad: ['a node that is fenced for nothing', { lives: [], events: [node('node-fenced', 10)] }],
    good: [
      'a node that is fenced after it was cut off',
      {
        lives: [],
        events: [
          cause(9, { guest: undefined, node: 'node1', excuses: ['fencing'] }),
          node('node-fenced', 10),
        ],
      },
    ],
  },
  {
    rule: 'no-needless-fencing',
    bad: [
      'a node that is fenced after another one was cut off',
      {
        lives: [],
        events: [
          cause(9, { guest: undefined, node: 'node2', excuses: ['fencing'] }),
          node('node-fenced', 10),
        ],
      },
    ],
    good: [
      'a node that is fenced after something was done to the whole cluster',
      {
        lives: [],
        events: [
          { kind: 'cause', at: 9000, what: 'the network loses', excuses: ['fencing'] },
          node('node-fenced', 10),
        ],
      },
    ],
  },
  {
    rule: 'safe-start',
    bad: [
      'a start beside an unproved guest that was started as ever',
      { lives: PRESERVED, events: [...FAULT, ...ELSEWHERE] },
    ],
    good: [
      'a start beside one that an operator has started past the cluster',
      {
        lives: [life(FIRST, 1, 60, { byHand: true }), life(SECOND, 20, 60)],
        events: [...FAULT, ...ELSEWHERE],
      },
    ],
  },
  {
    rule: 'known-to-cluster',
    bad: ['a qemu that the cluster does not know of', { events: failover(atRest(50, 'node3')) }],
    good: ['a qemu that it knows of beside one that is preserved', { events: failover(atRest(50, 'node2')) }],
  },
  {
    rule: 'known-to-cluster',
    bad: ['a guest that it has twice', { events: failover(atRest(50, 'node1', 'node2')) }],
    good: [
      'a guest that it has nowhere, whose qemu is gone',
      { lives: [life(FIRST, 1, 13, gone(14))], events: [...FAULT, atRest(50)] },
    ],
  },
];

describe('the checker of a history', () => {
  for (const { rule, bad, good } of PAIRS) {
    it(`rejects ${bad[0]}, and accepts ${good[0]}`, () => {
      assert.deepEqual(rules(bad[1]), [rule]);
      assert.deepEqual(check({ lives: good[1].lives ?? PRESERVED, events: good[1].events }), []);
    });
  }

  it('does not mind in which order the events are given', () => {
    const events = failover(told(41, 'node2', 201), told(42, 'node3', 201));
    assert.deepEqual(
      check({ lives: PRESERVED, events: events.toReversed() }),
      check({ lives: PRESERVED, events }),
    );
  });

  it('keeps the guests apart', () => {
    const other = failover().map((event) =>
      'guest' in event && event.guest === 'g' ? { ...event, guest: 'h' } : event,
    );
    const lives = [...PRESERVED, ...PRESERVED.map((each) => ({ ...each, guest: 'h' }))];
    assert.deepEqual(check({ lives, events: [...failover(), ...other] }), []);
  });
});

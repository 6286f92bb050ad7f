import assert from 'node:assert/strict';
import { test } from 'node:test';
import { torment } from '../nemesis/nemesis.ts';

/** In these rounds a qemu, libvirtd and a watcher are killed and a storage fails, and operators are in the way. */
const SEED = 4;
const ROUNDS = 2;

/** What must hold however slow the machine is. On one that is too slow the cluster itself may take a node for lost. */
const SAFETY = [
  ...(['one-writer', 'safe-start', 'no-lost-write'] as const),
  ...(['preserved-is-still', 'known-to-cluster'] as const),
];

const AGAIN = `The same again: node test/nemesis/soak.ts --short --seconds 0 --seed ${SEED} --rounds ${ROUNDS} --watcher yes`;

test('guests that are tormented run once at a time, lose nothing, and run again', async (context) => {
  const { finding, history } = await torment({
    ...{ seed: SEED, rounds: ROUNDS, watcher: true, short: true, rules: SAFETY },
    tell: (line) => context.diagnostic(line),
  });
  assert.equal(finding, undefined, finding?.text && `${finding.text}\n\n${AGAIN}`);
  // A recorder that sees nothing would leave the checker nothing to object to.
  for (const kind of ['wrote', 'told', 'booted', 'holders', 'at-rest']) {
    const wasSeen = history.events.some((event) => event.kind === kind);
    assert.ok(wasSeen, `no event of the kind ${kind} was seen`);
  }
});

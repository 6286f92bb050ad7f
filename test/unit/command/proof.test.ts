import assert from 'node:assert/strict';
import { test } from 'node:test';
import { itemsOf, type ProofReport, renderProof } from '../../../agent/command/proof.ts';
import { PROOF_ITEMS, type Proof } from '../../../lib/quiesce/proof.ts';

const head = { name: 'web', uuid: null, state: 'quiesced-failover-safe', reason: 'what was seen' } as const;
const whole: Proof = Object.fromEntries(
  PROOF_ITEMS.map((item) => [item, { holds: true, seen: `${item} seen` }]),
);

function proofOf(proof: Proof, complete: boolean): ProofReport {
  const since = '2026-11-25T02:01:07.123Z';
  return { ...head, kind: 'proof', complete, fault: 'io-error', since, items: itemsOf(proof) };
}

test('a complete proof is shown item by item, with what was seen', () => {
  const lines = renderProof(proofOf(whole, true)).trimEnd().split('\n');
  assert.equal(lines[0], 'web is quiesced-failover-safe, hit by io-error, since 2026-11-25T02:01:07Z');
  assert.equal(lines.length, PROOF_ITEMS.length + 2);
  assert.equal(lines[1], '  holds          qemu-alive            qemu-alive seen');
  assert.match(lines.at(-1) ?? '', /^The proof is complete/);
});

test('an item that is missing or does not hold is shown as such', () => {
  const { 'qemu-alive': _, ...rest } = whole;
  const text = renderProof(
    proofOf(
      { ...rest, 'images-released': { holds: false, seen: 'a lock through file descriptor 13' } },
      false,
    ),
  );
  assert.match(text, /^ {2}DOES NOT HOLD {2}qemu-alive +it was not seen/m);
  assert.match(text, /^ {2}DOES NOT HOLD {2}images-released +a lock through file descriptor 13$/m);
  assert.match(text, /The proof is NOT complete: the guest must not run on another node/);
});

test('the reasons why a guest could not be quiesced are listed', () => {
  const assessment = { ...head, state: 'running', kind: 'assessment' } as const;
  assert.equal(
    renderProof({ ...assessment, possible: false, refused: ['device a is unknown', 'object b\nis unknown'] }),
    'web is running: what was seen\n' +
      '  refused: device a is unknown\n' +
      '  refused: object b is unknown\n' +
      'It could not be proved failover-safe.\n',
  );
  assert.match(renderProof({ ...assessment, possible: true, refused: [] }), /It could be quiesced now/);
});

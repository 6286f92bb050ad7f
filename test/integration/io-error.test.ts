import assert from 'node:assert/strict';
import { rmSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { JOURNAL } from '../../lib/journal.ts';
import { isComplete, type Proof } from '../../lib/quiesce/proof.ts';
import { Fault } from '../fault/fault.ts';
import { answers, Host } from '../support/host.ts';
import { journal } from '../support/watch.ts';

let host: Host;
before(async () => {
  host = await Host.up();
});
after(() => host[Symbol.asyncDispose]());

describe('an I/O error of a guest', () => {
  test('is told from a full storage, for which QEMU takes it that has had one before', async () => {
    const guest = await host.running('first');
    const fault = new Fault(host.node, guest.fault);
    fault.set('NW', 'first.img');
    await guest.untilState('paused (I/O error)');
    answers(await guest.monitor(), 0);
    fault.clear();
    await host.virsh('resume', 'first');
    await guest.ticks();
    answers(await guest.monitor(), 0);

    fault.set('W', 'first.img');
    await guest.untilState('paused (I/O error)');
    const blocks = JSON.stringify(await guest.qmp('query-block'));
    assert.match(blocks, /"io-status":"nospace"/, 'QEMU has learnt to tell: lib/record/io-error.ts may go');
    answers(await guest.probe(), 1);
    answers(await guest.monitor(), 7, /quiesced-failover-safe/);
    answers(await guest.stop(), 0);
  });

  test('leaves the proof that a stop rests on in the journal, also where who has quiesced it could not', async () => {
    const guest = await host.running('killed');
    new Fault(host.node, guest.fault).set('W', guest.disk);
    await guest.untilState('paused (I/O error)');
    answers(await guest.monitor(), 7, /quiesced-failover-safe/);
    rmSync(host.node.path(JOURNAL));
    answers(await guest.stop(), 0);
    const proofs = journal(host.node, guest.name).map(({ state, proof }) => ({
      state,
      complete: isComplete(proof as Proof),
    }));
    assert.deepEqual(proofs, [{ state: 'quiesced-failover-safe', complete: true }]);
  });
});

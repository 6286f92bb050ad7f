import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { Fault } from '../fault/fault.ts';
import { answers, Host } from '../support/host.ts';

let host: Host;
before(async () => {
  host = await Host.up();
});
after(() => host[Symbol.asyncDispose]());

describe('an I/O error of a guest that has had another one', () => {
  test('is told from a full storage, which QEMU still takes it for', async () => {
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
});

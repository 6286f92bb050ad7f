import assert from 'node:assert/strict';
import { test } from 'node:test';
import { folderFor, renderManifest, whyWithoutMemory } from '../../../agent/command/postmortem.ts';
import type { Manifest } from '../../../lib/guest/postmortem.ts';

const manifest: Manifest = {
  node: 'node1',
  guest: { name: 'web', uuid: null, resource: null },
  begun: '',
  ended: '',
  state: 'quiesced-failover-safe',
  reason: '',
  fault: 'io-error',
  qemu: { pid: 318, arguments: [] },
  complete: true,
  files: [{ name: 'memory.elf', bytes: 1024 ** 3, sha256: '' }],
  missing: [],
};

test('each post-mortem gets a folder of its own, whatever the guest is called', () => {
  const moment = new Date('2026-11-25T02:01:07.123Z');
  assert.equal(folderFor('web', moment, '/dumps'), '/dumps/web-2026-11-25T02-01-07Z');
  assert.equal(folderFor('a/../b c', moment, '/dumps'), '/dumps/a%2F..%2Fb%20c-2026-11-25T02-01-07Z');
});

test('memory is dumped unless it was not to be, or reading it would end qemu', () => {
  assert.equal(whyWithoutMemory(undefined, 'io-error'), undefined);
  assert.equal(whyWithoutMemory(undefined, undefined), undefined);
  assert.match(whyWithoutMemory(false, 'io-error') ?? '', /--no-memory/);
  assert.match(whyWithoutMemory(undefined, 'memory-failure') ?? '', /--memory dumps it all the same/);
  assert.equal(whyWithoutMemory(true, 'memory-failure'), undefined);
});

test('what was collected is listed, and what is missing', () => {
  assert.match(
    renderManifest('/d', manifest),
    /^ {2}memory\.elf {2}1\.0 GiB\nThe post-mortem in \/d is complete/,
  );
  const missing = [{ name: 'memory.elf', why: 'no\nspace' }];
  assert.match(
    renderManifest('/d', { ...manifest, complete: false, files: [], missing }),
    /^ {2}missing: memory\.elf: no space\nThe post-mortem in \/d is NOT complete/,
  );
});

import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { describe, it } from 'node:test';
import { OCF, OcfFailure } from '../../lib/ocf.ts';

const RETURN_CODES = '/usr/lib/ocf/lib/heartbeat/ocf-returncodes';

describe('OCF', () => {
  it('has the codes of ocf-returncodes', async (t) => {
    const shell = await readFile(RETURN_CODES, 'utf8').catch(() => undefined);
    if (shell === undefined) {
      t.skip('resource-agents is not installed');
      return;
    }
    const codes = new Map<string, number>(Object.entries(OCF));
    let compared = 0;
    for (const [, name = '', value] of shell.matchAll(/^OCF_([A-Z_]+)=([0-9]+)$/gm)) {
      if (codes.has(name)) {
        assert.equal(codes.get(name), Number(value), name);
        compared += 1;
      }
    }
    assert.ok(compared >= 8);
  });
});

describe('OcfFailure', () => {
  it('carries the code, the exit reason and the failure beneath', () => {
    const cause = new Error('beneath');
    const failure = new OcfFailure(OCF.ERR_INSTALLED, 'no config', { cause });
    assert.equal(failure.code, 5);
    assert.equal(failure.message, 'no config');
    assert.equal(failure.cause, cause);
  });
});

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { describeError } from '../../../lib/host/host-error.ts';
import { errorOfTrigger } from '../../../lib/host/rasdaemon.ts';

function words(variables: Record<string, string>): string {
  const found = errorOfTrigger(variables);
  assert.ok(found);
  return `${found.event}: ${describeError(found.error)}`;
}

describe("a trigger of rasdaemon's", () => {
  it('tells of an error of memory', () => {
    assert.equal(
      words({
        TIMESTAMP: '2026-01-01 00:00:00 +0000',
        COUNT: '1',
        TYPE: 'Uncorrected',
        MESSAGE: 'memory read error',
        LABEL: 'DIMM_A1',
        MC_INDEX: '0',
        TOP_LAYER: '0',
        MIDDLE_LAYER: '1',
        LOWER_LAYER: '-1',
        ADDRESS: '1e2b6a000',
        GRAIN: '7',
        SYNDROME: '0',
        DRIVER_DETAIL: '',
      }),
      'mc_event: mc0 DIMM_A1: uncorrected error, memory read error (address 0x1e2b6a000)',
    );
  });

  it('tells of a lost page', () => {
    assert.equal(
      words({ PFN: '0x76e3', PAGE_TYPE: 'dirty LRU page', ACTION_RESULT: 'Recovered' }),
      'memory_failure_event: memory: uncorrected error, a page was lost: dirty LRU page, Recovered (address 0x76e3000)',
    );
  });

  it('tells of an error of a PCI device, in the words of old versions and new ones', () => {
    for (const [type, severity] of [
      ['Corrected', 'corrected'],
      ['Uncorrected (Non-Fatal)', 'uncorrected'],
      ['Uncorrected (Fatal)', 'fatal'],
    ]) {
      const expected = `aer_event: 0000:3b:00.0: ${severity} error, Bad TLP`;
      assert.equal(words({ ERROR_TYPE: type ?? '', DEV_NAME: '0000:3b:00.0', MSG: 'Bad TLP' }), expected);
      assert.equal(words({ TYPE: type ?? '', NAME: '0000:3b:00.0', MESSAGE: 'Bad TLP' }), expected);
    }
  });

  it('tells of a machine check', () => {
    assert.equal(
      words({
        MCGSTATUS: '0x7',
        STATUS: '0xbd80000000100134',
        BANK: '1',
        CPU: '3',
        ERROR_MSG: 'Data CACHE error',
      }),
      'mce_record: cpu 3: uncorrected error, Data CACHE error',
    );
  });

  it('tells nothing where it is none', () => {
    assert.equal(errorOfTrigger({ PATH: '/bin', HOME: '/root', TYPE: 'x' }), undefined);
  });

  it('tells an error or nothing, whatever the variables hold', () => {
    const names = ['PFN', 'PAGE_TYPE', 'MC_INDEX', 'TYPE', 'COUNT', 'ADDRESS', 'NAME', 'BANK', 'MCGSTATUS'];
    fc.assert(
      fc.property(fc.dictionary(fc.constantFrom(...names), fc.string({ unit: 'binary' })), (variables) => {
        const found = errorOfTrigger(variables);
        assert.ok(found === undefined || found.error.count >= 1);
      }),
    );
  });
});

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import {
  attributeText,
  clearPreserved,
  faultAttribute,
  isMarked,
  markPreserved,
  preservedAttribute,
} from '../../../lib/cluster/placement.ts';
import { Deadline } from '../../../lib/deadline.ts';

describe('the names of the attributes', () => {
  it('are those of the configured resource', () => {
    assert.equal(preservedAttribute('web-1'), 'kvmha-preserved-web-1');
    assert.equal(preservedAttribute('web:1'), 'kvmha-preserved-web');
    assert.equal(faultAttribute('web:12'), 'kvmha-fault-web');
  });
});

describe('attributeText', () => {
  it('is one line of printable ASCII', () => {
    assert.equal(attributeText(' I/O error\n on\t"vda" <5> '), 'I/O error on "vda" <5>');
    assert.equal(attributeText('gestört \x1b[31m\x07 🙂\u202e'), 'gest?rt ?[31m? ??');
  });

  it('has at most 200 characters', () => {
    assert.equal(attributeText('x'.repeat(200)).length, 200);
    assert.match(attributeText('x'.repeat(201)), /^x{197}\.\.\.$/);
  });

  it('is never empty, which would remove the attribute', () => {
    assert.equal(attributeText(' \n'), 'unknown');
  });
});

describe('marks', () => {
  it('do not throw where no cluster runs', async () => {
    const deadline = Deadline.in(10_000);
    assert.equal((await markPreserved('g1', 'I/O error', deadline)).kind, 'none');
    assert.equal((await clearPreserved('g1', deadline)).kind, 'none');
    assert.equal((await isMarked('g1', 'node1', deadline)).kind, 'none');
    assert.equal((await markPreserved('g1', 'I/O error', Deadline.in(0))).kind, 'silent');
  });
});

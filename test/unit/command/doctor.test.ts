import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { exitCodeOf, renderFindings } from '../../../agent/command/doctor-report.ts';
import type { Finding } from '../../../lib/doctor/finding.ts';

const finding = (severity: Finding['severity']): Finding => ({
  rule: 'a-rule',
  severity,
  subject: 'web\u001b[31m',
  reason: 'it is\nbroken',
  fix: 'mend it',
});

describe('exitCodeOf', () => {
  it('is that of the worst finding', () => {
    assert.equal(exitCodeOf([]), 0);
    assert.equal(exitCodeOf([finding('note')]), 0);
    assert.equal(exitCodeOf([finding('note'), finding('warning')]), 1);
    assert.equal(exitCodeOf([finding('warning'), finding('error')]), 3);
  });
});

describe('renderFindings', () => {
  it('shows each finding with its severity, its reason and what to do, and counts them', () => {
    const text = renderFindings({
      node: 'node1',
      guests: ['web'],
      findings: [finding('error'), finding('note')],
    });
    assert.match(text, /^error web \[31m: it is broken \[a-rule\]\n {4}mend it$/m);
    assert.match(text, /^node1, guest web: 1 error, 0 warnings, 1 note\n$/m);
  });

  it('gives only the severity a colour, and none unless it is told to', () => {
    const report = { node: 'n', guests: [], findings: [finding('error')] };
    assert.ok(!renderFindings(report).includes('\u001b'));
    assert.match(
      renderFindings(report, (colour, text) => `<${colour}>${text}</>`),
      /^<red>error<\/> web/,
    );
  });
});

/** How bad a finding is. */
export const SEVERITIES = [
  /** Failover fails, or would be unsafe. */
  'error',
  /** Failover works less well, or fails under some circumstances. */
  'warning',
  /** Good to know; nothing has to be done. */
  'note',
] as const;
export type Severity = (typeof SEVERITIES)[number];

/** One thing that the doctor has found. */
export interface Finding {
  /** The rule that found it: the same word in every version. */
  readonly rule: string;
  readonly severity: Severity;
  /** What it is about: a guest, a node, or `cluster`. */
  readonly subject: string;
  /** What is wrong and why that matters: a sentence without a full stop. */
  readonly reason: string;
  /** A command or a line of a configuration to paste, or words where there is none. */
  readonly fix: string;
}

/** The worst first, and what is about the same together. */
export function sorted(findings: readonly Finding[]): Finding[] {
  return [...findings].sort(
    (one, other) =>
      SEVERITIES.indexOf(one.severity) - SEVERITIES.indexOf(other.severity) ||
      one.subject.localeCompare(other.subject) ||
      one.rule.localeCompare(other.rule),
  );
}

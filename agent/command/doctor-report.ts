import { collectFacts } from '../../lib/doctor/collect/facts.ts';
import type { Finding, Severity } from '../../lib/doctor/finding.ts';
import { judge } from '../../lib/doctor/judge.ts';
import { isKvmhaError, messageOf } from '../../lib/error.ts';
import { print, printError } from '../output.ts';
import { deadlineOf, demandRoot } from './chosen.ts';
import { type Colour, type Paint, paintForOutput, unpainted } from './colour.ts';
import { plain } from './console.ts';
import { EXIT, type ExitCode } from './exit.ts';
import type { CommonOptions } from './main.ts';

export type DoctorOptions = CommonOptions & { readonly json?: true };

/** What `kvmha doctor --json` prints. */
export interface DoctorReport {
  readonly node: string;
  readonly time: string;
  readonly guests: readonly string[];
  readonly findings: readonly Finding[];
}

/** `kvmha doctor`. */
export async function doctor(word: string | undefined, options: DoctorOptions): Promise<ExitCode> {
  demandRoot();
  let report: DoctorReport;
  try {
    const { facts, only } = await collectFacts(options.connect, word, deadlineOf(options));
    report = {
      node: facts.node,
      time: new Date().toISOString(),
      guests: only === undefined ? facts.guests.map(({ name }) => name) : [only],
      findings: judge(facts, only),
    };
  } catch (error) {
    if (isKvmhaError(error)) {
      printError(`kvmha: ${plain(messageOf(error))}\n`);
      return EXIT.ERRORS;
    }
    throw error;
  }
  print(options.json ? `${JSON.stringify(report, null, 2)}\n` : renderFindings(report, paintForOutput()));
  return exitCodeOf(report.findings);
}

/** The exit code that the worst finding calls for. */
export function exitCodeOf(findings: readonly Finding[]): ExitCode {
  if (findings.some(({ severity }) => severity === 'error')) {
    return EXIT.ERRORS;
  }
  return findings.some(({ severity }) => severity === 'warning') ? EXIT.FAILED : EXIT.DONE;
}

const COLOURS: Readonly<Record<Severity, Colour>> = {
  error: 'red',
  warning: 'yellow',
  note: 'cyan',
};

/** The findings for a terminal. */
export function renderFindings(
  { node, guests, findings }: Omit<DoctorReport, 'time'>,
  paint: Paint = unpainted,
): string {
  const blocks = findings.map(
    ({ rule, severity, subject, reason, fix }) =>
      `${paint(COLOURS[severity], severity)} ${plain(subject)}: ${plain(reason)} [${rule}]\n    ${plain(fix)}\n`,
  );
  const count = (severity: Severity) => findings.filter((finding) => finding.severity === severity).length;
  const counted = [`${count('error')} errors`, `${count('warning')} warnings`, `${count('note')} notes`].map(
    (words) => words.replace(/^(1 .*)s$/, '$1'),
  );
  const about = guests.length === 1 ? `guest ${guests[0]}` : `${guests.length} guests`;
  return `${blocks.join('')}${blocks.length === 0 ? '' : '\n'}${plain(node)}, ${plain(about)}: ${counted.join(', ')}\n`;
}

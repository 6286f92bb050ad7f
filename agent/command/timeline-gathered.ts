import { hostname } from 'node:os';
import { nameOfThisNode } from '../../lib/cluster/cluster-view.ts';
import { surveyCluster } from '../../lib/cluster/survey.ts';
import { Deadline } from '../../lib/deadline.ts';
import { isKvmhaError, KvmhaError, messageOf } from '../../lib/error.ts';
import { merged } from '../../lib/timeline/journal-lines.ts';
import { copiedJournal, fetchedJournal, localJournal, type Source } from '../../lib/timeline/sources.ts';
import { print, printError } from '../output.ts';
import { plain } from './console.ts';
import { EXIT, type ExitCode, UsageError } from './exit.ts';
import { timelinePage } from './timeline-page.ts';
import { renderTimeline, type TimelineReport, timelineProblems } from './timeline-text.ts';
import { writeWhole } from './whole-file.ts';

export interface TimelineOptions {
  /** Seconds for everything together. */
  readonly timeout: number;
  readonly guest?: readonly string[];
  /** ISO 8601. */
  readonly since?: string;
  readonly journal?: readonly string[];
  readonly local?: true;
  readonly ssh?: true;
  readonly json?: true;
  readonly html?: string;
}

/** Milliseconds in which this node's cluster must answer, and another node. */
const CLUSTER_PATIENCE = 10_000;
const SSH_PATIENCE = 20_000;

/** `kvmha timeline`: what happened to guests. */
export async function timeline(words: readonly string[], options: TimelineOptions): Promise<ExitCode> {
  if (options.local && (options.ssh || options.journal !== undefined)) {
    throw new UsageError('--local is this node alone, which --ssh and --journal are not');
  }
  const deadline = Deadline.in(options.timeout * 1000);
  const node = await nameHere(deadline.within(CLUSTER_PATIENCE));
  const sources: Source[] = [];
  const problems: string[] = [];
  const unreachable: { node: string; why: string }[] = [];
  const gather = async (journals: Promise<Source[]>, fail: (why: string) => void) => {
    try {
      sources.push(...(await journals));
    } catch (error) {
      if (!isKvmhaError(error)) {
        throw error;
      }
      fail(messageOf(error));
    }
  };
  await gather(localJournal(node), (why) => problems.push(`${why}. It is for root to read`));
  for (const word of options.journal ?? []) {
    await gather(copiedJournal(word), (why) => problems.push(why));
  }
  if (options.ssh) {
    const others = await otherNodes(deadline.within(CLUSTER_PATIENCE)).catch((error: unknown) => {
      if (!isKvmhaError(error)) {
        throw error;
      }
      problems.push(messageOf(error));
      return [];
    });
    const fetch = (other: string) =>
      gather(fetchedJournal(other, options.since, deadline.within(SSH_PATIENCE)), (why) =>
        unreachable.push({ node: other, why }),
      );
    await Promise.all(others.map(fetch));
  }
  const guests = [...words, ...(options.guest ?? [])];
  const report: TimelineReport = {
    node,
    time: new Date().toISOString(),
    since: options.since ?? null,
    guests,
    sources: sources.map(({ name, node, lines, malformed }) => ({
      name,
      node,
      lines: lines.length,
      malformed,
    })),
    unreachable,
    problems,
    events: merged(
      sources.flatMap(({ lines }) => lines),
      { since: options.since, guests },
    ),
  };
  if (options.html !== undefined) {
    // For root alone, as the journal is.
    writeWhole(options.html, timelinePage(report), 0o600);
    print(`${report.events.length} events are in ${plain(options.html)}\n`);
  } else {
    print(options.json ? `${JSON.stringify(report, null, 1)}\n` : renderTimeline(report));
  }
  printError(options.json ? '' : timelineProblems(report));
  return problems.length === 0 ? EXIT.DONE : EXIT.FAILED;
}

async function nameHere(deadline: Deadline): Promise<string> {
  const name = await nameOfThisNode(deadline);
  return name.kind === 'name' ? name.name : hostname();
}

/** @throws KvmhaError `unreachable` */
async function otherNodes(deadline: Deadline): Promise<string[]> {
  const survey = await surveyCluster(deadline);
  if (survey.kind !== 'cluster') {
    throw new KvmhaError(
      'unreachable',
      `no cluster tells which nodes there are (${survey.why}); give copies of their journals with --journal`,
    );
  }
  return survey.nodes.map(({ name }) => name).filter((name) => name !== survey.localNode);
}

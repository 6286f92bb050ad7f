import { existsSync } from 'node:fs';
import { hostname } from 'node:os';
import { type ClusterSurvey, surveyCluster } from '../../lib/cluster/survey.ts';
import type { Deadline } from '../../lib/deadline.ts';
import { isKvmhaError, messageOf } from '../../lib/error.ts';
import { findGuest, knownGuests } from '../../lib/guest/known-guests.ts';
import { resourceRecordPath } from '../../lib/record/resource-record.ts';
import { hasRunningRecord } from '../../lib/record/running-record.ts';
import { print, printError } from '../output.ts';
import { deadlineOf, demandRoot, nothingKnown } from './chosen.ts';
import { type ClusterReport, clusterReport, isOf } from './cluster-status.ts';
import { paintForOutput } from './colour.ts';
import { EXIT, type ExitCode } from './exit.ts';
import { hostProblems } from './host-health.ts';
import { type Looked, live } from './live.ts';
import type { CommonOptions } from './main.ts';
import { type GuestReport, type Report, reportOnAll, withoutResource } from './report.ts';
import { isWell, renderProblems, renderStatus, type StatusReport } from './status-text.ts';
import { watcherHere } from './watcher-here.ts';

export interface StatusOptions extends CommonOptions {
  readonly json?: true;
  /** Seconds between two looks; undefined for a single one. */
  readonly watch?: number;
}

/** Milliseconds in which the cluster must answer. */
const CLUSTER_PATIENCE = 10_000;

export async function status(word: string | undefined, options: StatusOptions): Promise<ExitCode> {
  demandRoot();
  if (options.watch !== undefined) {
    return watchStatus(word, options, options.watch);
  }
  const report = await observe(word, options);
  if (options.json) {
    print(`${JSON.stringify(report, null, 2)}\n`);
  } else {
    print(renderStatus(report, paintForOutput()));
    printError(renderProblems(report));
  }
  return isWell(report) ? EXIT.DONE : EXIT.FAILED;
}

/** Looks again and again, until it is told to end. A look that fails is shown as such, and another one follows. */
async function watchStatus(
  word: string | undefined,
  options: StatusOptions,
  seconds: number,
): Promise<ExitCode> {
  const paint = paintForOutput();
  const look = async (): Promise<Looked<ExitCode>> => {
    try {
      const report = await observe(word, options);
      const text = options.json
        ? `${JSON.stringify(report)}\n`
        : `${renderStatus(report, paint)}${renderProblems(report)}`;
      return { text, result: isWell(report) ? EXIT.DONE : EXIT.FAILED };
    } catch (error) {
      if (!isKvmhaError(error)) {
        throw error;
      }
      const failure = messageOf(error);
      const text = options.json ? `${JSON.stringify({ failure })}\n` : `kvmha: ${failure}\n`;
      return { text, result: EXIT.FAILED };
    }
  };
  const how = { title: `kvmha status on ${hostname()}`, seconds, bare: options.json === true };
  return (await live(look, how)) ?? EXIT.FAILED;
}

/** @throws KvmhaError `no-domain` when neither this node nor its cluster knows anything of `word` */
async function observe(word: string | undefined, options: StatusOptions): Promise<StatusReport> {
  const deadline = deadlineOf(options);
  // At the same time: a cluster that does not answer leaves no time for what comes after it.
  const [{ known, found, looked }, survey, watcher] = await Promise.all([
    look(word, options, deadline),
    surveyCluster(deadline.within(CLUSTER_PATIENCE)),
    watcherHere(deadline),
  ]);
  const guests = looked.map((each) => asConfigured(each, survey));
  const whole = survey.kind === 'cluster' ? clusterReport(survey, guests, watcher) : null;
  const cluster = whole === null || word === undefined ? whole : only(whole, word);
  if (word !== undefined && found === undefined && !cluster?.guests.length) {
    throw nothingKnown(word, known);
  }
  return {
    node: hostname(),
    time: new Date().toISOString(),
    libvirtSilent: known.libvirtSilent ?? null,
    clusterSilent: survey.kind === 'silent' ? survey.why : null,
    // What is wrong with this node's hardware is no guest's.
    problems: word === undefined ? [...known.problems, ...hostProblems()] : known.problems,
    guests,
    cluster,
  };
}

/** Looks at the guests of this node, or at the one that is meant. */
async function look(word: string | undefined, options: StatusOptions, deadline: Deadline) {
  const known = await knownGuests(options.connect, deadline);
  const found = word === undefined ? undefined : findGuest(known, word);
  const chosen = word === undefined ? known.guests : found === undefined ? [] : [found];
  return { known, found, looked: await reportOnAll(chosen, deadline) };
}

/** A report that promises nothing of a resource that the cluster does not run by kvmha any more. */
function asConfigured(seen: Report, survey: ClusterSurvey): GuestReport {
  const { report } = seen;
  const { name, resource, uuid } = report;
  if (
    survey.kind !== 'cluster' ||
    resource === null ||
    [...survey.guests.keys()].some((id) => isOf(report, id))
  ) {
    return report;
  }
  const isFollowed =
    uuid !== null && hasRunningRecord({ name, uuid }) && existsSync(resourceRecordPath(uuid));
  return withoutResource(seen, isFollowed ? resourceRecordPath(uuid) : undefined);
}

/** What concerns one guest. One that was looked at has been found by `word`, whatever that is. */
function only(cluster: ClusterReport, word: string): ClusterReport {
  const guests = cluster.guests.filter(({ guest, resource }) => guest !== null || resource === word);
  const nodes = cluster.nodes.filter(({ name }) =>
    guests.some(({ places }) => places.some(({ node }) => node === name)),
  );
  return { ...cluster, guests, nodes };
}

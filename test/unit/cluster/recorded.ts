import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  type ClusterView,
  parseClusterView,
  type RunningCluster,
} from '../../../lib/cluster/cluster-view.ts';
import { parseSurvey, type SurveyedCluster } from '../../../lib/cluster/survey.ts';

/** What a program of Pacemaker printed in a real cluster (see test/cluster/record.ts). */
export function recorded(name: string): string {
  return readFileSync(join(import.meta.dirname, 'recorded', `${name}.xml`), 'utf8');
}

export function recordedAnswer(name: string, resource = 'g1', node = 'node1'): Promise<ClusterView> {
  return parseClusterView(recorded(name), resource, node);
}

/** The view that was recorded under a name; `resource` and `node` as they were asked for. */
export async function recordedView(name: string, resource = 'g1', node = 'node1'): Promise<RunningCluster> {
  const view = await recordedAnswer(name, resource, node);
  assert.equal(view.kind, 'cluster');
  return view as RunningCluster;
}

/** The survey that was recorded under a name (see test/cluster/record-survey.ts), as node1 sees it. */
export async function recordedSurvey(name: string, node = 'node1'): Promise<SurveyedCluster> {
  const survey = await parseSurvey(recorded(name), recorded(`${name}.cib`), node);
  assert.equal(survey.kind, 'cluster');
  return survey as SurveyedCluster;
}

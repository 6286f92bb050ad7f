import { mkdirSync } from 'node:fs';
import { ask } from '../cluster/ask.ts';
import { parseResult, select, text } from '../cluster/xml.ts';
import type { Deadline } from '../deadline.ts';
import { KvmhaError } from '../error.ts';
import { STATE_DIRECTORY } from '../record/directory.ts';

/** What the cluster would do to a resource. */
export interface PlannedAction {
  readonly action: string;
  readonly resource: string;
  /** Where it is, or where it goes: "node1", "node1 to node2". */
  readonly where: string;
  readonly reason: string | undefined;
}

/** Pacemaker's programs keep their input in files for a moment: not among the operator's shadow configurations. */
const ENVIRONMENT = { CIB_shadow_dir: STATE_DIRECTORY };

/**
 * Whether a configuration is valid, by crm_verify.
 *
 * @returns what is wrong, in crm_verify's words; undefined if nothing is
 * @throws KvmhaError `program-failed` when it could not be asked
 */
export async function verify(cib: string, deadline: Deadline): Promise<string | undefined> {
  const answer = await ask('crm_verify', ['--xml-pipe', '--verbose'], deadline, {
    input: cib,
    env: ENVIRONMENT,
  });
  if (answer.kind !== 'answer') {
    throw new KvmhaError('program-failed', `crm_verify could not be asked: ${answer.why}`);
  }
  return answer.exitCode === 0 ? undefined : answer.said;
}

/**
 * What the cluster would do with a configuration, by Pacemaker's own scheduler, until nothing is left to do.
 *
 * @throws KvmhaError `program-failed`, `malformed`
 */
export async function simulate(cib: string, deadline: Deadline): Promise<PlannedAction[]> {
  mkdirSync(STATE_DIRECTORY, { recursive: true, mode: 0o700 });
  const answer = await ask('crm_simulate', ['--xml-pipe', '--run', '--output-as=xml'], deadline, {
    input: cib,
    env: ENVIRONMENT,
  });
  if (answer.kind !== 'answer' || answer.exitCode !== 0) {
    const why = answer.kind === 'answer' ? `it exited ${answer.exitCode}: ${answer.said}` : answer.why;
    throw new KvmhaError('program-failed', `crm_simulate could not be asked: ${why}`);
  }
  return parseActions(answer.stdout);
}

/** The actions in crm_simulate's answer (rsc-action-item in Pacemaker's lib/pacemaker/pcmk_output.c). */
export async function parseActions(xml: string): Promise<PlannedAction[]> {
  const root = await parseResult(xml);
  return select(root, 'actions/rsc_action').map((each) => ({
    action: text(each, 'action') ?? '?',
    resource: text(each, 'resource') ?? '?',
    where: [text(each, 'source') ?? text(each, 'node'), text(each, 'dest')]
      .filter((node) => node !== undefined)
      .join(' to '),
    reason: text(each, 'reason'),
  }));
}

/** The actions by which a resource that is there would be disturbed: everything but the start of a new one. */
export function disturbances(
  actions: readonly PlannedAction[],
  fresh: readonly string[],
): readonly PlannedAction[] {
  return actions.filter(({ action, resource }) => action !== 'start' || !fresh.includes(resource));
}

export function actionInWords({ action, resource, where, reason }: PlannedAction): string {
  return `${action} ${resource} on ${where}${reason === undefined ? '' : ` (${reason})`}`;
}

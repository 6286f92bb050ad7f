import { existsSync } from 'node:fs';
import { type RunningCluster, readCluster } from '../cluster/cluster-view.ts';
import { type ClusterConfiguration, readConfiguration } from '../cluster/configuration.ts';
import type { Deadline } from '../deadline.ts';
import { KvmhaError, messageOf } from '../error.ts';
import { withHistoryOf, withOption, withPlans } from './edit.ts';
import { adopts, type Plan } from './plan.ts';
import { actionInWords, disturbances, type PlannedAction, simulate, verify } from './preview.ts';
import { demand, push } from './push.ts';

/** Where Pacemaker finds the agent. */
const AGENT = '/usr/lib/ocf/resource.d/kvmha/KvmGuest';

/** What would follow from the plans. */
export interface Preview {
  /** The configuration with the plans carried out. */
  readonly cib: string;
  /** What the cluster would do then. */
  readonly actions: readonly PlannedAction[];
  /** Why they must not be carried out, each a clause for people. */
  readonly hindrances: readonly string[];
}

/**
 * Carries the plans out on a copy of the configuration, lets Pacemaker's own programs judge it, and looks whether the
 * cluster is in a state in which they can be carried out. Changes nothing.
 *
 * @throws KvmhaError `program-failed` when one of them does not answer
 */
export async function preview(
  plans: readonly Plan[],
  configuration: ClusterConfiguration,
  deadline: Deadline,
): Promise<Preview> {
  const cib = await withPlans(configuration.cib, plans);
  const adopted = plans.filter(adopts).map(({ resource }) => resource);
  const fresh = plans.filter(({ kind }) => kind === 'new').map(({ resource }) => resource);
  const managed = await withOption(await withHistoryOf(cib, adopted), 'maintenance-mode', undefined);
  const invalid = await verify(cib, deadline);
  const pending = await simulate(configuration.cib, deadline);
  const actions = invalid === undefined ? await simulate(managed, deadline) : [];
  const views = await Promise.all(adopted.map((id) => readCluster(id, deadline)));
  return {
    cib,
    actions,
    hindrances: [
      ...(existsSync(AGENT) ? [] : [`${AGENT} is not there: install kvmha on every node first`]),
      ...withoutFencing(plans, configuration),
      ...(invalid === undefined ? [] : [`crm_verify refuses the configuration: ${invalid}`]),
      ...pending.map((each) => `the cluster has something to do at this moment: ${actionInWords(each)}`),
      ...disturbances(actions, fresh).map((each) => `the cluster would then ${actionInWords(each)}`),
      ...views.flatMap((view) =>
        view.kind === 'cluster' ? unfitFor(view) : [`the cluster does not answer (${view.why})`],
      ),
    ],
  };
}

/** A guest that the cluster has already is in no greater danger than before. */
export function withoutFencing(
  plans: readonly Plan[],
  { options }: Pick<ClusterConfiguration, 'options'>,
): string[] {
  return plans.some(({ kind }) => kind === 'new') && isOff(options.get('stonith-enabled'))
    ? ['fencing is switched off (stonith-enabled=false), and without it a guest may run twice']
    : [];
}

/** Why a resource cannot be adopted as it is at this moment. */
export function unfitFor({ hasController, quorum, nodes, resource, resourceId }: RunningCluster): string[] {
  const unclean = nodes.filter((node) => node.unclean || node.pending).map(({ name }) => name);
  return [
    hasController && quorum ? '' : 'the cluster has no controller (DC), or no quorum',
    unclean.length === 0 ? '' : `${unclean.join(' and ')} is unclean, or just joining`,
    resource?.failed || resource?.blocked ? `${resourceId} has failed: clean it up first` : '',
    (resource?.activeOn.length ?? 0) > 1 ? `${resourceId} runs on ${resource?.activeOn.join(' and ')}` : '',
  ].filter((reason) => reason !== '');
}

/**
 * Carries the plans out. Guests that are adopted keep running: the cluster is in maintenance mode until the new agent
 * has found each where it runs, and nothing is left to do.
 *
 * @param say is told what is done, and found
 * @returns where the guests run
 * @throws KvmhaError; when it is thrown in maintenance mode, the cluster is left in it, and the message says so
 */
export async function apply(
  plans: readonly Plan[],
  configuration: ClusterConfiguration,
  { cib }: Preview,
  deadline: Deadline,
  say: (words: string) => void,
): Promise<ReadonlyMap<string, string | undefined>> {
  const adopted = plans.filter(adopts).map(({ resource }) => resource);
  if (adopted.length === 0) {
    await push(configuration.cib, cib, deadline);
    say('The configuration is changed.');
    await demand('crm_resource', ['--wait'], deadline);
    return placesOf(plans, deadline);
  }
  const before = await placesOf(plans, deadline);
  const maintained = configuration.options.get('maintenance-mode');
  await demand('crm_attribute', ['--name', 'maintenance-mode', '--update', 'true'], deadline);
  say('The cluster is in maintenance mode: it leaves every resource alone.');
  try {
    await demand('crm_resource', ['--wait'], deadline);
    await pushInMaintenance(plans, deadline);
    say('The configuration is changed.');
    for (const resource of adopted) {
      await demand('crm_resource', ['--refresh', '--resource', resource], deadline);
    }
    await demand('crm_resource', ['--wait'], deadline);
    await checkAdopted(adopted, before, deadline);
    say('The new agent has found every guest where it runs, and the cluster has nothing to do.');
  } catch (error) {
    throw new KvmhaError(
      'program-failed',
      `${messageOf(error)}. The guests were left alone, and the cluster is LEFT IN MAINTENANCE MODE: put right what is ` +
        `wrong, then "crm_resource --refresh --resource ${adopted[0]}", and when crm_mon shows each guest where it runs, ` +
        '"crm_attribute --name maintenance-mode --delete"',
      { cause: error },
    );
  }
  await demand(
    'crm_attribute',
    ['--name', 'maintenance-mode', ...(maintained === undefined ? ['--delete'] : ['--update', maintained])],
    deadline,
  );
  say(
    isOn(maintained)
      ? 'The cluster was in maintenance mode before, and is left in it.'
      : 'The cluster manages its resources again.',
  );
  await demand('crm_resource', ['--wait'], deadline);
  return placesOf(plans, deadline);
}

function isOff(value: string | undefined): boolean {
  return value !== undefined && /^(false|off|no|n|0)$/i.test(value);
}

function isOn(value: string | undefined): boolean {
  return value !== undefined && /^(true|on|yes|y|1)$/i.test(value);
}

/** From the configuration as it is now, in which the cluster itself has been told of the maintenance. */
async function pushInMaintenance(plans: readonly Plan[], deadline: Deadline): Promise<void> {
  const { cib } = await configurationNow(deadline);
  await push(cib, await withPlans(cib, plans), deadline);
}

async function checkAdopted(
  adopted: readonly string[],
  before: ReadonlyMap<string, string | undefined>,
  deadline: Deadline,
): Promise<void> {
  const { cib, history } = await configurationNow(deadline);
  const unable = history.find(
    ({ resource, code }) => adopted.includes(resource) && (code === 5 || code === 2),
  );
  if (unable !== undefined) {
    throw new KvmhaError(
      'program-failed',
      `${unable.node} cannot run ${unable.resource} (it answered ${unable.code}${unable.exitReason === '' ? ': is kvmha installed there?' : `: ${unable.exitReason}`})`,
    );
  }
  for (const resource of adopted) {
    const place = await placeOf(resource, deadline);
    if (place !== before.get(resource)) {
      throw new KvmhaError(
        'program-failed',
        `${resource} ran on ${before.get(resource) ?? 'no node'}, and the new agent finds it on ${place ?? 'none'}`,
      );
    }
  }
  const [action] = await simulate(await withOption(cib, 'maintenance-mode', undefined), deadline);
  if (action !== undefined) {
    throw new KvmhaError(
      'program-failed',
      `once it manages its resources again, the cluster would ${actionInWords(action)}`,
    );
  }
}

async function configurationNow(deadline: Deadline): Promise<ClusterConfiguration> {
  const configuration = await readConfiguration(deadline);
  if (configuration.kind !== 'configuration') {
    throw new KvmhaError('program-failed', `the cluster does not answer: ${configuration.why}`);
  }
  return configuration;
}

async function placesOf(
  plans: readonly Plan[],
  deadline: Deadline,
): Promise<Map<string, string | undefined>> {
  const places = new Map<string, string | undefined>();
  for (const { resource } of plans) {
    places.set(resource, await placeOf(resource, deadline));
  }
  return places;
}

/**
 * The node on which the cluster has a resource.
 *
 * @throws KvmhaError `program-failed` when it does not say, or the resource has failed
 */
async function placeOf(resource: string, deadline: Deadline): Promise<string | undefined> {
  const view = await readCluster(resource, deadline);
  if (view.kind !== 'cluster') {
    throw new KvmhaError('program-failed', `the cluster does not answer: ${view.why}`);
  }
  if (view.resource?.failed) {
    throw new KvmhaError('program-failed', `${resource} has failed`);
  }
  return view.resource?.activeOn.join(' and ') || undefined;
}

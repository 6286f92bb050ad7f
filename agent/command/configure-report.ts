import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import {
  type ClusterConfiguration,
  KVM_GUEST,
  readConfiguration,
  VIRTUAL_DOMAIN,
} from '../../lib/cluster/configuration.ts';
import { apply, preview } from '../../lib/configure/apply.ts';
import { commandsFor, fragment, type Tool } from '../../lib/configure/commands.ts';
import { changeInWords, type Plan, planChange, planNew, type Refused } from '../../lib/configure/plan.ts';
import { actionInWords } from '../../lib/configure/preview.ts';
import type { Deadline } from '../../lib/deadline.ts';
import { type GuestDefinition, parseDefinition } from '../../lib/doctor/definition.ts';
import { isKvmhaError, KvmhaError, messageOf } from '../../lib/error.ts';
import { readTextFile } from '../../lib/text-file.ts';
import { print, printError } from '../output.ts';
import { deadlineOf, demandRoot } from './chosen.ts';
import { plain } from './console.ts';
import { EXIT, type ExitCode, UsageError } from './exit.ts';
import type { CommonOptions } from './main.ts';

export type ConfigureOptions = Pick<CommonOptions, 'timeout'> & {
  readonly all?: true;
  readonly resource?: string;
  readonly as?: Tool | 'fragment';
  readonly apply?: true;
  readonly json?: true;
};

/** More than any domain XML needs, in bytes. */
const MAX_XML = 1024 * 1024;

/** Milliseconds in which the cluster says how it is configured, or hangs. */
const CLUSTER_PATIENCE = 15_000;

/** `kvmha configure`. @throws UsageError, KvmhaError */
export async function configure(words: readonly string[], options: ConfigureOptions): Promise<ExitCode> {
  checkUsage(words, options);
  const deadline = deadlineOf(options);
  const answer = await readConfiguration(deadline.within(CLUSTER_PATIENCE));
  const configuration = answer.kind === 'configuration' ? answer : undefined;
  if (configuration === undefined && (options.apply || options.all || !words.every(isFile))) {
    throw new KvmhaError('unreachable', `the cluster does not answer: ${'why' in answer ? answer.why : ''}`);
  }
  const results = await plansFor(words, options, configuration);
  const refused = results.filter((result) => result.kind === 'refused');
  const plans = results.filter((result) => result.kind !== 'refused');
  for (const { resource, reasons } of refused) {
    for (const reason of reasons) {
      printError(`kvmha: ${plain(resource)} is refused: ${plain(reason)}\n`);
    }
  }
  // One that is refused does not keep others from being shown; what is applied is applied as a whole.
  if (options.apply && refused.length > 0) {
    printError('kvmha: nothing was changed\n');
    return EXIT.FAILED;
  }
  const done =
    options.apply && configuration !== undefined
      ? await applyPlans(plans, configuration, deadline, options)
      : show(plans, options);
  return done && refused.length === 0 ? EXIT.DONE : EXIT.FAILED;
}

function checkUsage(words: readonly string[], { all, apply, as, resource }: ConfigureOptions): void {
  demandRoot();
  if ((words.length === 0) !== (all === true)) {
    throw new UsageError('name guests (XML files or resources), or give --all');
  }
  if (apply && as !== undefined) {
    throw new UsageError('--as is for commands that are shown, not for --apply');
  }
  if (resource !== undefined && (words.length !== 1 || !words.every(isFile))) {
    throw new UsageError('--resource names the resource that is made for one XML file');
  }
}

function isFile(word: string): boolean {
  return word.includes('/');
}

async function plansFor(
  words: readonly string[],
  options: ConfigureOptions,
  configuration: ClusterConfiguration | undefined,
): Promise<(Plan | Refused)[]> {
  const guests = (configuration?.resources ?? []).filter(
    ({ agent }) => agent === KVM_GUEST || agent === VIRTUAL_DOMAIN,
  );
  const definitions = new Map<string, GuestDefinition | string>();
  for (const { id, parameters } of guests) {
    definitions.set(id, await readDefinition(parameters.get('config') ?? ''));
  }
  const domains = new Map(
    [...definitions].flatMap(([id, definition]) =>
      typeof definition === 'string' ? [] : [[id, definition.name] as const],
    ),
  );
  const chosen = options.all ? guests.map(({ id }) => id) : words;
  return Promise.all(
    chosen.map(async (word): Promise<Plan | Refused> => {
      if (isFile(word)) {
        const config = resolve(word);
        const definition = await readDefinition(config);
        return typeof definition === 'string'
          ? { kind: 'refused', resource: word, reasons: [`its XML cannot be used: ${definition}`] }
          : planNew(options.resource ?? definition.name, config, definition, configuration, domains);
      }
      const resource = configuration?.resources.find(({ id }) => id === word);
      if (resource === undefined || configuration === undefined) {
        const why = `the cluster has no resource "${word}"; an XML file is named with a slash, as in ./${word}`;
        return { kind: 'refused', resource: word, reasons: [why] };
      }
      const definition =
        definitions.get(word) ?? (await readDefinition(resource.parameters.get('config') ?? ''));
      return planChange(resource, definition, configuration, domains);
    }),
  );
}

async function readDefinition(path: string): Promise<GuestDefinition | string> {
  try {
    return await parseDefinition((await readTextFile(path, MAX_XML)).text, path);
  } catch (error) {
    if (isKvmhaError(error)) {
      return messageOf(error);
    }
    throw error;
  }
}

function isEmpty(plan: Plan): boolean {
  return plan.kind === 'change' && plan.changes.length === 0;
}

function show(plans: readonly Plan[], { as, json }: ConfigureOptions): boolean {
  const tool = as ?? (existsSync('/usr/sbin/crm') ? 'crm' : existsSync('/usr/sbin/pcs') ? 'pcs' : 'cib');
  if (tool === 'fragment') {
    if (plans.some(({ kind }) => kind === 'change')) {
      throw new UsageError(
        '--as fragment is for resources that are made; resources that are there are changed by commands',
      );
    }
    print(fragment(plans));
    return true;
  }
  if (json) {
    print(`${JSON.stringify({ plans, commands: commandsFor(plans, tool) }, null, 2)}\n`);
    return true;
  }
  for (const plan of plans.filter(isEmpty)) {
    printError(`${plan.resource} has the recommended configuration already.\n`);
  }
  print(commandsFor(plans, tool));
  return true;
}

/** @returns whether it was done */
async function applyPlans(
  plans: readonly Plan[],
  configuration: ClusterConfiguration,
  deadline: Deadline,
  { json }: ConfigureOptions,
): Promise<boolean> {
  const say = (words: string) => (json ? printError : print)(`${plain(words)}\n`);
  for (const plan of plans) {
    say(planInWords(plan));
  }
  const todo = plans.filter((plan) => !isEmpty(plan));
  const seen = todo.length === 0 ? undefined : await preview(todo, configuration, deadline);
  for (const action of seen?.actions ?? []) {
    say(`The cluster would ${actionInWords(action)}.`);
  }
  if (seen !== undefined && seen.hindrances.length > 0) {
    for (const hindrance of seen.hindrances) {
      printError(`kvmha: refused: ${plain(hindrance)}\n`);
    }
    printError('kvmha: nothing was changed\n');
    return false;
  }
  if (seen !== undefined && seen.actions.length === 0) {
    say(
      'By crm_verify the configuration is valid, and by crm_simulate the cluster would stop, start and move nothing.',
    );
  }
  const places =
    seen === undefined ? new Map<string, string>() : await apply(todo, configuration, seen, deadline, say);
  for (const [resource, place] of places) {
    say(`${resource} ${place === undefined ? 'runs nowhere' : `runs on ${place}`}.`);
  }
  if (todo.length > 0) {
    say('"kvmha doctor" on each node says what else would keep a guest from failing over.');
  }
  if (json) {
    print(`${JSON.stringify({ plans, places: Object.fromEntries(places) }, null, 2)}\n`);
  }
  return true;
}

function planInWords(plan: Plan): string {
  if (plan.kind === 'new') {
    return `${plan.resource}: a new resource of ${KVM_GUEST} for ${plan.config}`;
  }
  return plan.changes.length === 0
    ? `${plan.resource} has the recommended configuration already.`
    : `${plan.resource}: ${plan.changes.map(changeInWords).join('; ')}`;
}

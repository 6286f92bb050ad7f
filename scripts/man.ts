/**
 * Writes the manual pages: node scripts/man.ts DIRECTORY
 *
 * kvmha(8) from the commands themselves, those of the agents from their metadata, and their examples from README.md:
 * nothing is said in two places.
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { DOMParser, type Element } from '@xmldom/xmldom';
import type { Argument, Command } from 'commander';
import { createProgram } from '../agent/command/main.ts';
import { releaseDate } from './release-date.ts';

const root = resolve(import.meta.dirname, '..');

/** A page by the name of its file. */
export interface Page {
  readonly file: string;
  /** Its source, in the macros of man(7). */
  readonly text: string;
}

const FILES = [
  ['/etc/kvmha/policy.yaml', 'Policy of this node, commented in /usr/share/doc/kvmha/docs/policy.yaml.'],
  [
    '/var/log/kvmha/events.jsonl',
    'Journal of what was seen, decided, done and proved; a JSON object on each line.',
  ],
  ['/var/lib/kvmha/dumps', 'Post-mortems, unless dump.directory of the policy names another folder.'],
  ['/run/kvmha', 'Records of the guests of this node since it was booted.'],
] as const;

/** Every page there is. */
export function pages(): Page[] {
  return [
    commandPage(createProgram().program),
    agentPage('ocf-metadata.xml', ['kvmha(8)', 'ocf_kvmha_KvmWatch(7)', 'ocf_heartbeat_VirtualDomain(7)']),
    agentPage('agent/watch/metadata.xml', ['kvmha(8)', 'ocf_kvmha_KvmGuest(7)']),
  ];
}

function commandPage(program: Command): Page {
  const name = program.name();
  const lines = [
    title(name, '8'),
    '.SH NAME',
    roff(`${name} - failover-safe KVM guests for Pacemaker clusters`),
    '.SH SYNOPSIS',
    ...program.commands.flatMap((command) => usages(command, name)).slice(1),
    '.SH DESCRIPTION',
    ...paragraphs(program.description()),
    '.SH OPTIONS',
    ...options(program),
    '.SH COMMANDS',
    ...program.commands.flatMap((command) => commandSections(command, name)),
    '.SH EXIT STATUS',
    ...paragraphs(extraHelp(program).replace(/^Exit codes: /, '')),
    '.SH FILES',
    ...FILES.flatMap(([path, what]) => tagged(`.I ${roff(path)}`, what)),
    ...seeAlso(['ocf_kvmha_KvmGuest(7)', 'ocf_kvmha_KvmWatch(7)', 'virsh(1)', 'pacemakerd(8)']),
  ];
  return page(`${name}.8`, lines);
}

/** One line of the synopsis for each command that can be called. */
function usages(command: Command, parent: string): string[] {
  const name = `${parent} ${command.name()}`;
  return command.commands.length > 0
    ? command.commands.flatMap((each) => usages(each, name))
    : ['.br', `.B ${roff(name)}`, roff(command.usage())];
}

function commandSections(command: Command, parent: string): string[] {
  const name = `${parent} ${command.name()}`;
  if (command.commands.length > 0) {
    return command.commands.flatMap((each) => commandSections(each, name));
  }
  return [
    `.SS ${quote(`${name} ${command.usage()}`)}`,
    ...paragraphs(command.description()),
    ...command.registeredArguments.flatMap(argument),
    ...options(command),
    ...(extraHelp(command) === '' ? [] : ['.PP', ...paragraphs(extraHelp(command))]),
  ];
}

function argument(each: Argument): string[] {
  const text = [each.description, byDefault(each.defaultValue)].filter(Boolean).join(' ');
  return text === '' ? [] : tagged(`.I ${roff(each.name())}`, text);
}

function options(command: Command): string[] {
  return command
    .createHelp()
    .visibleOptions(command)
    .flatMap(({ flags, description, defaultValue }) =>
      tagged(`.B ${roff(flags)}`, [description, byDefault(defaultValue)].filter(Boolean).join(' ')),
    );
}

function byDefault(value: unknown): string {
  return value === undefined || typeof value === 'boolean' ? '' : `[default: ${value}]`;
}

/** What was added to a command's help by `addHelpText('after')`, which Commander only prints. */
function extraHelp(command: Command): string {
  let printed = '';
  command.configureOutput({
    writeOut: (text) => {
      printed += text;
    },
  });
  command.outputHelp();
  return printed.slice(command.helpInformation().length).trim();
}

function agentPage(path: string, also: readonly string[]): Page {
  const metadata = new DOMParser().parseFromString(readFileSync(join(root, path), 'utf8'), 'text/xml');
  const agent = metadata.documentElement;
  if (agent === null) {
    throw new Error(`${path} is empty`);
  }
  const name = `kvmha:${agent.getAttribute('name')}`;
  const file = `ocf_${name.replace(':', '_')}.7`;
  const parameters = [...agent.getElementsByTagName('parameter')];
  const lines = [
    title(file.replace(/\.7$/, ''), '7'),
    '.SH NAME',
    roff(`ocf_${name.replace(':', '_')} - ${textOf(agent, 'shortdesc')}`),
    '.SH SYNOPSIS',
    `.B ${roff(`ocf:${name}`)}`,
    '.SH DESCRIPTION',
    ...paragraphs(textOf(agent, 'longdesc')),
    '.SH PARAMETERS',
    ...(parameters.length === 0 ? ['None.'] : parameters.flatMap(parameter)),
    '.SH ACTIONS',
    'The timeouts and intervals are those advised.',
    ...[...agent.getElementsByTagName('action')].flatMap(action),
    '.SH EXAMPLES',
    ...examples(`ocf:${name}`).flatMap((block, index) => [
      ...(index === 0 ? [] : ['.PP']),
      '.nf',
      ...block.map(roff),
      '.fi',
    ]),
    '.SH FILES',
    ...FILES.flatMap(([place, what]) => tagged(`.I ${roff(place)}`, what)),
    ...seeAlso(also),
  ];
  return page(file, lines);
}

/** The text of the element of that name directly in `parent`. */
function textOf(parent: Element, name: string): string {
  const found = [...parent.getElementsByTagName(name)].find((each) => each.parentNode === parent);
  return found?.textContent?.trim() ?? '';
}

function parameter(element: Element): string[] {
  const content = element.getElementsByTagName('content')[0];
  const facts = [
    content?.getAttribute('type') ?? '',
    ...(element.getAttribute('required') === '1' ? ['required'] : []),
    ...(content?.hasAttribute('default') ? [`default: ${content.getAttribute('default')}`] : []),
  ];
  const [first = '', ...others] = paragraphs(textOf(element, 'longdesc'));
  // Inside a tagged paragraph, another one is set with the same indent.
  const rest = others.map((line) => (line === '.PP' ? '.IP' : line));
  const name = roff(element.getAttribute('name') ?? '');
  return ['.TP', `.BR ${name} ${quote(` (${facts.join(', ')})`)}`, first, ...rest];
}

function action(element: Element): string[] {
  const facts = ['timeout', 'interval']
    .filter((name) => element.hasAttribute(name))
    .map((name) => `${name} ${element.getAttribute(name)}`);
  return tagged(`.B ${roff(element.getAttribute('name') ?? '')}`, facts.join(', '));
}

/** The indented blocks of README.md that configure `agent`. */
function examples(agent: string): string[][] {
  const readme = readFileSync(join(root, 'README.md'), 'utf8');
  return [...readme.matchAll(/(?:^ {4}.*\n)+/gm)]
    .map(([block]) =>
      block
        .trimEnd()
        .split('\n')
        .map((line) => line.slice(4)),
    )
    .filter((block) => block.some((line) => line.includes(`${agent} `)));
}

function title(name: string, section: string): string {
  const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  const date = releaseDate().toISOString().slice(0, 10);
  return `.TH ${quote(name.toUpperCase())} ${section} ${date} "kvmha ${version}" "High availability of KVM guests"`;
}

function seeAlso(names: readonly string[]): string[] {
  const references = names.map((name, index) => {
    const [, topic = '', section = ''] = /^(.*)(\(.*\))$/.exec(name) ?? [];
    return `.BR ${roff(topic)} ${section}${index === names.length - 1 ? '' : ','}`;
  });
  return ['.SH SEE ALSO', ...references];
}

function tagged(head: string, text: string): string[] {
  return ['.TP', head, ...filled(text)];
}

/** Text in paragraphs, which empty lines separate. */
function paragraphs(text: string): string[] {
  return text
    .trim()
    .split(/\n\s*\n/)
    .flatMap((each, index) => [...(index === 0 ? [] : ['.PP']), ...filled(each)]);
}

/** One paragraph; a line that begins with the word that it explains begins a line on the page. */
function filled(text: string): string[] {
  const lines = text.trim().split('\n');
  return lines.flatMap((line, index) =>
    index > 0 && /^[a-z_]+: /.test(line) ? ['.br', roff(line)] : [roff(line)],
  );
}

/** Text for a line of its own: roff(7) takes a backslash, and a dot or quote in front, for its own. */
function roff(text: string): string {
  if (/[^\x20-\x7e]/.test(text)) {
    throw new Error(`a manual page can only have ASCII: ${JSON.stringify(text)}`);
  }
  return text.trimEnd().replaceAll('\\', '\\e').replaceAll('-', '\\-').replace(/^[.']/, '\\&$&');
}

/** Text as one argument of a macro. */
function quote(text: string): string {
  return `"${roff(text).replaceAll('"', '\\(dq')}"`;
}

function page(file: string, lines: readonly string[]): Page {
  return { file, text: `${lines.join('\n')}\n` };
}

if (process.argv[1] === import.meta.filename) {
  const [, , directory = join(root, 'build/man')] = process.argv;
  mkdirSync(directory, { recursive: true });
  for (const { file, text } of pages()) {
    writeFileSync(join(directory, file), text);
  }
}

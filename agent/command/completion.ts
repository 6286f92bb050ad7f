import type { Argument, Command, Option } from 'commander';
import { Deadline } from '../../lib/deadline.ts';
import { isKvmhaError } from '../../lib/error.ts';
import { knownGuests } from '../../lib/guest/known-guests.ts';
import { print } from '../output.ts';
import { EXIT, type ExitCode } from './exit.ts';

/** Milliseconds that a person who has pressed the tabulator waits for names. */
const PATIENCE = 3000;

/** What can be completed where a value is expected. */
export type Completed =
  | { readonly kind: 'guests' | 'files' | 'directories' | 'nothing' }
  | { readonly kind: 'words'; readonly words: readonly string[] };

/** Prints the completion for a shell. */
export function printCompletion(program: Command): ExitCode {
  print(bashCompletion(program));
  return EXIT.DONE;
}

/**
 * Prints the guests of this node, one name a line. What goes wrong is not told: it would be printed into the command
 * line that somebody is typing.
 */
export async function printGuestNames(): Promise<ExitCode> {
  try {
    const { guests } = await knownGuests('qemu:///system', Deadline.in(PATIENCE));
    const names = guests.map(({ name }) => name).filter((name) => !/\p{Cc}/u.test(name));
    print(names.map((name) => `${name}\n`).join(''));
    return EXIT.DONE;
  } catch (error) {
    if (isKvmhaError(error)) {
      return EXIT.FAILED;
    }
    throw error;
  }
}

/** A script for bash that completes everything that `program` understands. It needs no other package. */
export function bashCompletion(program: Command): string {
  const places = commandsOf(program, []);
  const name = program.name();
  return `\
# Completion of ${name} for bash, printed by "${name} completion bash".

# What may stand at a place that begins with a dash.
_${name}_options() {
  case $1 in
${places.map(({ path, options }) => `    ${quote(path)}) echo ${quoteAll(options.flatMap(namesOf))} ;;`).join('\n')}
  esac
}

# What the value of an option is; nothing for one without a value.
_${name}_value() {
  case $1 in
${places.flatMap(({ path, options }) => options.flatMap((option) => valueCase(path, option))).join('\n')}
  esac
}

# What the argument is that stands at a place, counted from 0; the last one may be there many times.
_${name}_argument() {
  case $1 in
${places.flatMap(({ path, taken }) => taken.map((argument, index) => argumentCase(path, argument, index))).join('\n')}
  esac
}

_${name}_commands() {
  case $1 in
${places
  .filter(({ commands }) => commands.length > 0)
  .map(({ path, commands }) => `    ${quote(path)}) echo ${quoteAll(commands)} ;;`)
  .join('\n')}
  esac
}

_${name}() {
  local word=\${COMP_WORDS[COMP_CWORD]} path='' value='' at index candidate
  local -i arguments=0
  local -a candidates=()
  COMPREPLY=()
  for ((index = 1; index < COMP_CWORD; index++)); do
    at=\${COMP_WORDS[index]}
    if [[ $at == = ]]; then
      continue
    elif [[ -n $value ]]; then
      value=''
    elif [[ $at == -* ]]; then
      value=$(_${name}_value "$path $at")
      # A value that may be left out is behind an equals sign.
      if [[ $value == '?'* ]]; then
        value=\${value#'?'}
        [[ \${COMP_WORDS[index + 1]} == = ]] || value=''
      fi
    elif [[ " $(_${name}_commands "$path") " == *" $at "* ]]; then
      path="\${path:+$path }$at"
    else
      arguments+=1
    fi
  done
  [[ $word == = ]] && word=''
  if [[ -z $value && $word == -* ]]; then
    value=$(_${name}_options "$path")
  elif [[ -z $value ]]; then
    value="$(_${name}_commands "$path") $(_${name}_argument "$path $arguments")"
    value=\${value# }
  fi
  case $value in
    %files | %directories)
      compopt -o filenames 2>/dev/null || :
      if [[ $value == %files ]]; then mapfile -t candidates < <(compgen -f -- "$word")
      else mapfile -t candidates < <(compgen -d -- "$word"); fi
      COMPREPLY=("\${candidates[@]}")
      return ;;
    %guests) mapfile -t candidates < <("\${COMP_WORDS[0]}" completion guests 2>/dev/null) ;;
    %nothing) return ;;
    *) read -ra candidates <<<"$value" ;;
  esac
  for candidate in "\${candidates[@]}"; do
    if [[ $candidate == "$word"* && $candidate != %* ]]; then
      COMPREPLY+=("$(printf %q "$candidate")")
    fi
  done
}

complete -F _${name} ${name}
`;
}

/** Where on the command line something is completed: behind the words of \`path\`. */
interface Place {
  readonly path: string;
  readonly options: readonly Option[];
  readonly commands: readonly string[];
  readonly taken: readonly Argument[];
}

function commandsOf(command: Command, words: readonly string[]): Place[] {
  const help = command.createHelp();
  const place = {
    path: words.join(' '),
    options: help.visibleOptions(command),
    commands: help.visibleCommands(command).map((each) => each.name()),
    taken: command.registeredArguments,
  };
  return [place, ...command.commands.flatMap((each) => commandsOf(each, [...words, each.name()]))];
}

function namesOf({ short, long }: Option): string[] {
  return [short, long].filter((each) => each !== undefined);
}

function valueCase(path: string, option: Option): string[] {
  if (!option.required && !option.optional) {
    return [];
  }
  const patterns = namesOf(option).map((name) => quote(`${path} ${name}`));
  const placeholder = /[<[]([^\]>]+)/.exec(option.flags)?.[1] ?? '';
  const value = spell(completed(placeholder, option.argChoices));
  return [`    ${patterns.join(' | ')}) echo ${quote(`${option.optional ? '?' : ''}${value}`)} ;;`];
}

function argumentCase(path: string, argument: Argument, index: number): string {
  const pattern = argument.variadic ? `${quote(`${path} `)}*` : quote(`${path} ${index}`);
  return `    ${pattern}) echo ${quote(spell(completed(argument.name(), argument.argChoices)))} ;;`;
}

/** What a value is, of the word that stands for it in the help. */
export function completed(placeholder: string, choices: readonly string[] | undefined): Completed {
  if (choices !== undefined) {
    return { kind: 'words', words: choices };
  }
  switch (placeholder.replace(/\.\.\.$/, '')) {
    case 'guest':
      return { kind: 'guests' };
    case 'file':
    case 'path':
      return { kind: 'files' };
    case 'directory':
      return { kind: 'directories' };
    default:
      return { kind: 'nothing' };
  }
}

function spell(what: Completed): string {
  return what.kind === 'words' ? what.words.join(' ') : `%${what.kind}`;
}

function quote(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

function quoteAll(texts: readonly string[]): string {
  return quote(texts.join(' '));
}

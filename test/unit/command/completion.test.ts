import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { describe, test } from 'node:test';
import { Command, Option } from 'commander';
import { bashCompletion } from '../../../agent/command/completion.ts';
import { createProgram } from '../../../agent/command/main.ts';

/** A line of the command, as bash splits it where it was typed, and what the tabulator offers for its last word. */
function offered(program: Command, lines: readonly (readonly string[])[], guests = 'web db'): string[][] {
  const name = program.name();
  const script = `
${bashCompletion(program)}
${name}() { [[ "$*" == 'completion guests' ]] && printf '%s\\n' ${guests}; }
${lines
  .map(
    (words) => `
COMP_WORDS=(${[name, ...words].map((word) => `'${word}'`).join(' ')})
COMP_CWORD=$(( \${#COMP_WORDS[@]} - 1 ))
_${name}
IFS=,; echo "\${COMPREPLY[*]}"; unset IFS`,
  )
  .join('\n')}
`;
  const { status, stdout, stderr } = spawnSync('bash', ['--norc', '-euc', script], { encoding: 'utf8' });
  assert.equal(stderr, '');
  assert.equal(status, 0);
  return stdout
    .split('\n')
    .slice(0, -1)
    .map((line) => line.split(',').filter((word) => word !== ''));
}

interface Place {
  readonly words: readonly string[];
  readonly command: Command;
}

function places(command: Command, words: readonly string[] = []): Place[] {
  return [{ words, command }, ...command.commands.flatMap((each) => places(each, [...words, each.name()]))];
}

describe('the completion for bash', () => {
  const { program } = createProgram();
  const all = places(program);

  test('knows every command', () => {
    const parents = all.filter(({ command }) => command.commands.length > 0);
    const answers = offered(
      program,
      parents.map(({ words }) => [...words, '']),
    );
    for (const [index, { command, words }] of parents.entries()) {
      for (const each of command.commands) {
        assert.ok(answers[index]?.includes(each.name()), `kvmha ${words.join(' ')} ${each.name()}`);
      }
    }
  });

  test('knows every option of every command, the short ones too', () => {
    const answers = offered(
      program,
      all.map(({ words }) => [...words, '-']),
    );
    for (const [index, { command, words }] of all.entries()) {
      const options = command.options.flatMap(({ short, long }) => [short ?? [], long ?? []].flat());
      assert.deepEqual(
        options.filter((each) => !answers[index]?.includes(each)),
        [],
        `kvmha ${words.join(' ')}`,
      );
      assert.ok(answers[index]?.includes('--help'));
    }
  });

  test('offers the guests of the node where a guest is expected, also behind options', () => {
    const answers = offered(program, [
      ['release', ''],
      ['release', 'w'],
      ['release', '--force', '--resource', 'r', ''],
      ['release', '--resource', ''],
      ['release', 'web', ''],
    ]);
    assert.deepEqual(answers, [['web', 'db'], ['web'], ['web', 'db'], [], []]);
  });

  test('quotes a name that the shell would take apart', () => {
    const answers = offered(program, [['proof', 'a']], `'a b' 'a$c' b`);
    assert.deepEqual(answers, [['a\\ b', 'a\\$c']]);
  });

  test('offers files and folders where they are expected', () => {
    const [files, directories] = offered(program, [
      ['postmortem', 'web', '--policy', '/etc/pass'],
      ['postmortem', 'web', '--output', '/us'],
    ]);
    assert.ok(files?.includes('/etc/passwd'));
    assert.deepEqual(directories, ['/usr']);
  });

  test('knows nested commands, choices, many arguments, and values behind an equals sign', () => {
    const made = new Command('made');
    made
      .command('paint')
      .argument('<guest...>')
      .addOption(new Option('--colour <colour>').choices(['red', 'green']))
      .option('--shade [depth]', 'how dark');
    made.command('host').command('forget').argument('<file>');
    const answers = offered(made, [
      ['host', ''],
      ['paint', '--colour', '=', 'r'],
      ['paint', '--colour', ''],
      ['paint', '--shade', ''],
      ['paint', '--shade', '=', ''],
      ['paint', 'web', 'd'],
      ['host', 'forget', '/etc/passw'],
    ]);
    const [host, ...others] = answers;
    assert.ok(host?.includes('forget'));
    assert.deepEqual(others.slice(0, 5), [['red'], ['red', 'green'], ['web', 'db'], [], ['db']]);
    assert.ok(others[5]?.includes('/etc/passwd'));
  });
});

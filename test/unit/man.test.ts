import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { describe, test } from 'node:test';
import type { Command } from 'commander';
import { createProgram } from '../../agent/command/main.ts';
import { type Page, pages } from '../../scripts/man.ts';

const PAGES = pages();

/** Programs that check manual pages, called with the page on standard input. */
const CHECKS: readonly (readonly [program: string, ...args: string[]])[] = [
  ['mandoc', '-Tlint', '-Wwarning'],
  ['groff', '-ww', '-man', '-z', '-'],
  ['man', '--warnings', '--local-file', '--troff', '-Tutf8', '-'],
];

function page(file: string): Page {
  const found = PAGES.find((each) => each.file === file);
  assert.ok(found, `there is a page ${file}`);
  return found;
}

/** What a page says, without the escapes of roff(7). */
function plain({ text }: Page): string {
  return text.replaceAll('\\-', '-').replaceAll('\\e', '\\').replaceAll('\\&', '').replaceAll('\\(dq', '"');
}

/** The attribute `name` of every `element` in metadata, read without the parser that wrote the pages. */
function named(path: string, element: string): string[] {
  const metadata = readFileSync(new URL(`../../${path}`, import.meta.url), 'utf8');
  return [...metadata.matchAll(new RegExp(`<${element} name="([^"]+)"`, 'g'))].map(([, name]) => name ?? '');
}

describe('the manual pages', () => {
  test('are those of the command and of both agents', () => {
    assert.deepEqual(
      PAGES.map(({ file }) => file),
      ['kvmha.8', 'ocf_kvmha_KvmGuest.7', 'ocf_kvmha_KvmWatch.7'],
    );
  });

  for (const [program, ...args] of CHECKS) {
    const skip =
      spawnSync(program, [], { stdio: 'ignore' }).error === undefined ? false : `no ${program} here`;
    test(`give ${program} nothing to complain of`, { skip }, () => {
      for (const { file, text } of PAGES) {
        const { status, stdout, stderr } = spawnSync(program, args, { input: text, encoding: 'utf8' });
        const complaints = program === 'man' ? stderr : `${stdout}${stderr}`;
        assert.equal(complaints, '', file);
        assert.equal(status, 0, file);
      }
    });
  }

  test('have every command with every argument and option', () => {
    const text = plain(page('kvmha.8'));
    const check = (command: Command, words: string) => {
      for (const option of command.options) {
        assert.ok(text.includes(option.flags), `${words} ${option.flags}`);
        assert.ok(text.includes(option.description), `${words} ${option.flags}`);
      }
      if (command.commands.length === 0) {
        assert.ok(text.includes(`.SS "${words} ${command.usage()}"`), words);
        assert.ok(text.includes(command.description()), words);
      }
      for (const each of command.commands) {
        check(each, `${words} ${each.name()}`);
      }
    };
    check(createProgram().program, 'kvmha');
  });

  test('tell the exit codes of each command that tells them in its help', () => {
    assert.ok(plain(page('kvmha.8')).split('Exit codes: 0').length > 6);
  });

  for (const [agent, metadata] of [
    ['KvmGuest', 'ocf-metadata.xml'],
    ['KvmWatch', 'agent/watch/metadata.xml'],
  ] as const) {
    test(`have every parameter and action of ${agent}, and how to configure it`, () => {
      const text = plain(page(`ocf_kvmha_${agent}.7`));
      for (const name of named(metadata, 'parameter')) {
        assert.ok(text.includes(`\n.TP\n.BR ${name} `), name);
      }
      for (const name of named(metadata, 'action')) {
        assert.ok(text.includes(`\n.TP\n.B ${name}\n`), name);
      }
      assert.match(text, new RegExp(`primitive \\S+ ocf:kvmha:${agent}`));
      assert.match(text, new RegExp(`pcs resource create \\S+ ocf:kvmha:${agent}`));
    });
  }
});

import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import type { Command } from 'commander';
import { createProgram } from '../../agent/command/main.ts';
import { blocks, brokenLinks, pagesBelow } from '../support/documentation.ts';

const PROJECT = join(import.meta.dirname, '../..');
const PAGES = ['test/lab/README.md', ...pagesBelow(PROJECT)];

/** A file of tests that runs a block, all but what it says there. */
interface RunBy {
  readonly runBy: string;
}
/** Why a block is not run as it stands. */
interface NotRun {
  readonly notRun: string;
}

const CONFIGURATION: RunBy = { runBy: 'test/cluster/configuration.test.ts' };

/** How each block of commands in the manual is known to be right: by how it begins. */
const BLOCKS: { readonly [page: string]: readonly (readonly [beginning: string, how: RunBy | NotRun])[] } = {
  'README.md': [
    ['make demo', { notRun: 'make test runs this test, and the demo in test/integration/demo.test.ts' }],
    [
      'make install',
      { notRun: 'it would install on this machine; the nodes of the lab are installed by it' },
    ],
    ['crm configure\n', CONFIGURATION],
    ['pcs resource create vm1', CONFIGURATION],
    ['kvmha configure', CONFIGURATION],
    ['kvmha doctor', CONFIGURATION],
    ['crm configure primitive kvm-watch', { runBy: 'test/cluster/watch.test.ts' }],
    ['pcs resource create kvm-watch', CONFIGURATION],
    ['crm configure property node-health-strategy', CONFIGURATION],
    ['kvmha host-health', CONFIGURATION],
    ['kvmha policy check', CONFIGURATION],
    ['kvmha status', CONFIGURATION],
  ],
  'docs/adoption.md': [
    ['crm_attribute --name maintenance-mode --update', CONFIGURATION],
    ['crm configure show vm1', CONFIGURATION],
    ['cibadmin --query', CONFIGURATION],
    ['crm_resource --resource vm1 --meta', CONFIGURATION],
    ['crm configure location', CONFIGURATION],
    ['pcs constraint location', CONFIGURATION],
    ['crm_resource --refresh', CONFIGURATION],
    ['crm_attribute --name maintenance-mode --delete', CONFIGURATION],
  ],
  'docs/architecture.md': [
    ['Pacemaker ', { notRun: 'a drawing' }],
    ['make lab', { notRun: 'it would leave a lab running; test/lab/lab.test.ts runs the same commands' }],
  ],
  'docs/monitoring.md': [
    ['kvmha timeline', CONFIGURATION],
    ['* * * * * root kvmha metrics', CONFIGURATION],
    ['kvmha_preserved_guests', { notRun: 'for Prometheus; the metrics are compared with the table below' }],
  ],
  'docs/runbook.md': [
    ['kvmha status', CONFIGURATION],
    ['kvmha proof', CONFIGURATION],
    ['kvmha postmortem', CONFIGURATION],
    ['kvmha release', CONFIGURATION],
    ['crm resource unmanage', CONFIGURATION],
  ],
  'docs/security.md': [
    ['ausearch ', { notRun: 'no SELinux is in force in the lab' }],
    ['"/run/libvirt/', { notRun: 'lines of a profile of AppArmor' }],
  ],
  'docs/trust.md': [
    ['make soak', { notRun: 'it is for hours' }],
    ['make crash-points', { notRun: 'it is for hours' }],
  ],
};

/** What is wrong with a line that calls `kvmha`: no such command or option, or too many or too few words. */
function misuse(line: string): string | undefined {
  let words = line.replace(/ #.*/, '').trim().split(/\s+/).slice(1);
  let command: Command = createProgram().program;
  for (;;) {
    const next = command.commands.find((each) => each.name() === words[0]);
    if (next === undefined) {
      break;
    }
    command = next;
    words = words.slice(1);
  }
  const { operands, unknown } = command.parseOptions(words);
  const { registeredArguments: known } = command;
  const [least, most] = [known.filter(({ required }) => required).length, known.length];
  const tooMany = operands.length > most && !known.at(-1)?.variadic;
  return command.commands.length > 0 || unknown.length > 0 || operands.length < least || tooMany
    ? line
    : undefined;
}

describe('the documentation', () => {
  for (const page of PAGES) {
    const text = readFileSync(join(PROJECT, page), 'utf8');

    test(`${page} refers to files that are there`, () => {
      const paths = [...text.matchAll(/`((?:agent|lib|test|scripts|packaging)\/[\w./-]+)`/g)].map(
        ([, path]) => path ?? '',
      );
      const missing = paths.filter((path) => !existsSync(join(PROJECT, path)));
      assert.deepEqual([...brokenLinks(PROJECT, page), ...missing], []);
    });
  }

  test('is reached from README.md', () => {
    const readme = readFileSync(join(PROJECT, 'README.md'), 'utf8');
    assert.deepEqual(
      PAGES.filter((page) => page.startsWith('docs/') && !readme.includes(`(${page})`)),
      [],
    );
  });

  for (const page of pagesBelow(PROJECT)) {
    test(`${page} has no block of commands that no test accounts for`, () => {
      const known = BLOCKS[page] ?? [];
      const found = blocks(page);
      const beginnings = (block: string) => known.filter(([beginning]) => block.startsWith(beginning));
      assert.deepEqual(
        found.filter((block) => beginnings(block).length !== 1),
        [],
        'name each in BLOCKS: run by a test, or why it is not',
      );
      assert.equal(found.length, known.length, 'BLOCKS has a block that is no longer there');
    });

    test(`the tests that are said to run the blocks of ${page} do`, () => {
      const unused = (BLOCKS[page] ?? []).filter(([beginning, how]) => {
        const source = 'runBy' in how ? readFileSync(join(PROJECT, how.runBy), 'utf8') : undefined;
        const quoted = `'${beginning.replace('\n', '\\n')}`;
        return source !== undefined && !(source.includes(`'${page}'`) && source.includes(quoted));
      });
      assert.deepEqual(unused, []);
    });

    test(`${page} calls kvmha by commands and options that there are`, () => {
      const lines = blocks(page).flatMap((block) => block.split('\n'));
      const calls = lines.flatMap((line) => /^(?:[*\d/ ]+ root )?(kvmha .*)/.exec(line)?.[1] ?? []);
      const wrong = calls.flatMap((call) => misuse(call) ?? []);
      assert.deepEqual(wrong, []);
    });
  }

  test('make has the targets that are named', () => {
    const makefile = readFileSync(join(PROJECT, 'Makefile'), 'utf8');
    const targets = PAGES.flatMap((page) => blocks(page))
      .flatMap((block) => [...block.matchAll(/^make ([a-z-]+)/gm)])
      .map(([, target]) => target as string);
    assert.ok(targets.includes('demo') && targets.includes('lab'));
    assert.deepEqual(
      targets.filter((target) => !makefile.includes(`\n${target}: `)),
      [],
    );
  });

  test('what to alert on is in the table of metrics', () => {
    const page = readFileSync(join(PROJECT, 'docs/monitoring.md'), 'utf8');
    const [alerts = ''] = blocks('docs/monitoring.md').filter((each) => each.startsWith('kvmha_preserved'));
    const names = new Set(alerts.match(/\bkvmha_\w+/g));
    assert.ok(names.size >= 4, alerts);
    assert.deepEqual(
      [...names].filter((name) => !page.includes(`\`${name}\``)),
      [],
    );
  });

  test('a call of kvmha that is wrong is found', () => {
    const wrong = [
      'kvmha',
      'kvmha frobnicate',
      'kvmha status a b',
      'kvmha proof',
      'kvmha proof vm1 --frobnicate # no',
      'kvmha policy',
    ];
    assert.deepEqual(wrong.map(misuse), wrong);
    assert.equal(misuse('kvmha proof vm1 --json   # yes'), undefined);
  });
});

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import type { Metafile } from 'esbuild';

/** esbuild's accounts of the script that is run at every start and of the rest, written beside the binary. */
const { main, whole }: { readonly main: Metafile; readonly whole: Metafile } = JSON.parse(
  readFileSync(new URL('../../build/kvmha.meta.json', import.meta.url), 'utf8'),
);

/** What is evaluated of the rest as soon as `entries` are: all that they import, but not by `import()`. */
function evaluatedWith(...entries: string[]): Set<string> {
  const evaluated = new Set<string>();
  const waiting = [...entries];
  for (let path = waiting.pop(); path !== undefined; path = waiting.pop()) {
    const input = whole.inputs[path];
    assert.ok(input, `${path} is part of the bundle`);
    evaluated.add(path);
    for (const imported of input.imports) {
      if (!imported.external && imported.kind !== 'dynamic-import' && !evaluated.has(imported.path)) {
        waiting.push(imported.path);
      }
    }
  }
  return evaluated;
}

const librariesOf = (evaluated: Set<string>) =>
  [...evaluated].filter((path) => path.startsWith('node_modules/'));

test('an action of the agent evaluates no library before it needs one', () => {
  assert.deepEqual(librariesOf(evaluatedWith('agent/whole.ts', 'agent/ocf/main.ts')), []);
});

test('the agent does not evaluate the command, nor the command the agent', () => {
  assert.ok(!evaluatedWith('agent/whole.ts', 'agent/ocf/main.ts').has('agent/command/main.ts'));
  assert.ok(!evaluatedWith('agent/whole.ts', 'agent/command/main.ts').has('agent/ocf/main.ts'));
});

test('the graph that these tests walk knows the libraries', () => {
  assert.ok(librariesOf(evaluatedWith('agent/command/main.ts')).some((path) => path.includes('commander')));
});

/**
 * All that is compiled for the monitor of a guest that runs, and where it must not run; whatever is added here makes
 * each of them slower.
 */
const HOT_PATH = [
  'agent/main.ts',
  'agent/ocf/action-deadline.ts',
  'agent/ocf/environment.ts',
  'agent/ocf/quick-stopped.ts',
  'agent/ocf/quick.ts',
  'agent/ocf/utilization-age.ts',
  'agent/output.ts',
  'agent/packed/script.ts',
  'agent/packed/whole-of-pkg.ts',
  'lib/deadline.ts',
  'lib/error.ts',
  'lib/guest/ask-qemu.ts',
  'lib/guest/processes.ts',
  'lib/guest/quick-absence.ts',
  'lib/guest/quick-look.ts',
  'lib/guest/reported-errors.ts',
  'lib/guest/sockets.ts',
  'lib/libvirt/identity-cache.ts',
  'lib/linux/process.ts',
  'lib/ocf.ts',
  'lib/parameters.ts',
  'lib/qemu/command-line.ts',
  'lib/qemu/qemu-process.ts',
  'lib/qemu/qmp.ts',
  'lib/qemu/unix-socket.ts',
  'lib/quiesce/proof.ts',
  'lib/record/directory.ts',
  'lib/record/io-error.ts',
  'lib/record/json-file.ts',
  'lib/record/pending-start.ts',
  'lib/record/record.ts',
  'lib/record/reported.ts',
  'lib/record/resources.ts',
  'lib/record/running-record.ts',
  'lib/state/classify.ts',
  'lib/state/observation.ts',
  'lib/words.ts',
];

test('the monitor of a guest that runs compiles these modules and no others', () => {
  assert.deepEqual(Object.keys(main.inputs).toSorted(), HOT_PATH);
});

test('of Node.js it loads the file system and paths, and nothing else', () => {
  const imported = Object.values(main.inputs).flatMap(({ imports }) => imports);
  const modules = new Set(imported.filter(({ external }) => external).map(({ path }) => path));
  assert.deepEqual([...modules].toSorted(), ['node:fs', 'node:path']);
});

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import type { Metafile } from 'esbuild';

/** esbuild's account of the bundle, written beside the binary. */
const account: Metafile = JSON.parse(
  readFileSync(new URL('../../build/kvmha.meta.json', import.meta.url), 'utf8'),
);

/** What is evaluated as soon as `entries` are: all that they import, but not by `import()`. */
function evaluatedWith(...entries: string[]): Set<string> {
  const evaluated = new Set<string>();
  const waiting = [...entries];
  for (let path = waiting.pop(); path !== undefined; path = waiting.pop()) {
    const input = account.inputs[path];
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
  assert.deepEqual(librariesOf(evaluatedWith('agent/main.ts', 'agent/ocf/main.ts')), []);
});

test('the agent does not evaluate the command, nor the command the agent', () => {
  assert.ok(!evaluatedWith('agent/main.ts', 'agent/ocf/main.ts').has('agent/command/main.ts'));
  assert.ok(!evaluatedWith('agent/main.ts', 'agent/command/main.ts').has('agent/ocf/main.ts'));
});

test('the graph that these tests walk knows the libraries', () => {
  assert.ok(librariesOf(evaluatedWith('agent/command/main.ts')).some((path) => path.includes('commander')));
});

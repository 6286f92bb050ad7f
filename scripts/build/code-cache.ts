/**
 * Writes what V8 compiles of a bundled script: node scripts/build/code-cache.ts main|whole SCRIPT CODE
 *
 * Of agent/main.ts that is all of it, because nearly all of it is run in each call. agent/whole.ts is far larger, and
 * is run until it has said how the agent is used: so the code is among it that every call of the agent passes through.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { setFlagsFromString } from 'node:v8';
import { compile, run } from '../../agent/packed/script.ts';
import type { runAs } from '../../agent/whole.ts';

const [name, source = '', code = ''] = process.argv.slice(2);
const script = readFileSync(source, 'utf8');

// V8 takes compiled code only with the flags that it was written with, so each flag that is set here is unset again.
async function compiled(): Promise<Buffer> {
  if (name === 'main') {
    setFlagsFromString('--no-lazy');
    const main = compile(name, script);
    setFlagsFromString('--lazy');
    return main.createCachedData();
  }
  // Compiled code grows older with each garbage collection, and its age is written, too: on a busy machine another one.
  setFlagsFromString('--no-flush-bytecode');
  const whole = compile('whole', script);
  await run<{ readonly runAs: typeof runAs }>(whole).runAs('KvmGuest', ['usage'], false);
  setFlagsFromString('--flush-bytecode');
  return whole.createCachedData();
}

writeFileSync(code, await compiled());

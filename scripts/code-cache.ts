/**
 * Writes what V8 compiles of agent/whole.ts as a bundled script: node scripts/code-cache.ts SCRIPT CACHE
 *
 * The script is compiled as agent/packed.ts does it, and run until it has said how the agent is used: so the code is
 * among it that every call of the agent passes through.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { setFlagsFromString } from 'node:v8';
import { loadWhole } from '../agent/packed.ts';

const [script = '', cache = ''] = process.argv.slice(2);
// Compiled code grows older with each garbage collection, and its age is written, too: on a busy machine another one.
setFlagsFromString('--no-flush-bytecode');
const { compiled, runAs } = loadWhole(readFileSync(script, 'utf8'));
await runAs('KvmGuest', ['usage'], false);
// V8 takes compiled code only with the flags that it was written with.
setFlagsFromString('--flush-bytecode');
writeFileSync(cache, compiled.createCachedData());

/**
 * Builds the one binary `kvmha`: node scripts/build.ts OUTPUT [pkg|bun]
 *
 * esbuild bundles the sources and the libraries into two scripts: agent/main.ts, which is run at every start and so is
 * kept small, and agent/whole.ts, which is loaded when it is needed. pkg, or Bun, makes an executable of them. Nothing is
 * downloaded. Beside OUTPUT stay the scripts (OUTPUT.main.cjs, OUTPUT.whole.cjs), esbuild's account of what is in them
 * (OUTPUT.meta.json, an account for each), and OUTPUT.licenses, the terms of all that is in the binary and not ours.
 */
import { renameSync, rmSync, writeFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { root } from './build/bundle.ts';
import { licenses } from './build/licenses.ts';
import { BUN } from './build/with-bun.ts';
import { PKG } from './build/with-pkg.ts';

const RUNTIMES = new Map([
  ['pkg', PKG],
  ['bun', BUN],
]);

const output = resolve(process.argv[2] ?? `${root}/build/kvmha`);
const name = process.argv[3] ?? 'pkg';
const runtime = RUNTIMES.get(name);
if (runtime === undefined) {
  console.error(`kvmha is built with ${[...RUNTIMES.keys()].join(' or ')}, not with "${name}"`);
  process.exit(2);
}
if (process.platform !== 'linux') {
  console.error(`kvmha is a program for Linux, and this is ${process.platform}`);
  process.exit(2);
}
const unfinished = `${output}.${process.pid}`;
try {
  const { main, whole } = await runtime.bundle(output);
  writeFileSync(`${output}.meta.json`, JSON.stringify({ main, whole }));
  writeFileSync(
    `${output}.licenses`,
    licenses(Object.keys({ ...main.inputs, ...whole.inputs }), runtime.package()),
  );
  await runtime.pack(output, unfinished);
  // An agent may be running from the old file: replace it, never write into it.
  renameSync(unfinished, output);
} finally {
  rmSync(unfinished, { force: true });
}

import type { Script } from 'node:vm';

/** The scripts that pkg packs (scripts/build.ts). Each is an asset of the binary, with what V8 has compiled of it. */
export type PackedScript = 'main' | 'whole';

/** The names of the two assets of a script: what esbuild has made of it, and what V8 has compiled of that. */
export function assetsOf(name: PackedScript): { readonly source: string; readonly code: string } {
  return { source: `${name}.cjs`, code: `${name}.code` };
}

/** Runs a packed script. @returns what it exports */
export function runPacked<Exports>(name: PackedScript): Exports {
  const { getAsset, getRawAsset } = process.getBuiltinModule('node:sea');
  const { source, code } = assetsOf(name);
  const compiled = new Uint8Array(getRawAsset(code) as ArrayBuffer);
  return run(compile(name, getAsset(source, 'utf8'), compiled));
}

/** @param code what V8 has compiled of it; where this V8 cannot use that, it compiles it anew */
export function compile(name: PackedScript, source: string, code?: Uint8Array): Script {
  const vm = process.getBuiltinModule('node:vm');
  return new vm.Script(`(function (module, require) {${source}\n})`, {
    filename: assetsOf(name).source,
    ...(code === undefined ? {} : { cachedData: code }),
  });
}

/** @returns what the script exports */
export function run<Exports>(script: Script): Exports {
  const module = { exports: {} as Exports };
  script.runInThisContext()(module, process.getBuiltinModule);
  return module.exports;
}

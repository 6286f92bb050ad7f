import type { Script } from 'node:vm';
import type { runAs as runAsWhole } from './whole.ts';

/** The assets of the binary (scripts/build.ts): whole.ts as a script, and what V8 has compiled of it. */
export const WHOLE = 'whole.cjs';
export const WHOLE_CACHE = 'whole.cache';

/** Stands for whole.ts in the binary, and loads it only when it is called. */
export const runAs: typeof runAsWhole = (...call) => {
  const { getAsset, getRawAsset } = process.getBuiltinModule('node:sea');
  const cache = new Uint8Array(getRawAsset(WHOLE_CACHE) as ArrayBuffer);
  return loadWhole(getAsset(WHOLE, 'utf8'), cache).runAs(...call);
};

/**
 * Loads whole.ts from what esbuild has made of it.
 *
 * @param cache what V8 has compiled of it; where this V8 cannot use that, it compiles it anew
 */
export function loadWhole(
  source: string,
  cache?: Uint8Array,
): { readonly compiled: Script; readonly runAs: typeof runAsWhole } {
  const vm = process.getBuiltinModule('node:vm');
  const compiled = new vm.Script(`(function (module, require) {${source}\n})`, {
    filename: WHOLE,
    ...(cache === undefined ? {} : { cachedData: cache }),
  });
  const module: { exports: { readonly runAs?: typeof runAsWhole } } = { exports: {} };
  compiled.runInThisContext()(module, process.getBuiltinModule);
  return { compiled, runAs: module.exports.runAs as typeof runAsWhole };
}

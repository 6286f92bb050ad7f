import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { build, type Metafile } from 'esbuild';

export const root = resolve(import.meta.dirname, '../..');

/** What stands for a module in the binary, by its name in an import; both are paths from the project's folder. */
export type Substitutes = { readonly [imported: `./${string}.ts`]: string };

/**
 * Bundles a module and all that it imports, libraries included, into one CommonJS script.
 *
 * @param external what the script loads by `require` when it needs it
 * @returns esbuild's account of what is in it
 */
export async function bundle(
  entry: string,
  script: string,
  substitutes: Substitutes,
  external: string[] = [],
): Promise<Metafile> {
  const { version } = JSON.parse(readFileSync(`${root}/package.json`, 'utf8'));
  const result = await build({
    absWorkingDir: root,
    entryPoints: [entry],
    plugins: [
      {
        name: 'substitutes',
        setup({ onResolve }) {
          onResolve({ filter: /^\.\/[^/]+\.ts$/ }, ({ path, kind }) => {
            const substitute = kind === 'entry-point' ? undefined : substitutes[path as `./${string}.ts`];
            return substitute === undefined ? undefined : { path: `${root}/${substitute}` };
          });
        },
      },
    ],
    outfile: script,
    bundle: true,
    external,
    metafile: true,
    platform: 'node',
    target: 'node24',
    format: 'cjs',
    // `import()` of one's own modules becomes a call of a function that evaluates them once; that of Node's
    // modules has to become `require`, because a script with a code cache cannot import.
    supported: { 'dynamic-import': false },
    // Names stay, for stack traces; lines stay short, because Node prints the line of an uncaught error.
    minifySyntax: true,
    minifyWhitespace: true,
    lineLimit: 120,
    define: {
      KVMHA_METADATA: JSON.stringify(readFileSync(`${root}/ocf-metadata.xml`, 'utf8')),
      KVMHA_WATCH_METADATA: JSON.stringify(readFileSync(`${root}/agent/watch/metadata.xml`, 'utf8')),
      KVMHA_VERSION: JSON.stringify(version),
    },
    logOverride: { 'empty-import-meta': 'silent' }, // only read when run from the sources
  });
  return result.metafile;
}

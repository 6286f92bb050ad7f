/**
 * Builds the one binary `kvmha`: node scripts/build.ts OUTPUT
 *
 * esbuild bundles agent/main.ts and the libraries into one script, pkg puts it into a copy of the Node that
 * runs this file (node_modules/node). Nothing is downloaded. Beside OUTPUT stay OUTPUT.cjs, the script,
 * OUTPUT.meta.json, esbuild's account of what is in it, and OUTPUT.licenses, the terms of all that is in it
 * and not ours.
 */
import { globSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { basename, dirname, resolve } from 'node:path';
import { build, type Metafile } from 'esbuild';
import { reproduciblePkg } from './reproducible-pkg.ts';

const root = resolve(import.meta.dirname, '..');

async function bundle(script: string): Promise<Metafile> {
  const { version } = JSON.parse(readFileSync(`${root}/package.json`, 'utf8'));
  const result = await build({
    absWorkingDir: root,
    entryPoints: ['agent/main.ts'],
    outfile: script,
    bundle: true,
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

function licenses(account: Metafile): string {
  const packages = Object.keys(account.inputs).flatMap(
    (path) => /^(?:.*\/)?node_modules\/(?:@[^/]+\/)?[^/]+(?=\/)/.exec(path) ?? [],
  );
  const node = globSync(`node_modules/node/**/node-linux-${process.arch}`, { cwd: root });
  return [...new Set([...packages.toSorted(), ...node])].map(licenseOf).join('\n');
}

function licenseOf(directory: string): string {
  const { name, version } = JSON.parse(readFileSync(`${root}/${directory}/package.json`, 'utf8'));
  const [file] = globSync('{LICENSE,license}{,.txt,.md}', { cwd: `${root}/${directory}` });
  if (file === undefined) {
    throw new Error(`${name} is part of the binary, but its licence was not found`);
  }
  const text = readFileSync(`${root}/${directory}/${file}`, 'utf8').trim();
  return `==== ${name} ${version} ====\n\n${text}\n`;
}

/**
 * Packs `script` with pkg's function for a single script rather than with its command: only the function
 * takes a Node that is already there and a configuration for Node's single executables.
 */
async function pack(script: string, output: string): Promise<void> {
  const arch = process.arch;
  if (process.platform !== 'linux') {
    throw new Error(`kvmha is a program for Linux, and this is ${process.platform}`);
  }
  const seaConfig = {
    main: basename(script),
    disableExperimentalSEAWarning: true,
    useSnapshot: false,
    // A third of the start-up time is spent compiling otherwise.
    useCodeCache: true,
    // What the agent prints on standard error ends up in the cluster's log, and what it does must not depend
    // on a NODE_OPTIONS of the operator's shell.
    execArgv: ['--no-warnings'],
    execArgvExtension: 'none',
  };
  const target = {
    nodeRange: `node${process.versions.node}` as const,
    platform: 'linux' as const,
    arch,
    output,
  };
  const pkg = await reproduciblePkg(dirname(script));
  await pkg(script, { targets: [target], nodePath: process.execPath, seaConfig });
}

const output = resolve(process.argv[2] ?? `${root}/build/kvmha`);
const unfinished = `${output}.${process.pid}`;
try {
  const account = await bundle(`${output}.cjs`);
  writeFileSync(`${output}.meta.json`, JSON.stringify(account));
  writeFileSync(`${output}.licenses`, licenses(account));
  await pack(`${output}.cjs`, unfinished);
  // An agent may be running from the old file: replace it, never write into it.
  renameSync(unfinished, output);
} finally {
  rmSync(unfinished, { force: true });
}

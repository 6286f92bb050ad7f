/**
 * Builds the one binary `kvmha`: node scripts/build.ts OUTPUT
 *
 * esbuild bundles the sources and the libraries into two scripts: agent/main.ts, which is run at every start and so is
 * kept small, and agent/whole.ts, which is loaded when it is needed. pkg puts them into a copy of the Node that runs this
 * file (node_modules/node), as assets. Nothing is downloaded. Beside OUTPUT stay the scripts (OUTPUT.main.cjs,
 * OUTPUT.whole.cjs), what V8 has compiled of them (OUTPUT.main.code, OUTPUT.whole.code), esbuild's account of what is in
 * them (OUTPUT.meta.json, an account for each entry point), and OUTPUT.licenses, the terms of all that is in them and not
 * ours.
 */
import { execFileSync } from 'node:child_process';
import { globSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { basename, dirname, resolve } from 'node:path';
import { build, type Metafile, type Plugin } from 'esbuild';
import { assetsOf, type PackedScript } from '../agent/packed/script.ts';
import { reproduciblePkg, SAME_HASHES } from './reproducible-pkg.ts';

const root = resolve(import.meta.dirname, '..');

/** In the binary, what loads agent/whole.ts stands for it. */
const packed: Plugin = {
  name: 'packed',
  setup({ onResolve }) {
    onResolve({ filter: /^\.\/whole\.ts$/ }, () => ({
      path: `${root}/agent/packed/whole-of-pkg.ts`,
    }));
  },
};

async function bundle(entry: string, script: string): Promise<Metafile> {
  const { version } = JSON.parse(readFileSync(`${root}/package.json`, 'utf8'));
  const result = await build({
    absWorkingDir: root,
    entryPoints: [entry],
    plugins: [packed],
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

/** Writes what V8 compiles of a script beside it. @returns both, as assets of the binary */
function compiled(name: PackedScript): { readonly [asset: string]: string } {
  const program = `${import.meta.dirname}/code-cache.ts`;
  const { source, code } = assetsOf(name);
  const files = [`${output}.${source}`, `${output}.${code}`] as const;
  execFileSync(process.execPath, [SAME_HASHES, program, name, ...files], {
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  return { [source]: basename(files[0]), [code]: basename(files[1]) };
}

function licenses(inputs: readonly string[]): string {
  const packages = inputs.flatMap(
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
async function pack(
  script: string,
  assets: { readonly [asset: string]: string },
  program: string,
): Promise<void> {
  const arch = process.arch;
  if (process.platform !== 'linux') {
    throw new Error(`kvmha is a program for Linux, and this is ${process.platform}`);
  }
  const seaConfig = {
    main: basename(script),
    assets,
    disableExperimentalSEAWarning: true,
    useSnapshot: false,
    useCodeCache: false, // agent/packed/start.ts
    // What the agent prints on standard error ends up in the cluster's log, and what it does must not depend
    // on a NODE_OPTIONS of the operator's shell.
    // What OPENSSL_CONF names could load a library into the binary, and SIGUSR1 would open a debugger's port, to which
    // every local user could connect and then be root.
    // Node's four helper threads are more than an agent has work for, and it waits forever for those that the kernel
    // refuses where the number of tasks is limited.
    execArgv: ['--no-warnings', '--disable-sigusr1', '--openssl-config=/dev/null', '--v8-pool-size=1'],
    execArgvExtension: 'none',
  };
  const target = {
    nodeRange: `node${process.versions.node}` as const,
    platform: 'linux' as const,
    arch,
    output: program,
  };
  const pkg = await reproduciblePkg(dirname(script));
  await pkg(script, { targets: [target], nodePath: process.execPath, seaConfig });
}

const output = resolve(process.argv[2] ?? `${root}/build/kvmha`);
const unfinished = `${output}.${process.pid}`;
try {
  await bundle('agent/packed/start.ts', `${output}.cjs`);
  const main = await bundle('agent/main.ts', `${output}.main.cjs`);
  const whole = await bundle('agent/whole.ts', `${output}.whole.cjs`);
  writeFileSync(`${output}.meta.json`, JSON.stringify({ main, whole }));
  writeFileSync(`${output}.licenses`, licenses(Object.keys({ ...main.inputs, ...whole.inputs })));
  await pack(`${output}.cjs`, { ...compiled('main'), ...compiled('whole') }, unfinished);
  // An agent may be running from the old file: replace it, never write into it.
  renameSync(unfinished, output);
} finally {
  rmSync(unfinished, { force: true });
}

import { execFileSync } from 'node:child_process';
import { globSync } from 'node:fs';
import { basename, dirname } from 'node:path';
import { assetsOf, type PackedScript } from '../../agent/packed/script.ts';
import { bundle, root } from './bundle.ts';
import { reproduciblePkg, SAME_HASHES } from './reproducible-pkg.ts';
import type { Contents, Runtime } from './runtime.ts';

/**
 * pkg puts the scripts, as assets, into a copy of the Node that runs this file (node_modules/node). Beside the binary
 * stays also what V8 has compiled of them (OUTPUT.main.code, OUTPUT.whole.code).
 */
export const PKG: Runtime = {
  async bundle(output) {
    const substitutes = { './whole.ts': 'agent/packed/whole-of-pkg.ts' } as const;
    await bundle('agent/packed/start.ts', `${output}.cjs`, substitutes);
    return {
      main: await bundle('agent/main.ts', `${output}.main.cjs`, substitutes),
      whole: await bundle('agent/whole.ts', `${output}.whole.cjs`, substitutes),
    } satisfies Contents;
  },

  package() {
    const [found] = globSync(`node_modules/node/**/node-linux-${process.arch}`, { cwd: root });
    if (found === undefined) {
      throw new Error(`node_modules/node has no Node.js for ${process.arch}`);
    }
    return found;
  },

  async pack(output, program) {
    await pack(`${output}.cjs`, { ...compiled(output, 'main'), ...compiled(output, 'whole') }, program);
  },
};

/** Writes what V8 compiles of a script beside it. @returns both, as assets of the binary */
function compiled(output: string, name: PackedScript): { readonly [asset: string]: string } {
  const program = `${import.meta.dirname}/code-cache.ts`;
  const { source, code } = assetsOf(name);
  const files = [`${output}.${source}`, `${output}.${code}`] as const;
  execFileSync(process.execPath, [SAME_HASHES, program, name, ...files], {
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  return { [source]: basename(files[0]), [code]: basename(files[1]) };
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
    arch: process.arch,
    output: program,
  };
  const pkg = await reproduciblePkg(dirname(script));
  await pkg(script, { targets: [target], nodePath: process.execPath, seaConfig });
}

import { execFileSync } from 'node:child_process';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { bundle, root } from './bundle.ts';
import { deafened } from './deaf-bun.ts';
import type { Contents, Runtime } from './runtime.ts';

/** How agent/packed/whole-of-bun.ts loads the rest of the agent. */
const WHOLE = './whole.cjs';

const PACKAGE = 'node_modules/@oven/bun-linux-x64';

const OPTIONS = [
  '--compile',
  '--compile-executable-path=./bun',
  '--bytecode',
  // Nothing is compiled to machine code in the milliseconds that a monitor takes.
  '--compile-jit-policy=1000',
  '--no-compile-autoload-dotenv',
  '--no-compile-autoload-bunfig',
];

/**
 * Bun compiles the scripts to bytecode and puts that into a copy of itself, one that no variable of the environment
 * reaches (deaf-bun.ts).
 */
export const BUN: Runtime = {
  async bundle(output) {
    const substitutes = {
      './whole.ts': 'agent/packed/whole-of-bun.ts',
      './unix-socket.ts': 'lib/qemu/unix-socket-of-bun.ts',
    } as const;
    return {
      main: await bundle('agent/main.ts', `${output}.main.cjs`, substitutes, [WHOLE]),
      whole: await bundle('agent/whole.ts', `${output}.whole.cjs`, substitutes),
    } satisfies Contents;
  },

  package() {
    if (!existsSync(`${root}/${PACKAGE}/bin/bun`)) {
      throw new Error(
        `${PACKAGE} is not there: it exists for x86-64 only, and npm may omit optional packages`,
      );
    }
    return PACKAGE;
  },

  async pack(output, program) {
    const bun = `${root}/${BUN.package()}/bin/bun`;
    const directory = `${program}.parts`;
    try {
      mkdirSync(directory);
      writeFileSync(`${directory}/bun`, deafened(readFileSync(bun)), { mode: 0o755 });
      copyFileSync(`${output}.main.cjs`, `${directory}/main.cjs`);
      copyFileSync(`${output}.whole.cjs`, `${directory}/${WHOLE}`);
      execFileSync(bun, ['build', 'main.cjs', '--outfile=kvmha', ...OPTIONS], {
        cwd: directory,
        stdio: ['ignore', 'ignore', 'inherit'],
      });
      renameSync(`${directory}/kvmha`, program);
    } finally {
      rmSync(directory, { recursive: true, force: true });
    }
  },
};

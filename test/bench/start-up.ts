/**
 * Measures how long calls of the binary take as whole processes: node test/bench/start-up.ts BINARY [RUNS]
 *
 * The calls take turns, so that a machine whose speed drifts does not favour one of them. VirtualDomain's
 * meta-data, where it is installed, shows what a shell script costs on the same machine.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

interface Call {
  readonly name: string;
  readonly program: string;
  readonly args: readonly string[];
  readonly milliseconds: number[];
}

const WARM_UP = 2;
const binary = resolve(process.argv[2] ?? 'build/kvmha');
const runs = Number(process.argv[3] ?? 30);

const directory = mkdtempSync(join(tmpdir(), 'kvmha-bench-'));
const agent = join(directory, 'KvmGuest');
symlinkSync(binary, agent);

const virtualDomain = '/usr/lib/ocf/resource.d/heartbeat/VirtualDomain';
const calls: Call[] = [
  { name: 'KvmGuest meta-data', program: agent, args: ['meta-data'], milliseconds: [] },
  { name: 'kvmha --version', program: binary, args: ['--version'], milliseconds: [] },
  { name: 'VirtualDomain meta-data', program: virtualDomain, args: ['meta-data'], milliseconds: [] },
].filter(({ program }) => existsSync(program));

const env = { ...process.env, OCF_ROOT: '/usr/lib/ocf' };
try {
  for (let run = -WARM_UP; run < runs; run += 1) {
    for (const { name, program, args, milliseconds } of calls) {
      const start = performance.now();
      const { status } = spawnSync(program, args, { stdio: ['ignore', 'pipe', 'pipe'], env });
      const elapsed = performance.now() - start;
      if (status !== 0) {
        throw new Error(`${name} exited ${status}`);
      }
      if (run >= 0) {
        milliseconds.push(elapsed);
      }
    }
  }
} finally {
  rmSync(directory, { recursive: true });
}

console.log(`${runs} runs of each, in ms     min  median     max`);
for (const { name, milliseconds } of calls) {
  const sorted = milliseconds.toSorted((a, b) => a - b);
  const figures = [sorted[0], sorted[Math.floor(sorted.length / 2)], sorted.at(-1)];
  console.log(name.padEnd(24) + figures.map((figure = Number.NaN) => figure.toFixed(1).padStart(8)).join(''));
}

import { writeFileSync } from 'node:fs';
import type { Command } from 'commander';
import { messageOf } from '../../lib/error.ts';
import type { LabNode } from '../lab/client.ts';
import { machine } from './machine.ts';

/** Runs the program of a benchmark to the end of its process: exit code 1, and the reason, when it fails. */
export async function runProgram(program: Command): Promise<never> {
  try {
    await program.parseAsync();
  } catch (error) {
    console.error(`${program.name()}: ${messageOf(error)}`);
    process.exitCode = 1;
  }
  process.exit();
}

/** Says on what was measured and for how many minutes each, and keeps it all in the file `json`, if one is wanted. */
export async function conclude(
  node: LabNode,
  minutes: number,
  measured: readonly unknown[],
  json: string | undefined,
): Promise<void> {
  const on = await machine(node);
  console.log(`\nMeasured for ${minutes} min each on ${on}.`);
  if (json !== undefined) {
    const date = new Date().toISOString().slice(0, 10);
    writeFileSync(json, `${JSON.stringify({ on, date, minutes, measured }, null, 2)}\n`);
  }
}

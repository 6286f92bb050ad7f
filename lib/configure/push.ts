import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { ask, order } from '../cluster/ask.ts';
import { readConfiguration } from '../cluster/configuration.ts';
import type { Deadline } from '../deadline.ts';
import { KvmhaError } from '../error.ts';
import { makeStateDirectory } from '../record/directory.ts';

/**
 * Changes the cluster's configuration from `before` to `after`, all of it or nothing.
 *
 * @param before the CIB that `after` was made from
 * @throws KvmhaError `program-failed` when the configuration has been changed by somebody else meanwhile, or the
 *   cluster refuses the change
 */
export async function push(before: string, after: string, deadline: Deadline): Promise<void> {
  const now = await readConfiguration(deadline);
  if (now.kind !== 'configuration') {
    throw new KvmhaError('program-failed', `the cluster does not answer: ${now.why}`);
  }
  if (epochOf(now.cib) !== epochOf(before)) {
    throw new KvmhaError(
      'program-failed',
      'somebody else has changed the configuration of the cluster meanwhile: nothing was changed, call this again',
    );
  }
  const patch = await difference(before, after, deadline);
  if (patch === undefined) {
    return;
  }
  const answer = await ask('cibadmin', ['--patch', '--xml-pipe'], deadline, { input: patch });
  if (answer.kind !== 'answer' || answer.exitCode !== 0) {
    const why = answer.kind === 'answer' ? `it exited ${answer.exitCode}: ${answer.said}` : answer.why;
    throw new KvmhaError('program-failed', `cibadmin did not change the configuration: ${why}`);
  }
}

/** The version of a configuration; `num_updates` counts what happens in the cluster, too. */
function epochOf(cib: string): string {
  const value = (name: string) => new RegExp(`<cib [^>]*\\b${name}="(\\d+)"`).exec(cib)?.[1] ?? '';
  return `${value('admin_epoch')}.${value('epoch')}`;
}

/** @returns undefined when they are the same */
async function difference(before: string, after: string, deadline: Deadline): Promise<string | undefined> {
  // Not as arguments: a large cluster's configuration is longer than the kernel lets an argument be.
  const directory = mkdtempSync(join(makeStateDirectory(), 'configure-'));
  try {
    const files = { original: join(directory, 'before.xml'), new: join(directory, 'after.xml') };
    writeFileSync(files.original, before, { mode: 0o600 });
    writeFileSync(files.new, after, { mode: 0o600 });
    const words = ['--no-version', `--original=${files.original}`, `--new=${files.new}`];
    const answer = await ask('crm_diff', words, deadline);
    // It exits 1 where there is a difference.
    if (answer.kind !== 'answer' || answer.exitCode > 1) {
      const why = answer.kind === 'answer' ? `it exited ${answer.exitCode}: ${answer.said}` : answer.why;
      throw new KvmhaError('program-failed', `crm_diff could not be asked: ${why}`);
    }
    return answer.exitCode === 0 ? undefined : answer.stdout;
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

/**
 * Runs one of Pacemaker's programs that has to succeed.
 *
 * @throws KvmhaError `program-failed`
 */
export async function demand(program: string, args: readonly string[], deadline: Deadline): Promise<void> {
  const ordered = await order(program, args, deadline);
  if (ordered.kind !== 'done') {
    throw new KvmhaError('program-failed', `${program} ${args[0] ?? ''}: ${ordered.why}`);
  }
}

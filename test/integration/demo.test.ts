import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { after, before, test } from 'node:test';
import { until } from '../support/host.ts';

const DEMO = resolve(import.meta.dirname, '../demo/demo.ts');

let parent: string;
before(() => {
  parent = mkdtempSync(join(tmpdir(), 'kvmha-demo-test-'));
});
after(() => rmSync(parent, { recursive: true, force: true }));

/** Runs the demo with a folder of its own for whatever it leaves. */
function run(name: string) {
  const directory = join(parent, name);
  mkdirSync(directory);
  const child = spawn(process.execPath, [DEMO], {
    env: { ...process.env, TMPDIR: directory },
    detached: true,
  });
  const heard = { stdout: '', stderr: '' };
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    heard.stdout += text;
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    heard.stderr += text;
  });
  const ended = new Promise<number | null>((done) => child.on('close', done));
  return { child, heard, ended, directory };
}

/** Processes that have anything to do with the demo's folder: its lab, and through it every node. */
function processesOf(directory: string): string[] {
  return readdirSync('/proc')
    .filter((pid) => /^[0-9]+$/.test(pid))
    .flatMap((pid) => {
      try {
        const text =
          readFileSync(`/proc/${pid}/cmdline`, 'utf8') + readFileSync(`/proc/${pid}/mountinfo`, 'utf8');
        return text.includes(directory) ? [pid] : [];
      } catch {
        return [];
      }
    });
}

async function leavesNothing(directory: string): Promise<void> {
  await until('everything of the demo to be gone', () => {
    return readdirSync(directory).length === 0 && processesOf(directory).length === 0;
  });
}

test('the demo shows what it says, without colour where there is no terminal', async () => {
  const { heard, ended, directory } = run('whole');
  const code = await ended;
  assert.equal(code, 0, `${heard.stdout}\n${heard.stderr}`);
  assert.match(heard.stdout, /true {2}monitor answers 7 \(not running\)/);
  assert.match(heard.stdout, /Everything was as it was said to be/);
  assert.doesNotMatch(heard.stdout, /FALSE/);
  assert.ok(!heard.stdout.includes('\u001b'));
  assert.equal(heard.stderr, '');
  await leavesNothing(directory);
});

for (const [moment, sign] of [
  ['while the lab is built', /A lab:/],
  ['while guests run', /Its storage fails/],
] as const) {
  test(`Ctrl-C ${moment} leaves nothing behind`, async () => {
    const { child, heard, ended, directory } = run(moment.replaceAll(' ', '-'));
    await until('it to be so far', () => sign.test(heard.stdout));
    process.kill(-(child.pid ?? 0), 'SIGINT');
    assert.equal(await ended, 130, heard.stderr);
    assert.doesNotMatch(heard.stderr, /Error|at .*:\d+/);
    await leavesNothing(directory);
  });
}

import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { after, before, test } from 'node:test';
import { Deadline } from '../../lib/deadline.ts';
import { Lab } from '../lab/client.ts';
import { until } from '../support/host.ts';

const DEMO = resolve(import.meta.dirname, '../demo/demo.ts');

/** Milliseconds in which the demo comes to any point of it. */
const PATIENCE = 240_000;

let parent: string;
const running: ChildProcess[] = [];
before(() => {
  parent = mkdtempSync(join(tmpdir(), 'kvmha-demo-test-'));
});
after(() => {
  for (const child of running.filter(
    ({ exitCode, signalCode }) => exitCode === null && signalCode === null,
  )) {
    child.kill('SIGTERM');
  }
  rmSync(parent, { recursive: true, force: true });
});

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
  running.push(child);
  return { child, heard, ended, directory };
}

type Demo = ReturnType<typeof run>;

/** Waits until a demo has come so far. */
async function comesTo({ child, heard }: Demo, what: string, condition: () => boolean): Promise<void> {
  const ended = () => child.exitCode !== null;
  await Deadline.in(PATIENCE).poll(10, () => condition() || ended() || undefined);
  assert.ok(condition(), `the demo has not come to ${what}: ${heard.stdout}\n${heard.stderr}`);
}

/** Whether the demo has shown vm1 running elsewhere. */
const failsOver = ({ heard }: Demo) => /boot 2, which goes on/.test(heard.stdout);

/** The directory of the demo's lab, once its first node is being built. */
function labOf(directory: string): string | undefined {
  return readdirSync(directory)
    .flatMap((own) => readdirSync(join(directory, own)).map((name) => join(directory, own, name)))
    .find((path) => existsSync(join(path, 'node1.pid')));
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
  assert.match(
    heard.stdout,
    /^ *\+\d\.\d\d s {2}vm1 is quiesced, and each part of the proof has been observed$/m,
  );
  assert.match(heard.stdout, /^ {4}true {2}no node was fenced/m);
  assert.match(heard.stdout, /Everything was as it was said to be/);
  assert.doesNotMatch(heard.stdout, /FALSE/);
  assert.ok(!heard.stdout.includes('\u001b'));
  assert.equal(heard.stderr, '');
  await leavesNothing(directory);
});

test('a claim of the demo that does not hold is said, and ends it with exit code 1', async () => {
  const demo = run('sabotaged');
  const { heard, ended, directory } = demo;
  await comesTo(demo, 'the failover', () => failsOver(demo));
  const lab = labOf(directory);
  assert.ok(lab);
  // Past kvmha, where the demo says that it is alive.
  await Lab.attach(lab).node(1).check(['pkill', '-KILL', '-f', 'guest=vm1,']);
  assert.equal(await ended, 1, `${heard.stdout}\n${heard.stderr}`);
  assert.match(heard.stdout, /^ {3}FALSE {2}/m);
  assert.match(heard.stdout, /This did NOT hold: .*The demonstration ends here/);
  assert.doesNotMatch(heard.stdout, /Everything was as it was said to be/);
  await leavesNothing(directory);
});

for (const [moment, come] of [
  ['while the lab is built', ({ directory }: Demo) => labOf(directory) !== undefined],
  ['while a guest fails over', ({ heard }: Demo) => /From now on node1 fails/.test(heard.stdout)],
] as const) {
  test(`Ctrl-C ${moment} leaves nothing behind`, async () => {
    const demo = run(moment.replaceAll(' ', '-'));
    const { child, heard, ended, directory } = demo;
    await comesTo(demo, moment, () => come(demo));
    process.kill(-(child.pid ?? 0), 'SIGINT');
    assert.equal(await ended, 130, heard.stderr);
    assert.doesNotMatch(heard.stdout, /FALSE/);
    assert.doesNotMatch(heard.stderr, /Error|at .*:\d+/);
    await leavesNothing(directory);
  });
}

test('a demo that nobody reads any more ends, and leaves nothing behind', async () => {
  const demo = run('unread');
  const { child, heard, ended, directory } = demo;
  await comesTo(demo, 'its lab', () => labOf(directory) !== undefined);
  child.stdout.destroy();
  assert.equal(await ended, 141);
  assert.equal(heard.stderr, '');
  await leavesNothing(directory);
});

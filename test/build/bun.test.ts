import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { deafened } from '../../scripts/build/deaf-bun.ts';
import { BUN } from '../../scripts/build/with-bun.ts';
import { Fault } from '../fault/fault.ts';
import { answers, Host } from '../support/host.ts';
import { DANGEROUS_FOR_BUN } from '../support/runtime.ts';

const project = join(import.meta.dirname, '../..');

function whyNot(): string | false {
  try {
    BUN.package();
    return false;
  } catch (error) {
    return String(error);
  }
}

/** `command` with nothing in its environment but `env`. */
function run(command: string, args: readonly string[], env: Record<string, string>) {
  return spawnSync(command, args, { env, encoding: 'utf8', timeout: 60_000 });
}

describe('built with Bun', { skip: whyNot() }, () => {
  let folder: string;
  let binaries: string[];
  before(() => {
    folder = mkdtempSync(join(tmpdir(), 'kvmha-bun-'));
    binaries = ['one', 'another'].map((name) => {
      const binary = join(folder, name, 'KvmGuest');
      mkdirSync(join(folder, name));
      execFileSync(process.execPath, [join(project, 'scripts/build.ts'), binary, 'bun'], { stdio: 'pipe' });
      return binary;
    });
  });
  after(() => rmSync(folder, { recursive: true, force: true }));

  test('the binary is the same to the byte in two folders', () => {
    const [one, another] = binaries.map((path) =>
      createHash('sha256').update(readFileSync(path)).digest('hex'),
    );
    assert.equal(one, another);
  });

  test('it heeds no variable that tells an executable of Bun what to do', () => {
    const metadata = readFileSync(join(project, 'ocf-metadata.xml'), 'utf8');
    for (const [name, value] of Object.entries(DANGEROUS_FOR_BUN)) {
      const { status, stdout, stderr } = run(binaries[0] ?? '', ['meta-data'], { [name]: value });
      assert.deepEqual({ status, stdout, stderr }, { status: 0, stdout: metadata, stderr: '' }, name);
    }
  });

  test('which an executable does that Bun makes of itself', () => {
    const bun = join(project, BUN.package(), 'bin/bun');
    writeFileSync(join(folder, 'own.js'), 'console.log("own");\n');
    writeFileSync(join(folder, 'foreign.js'), 'console.log("foreign");\n');
    execFileSync(bun, ['build', '--compile', 'own.js', '--outfile=own'], { cwd: folder, stdio: 'pipe' });
    const own = (env: Record<string, string>) => run(join(folder, 'own'), ['--version'], env).stdout;
    assert.equal(own({}), 'own\n');
    assert.match(own({ BUN_BE_BUN: '1' }), /^\d+\.\d+\.\d+$/m);
    assert.equal(own({ BUN_OPTIONS: `--preload=${folder}/foreign.js` }), 'foreign\nown\n');
    assert.equal(own({ BUN_JSC_noSuchOption: '1' }), '');
  });

  test('a Bun that is made in another way than the one that was examined is refused', () => {
    assert.throws(() => deafened(Buffer.from('\0BUN_OPTIONS\0')), /BUN_BE_BUN.* not found, 0 searches/);
  });

  test('it starts, monitors, quiesces and stops a guest, and knows when there is none', async (t) => {
    const host = await Host.up();
    t.after(() => host[Symbol.asyncDispose]());
    copyFileSync(binaries[0] ?? '', host.node.path('/usr/sbin/kvmha'));
    const guest = await host.running('bun');
    answers(await guest.monitor({ meta: { interval: '10000' } }), 0);
    answers(await guest.probe(), 0);
    new Fault(host.node, guest.fault).set('W', guest.disk);
    await guest.untilState('paused (I/O error)');
    answers(await guest.monitor({ meta: { interval: '10000' } }), 7, /quiesced-failover-safe/);
    answers(await guest.stop(), 0);
    const released = await host.node.exec(['kvmha', 'release', '--without-postmortem', 'bun']);
    assert.equal(released.exitCode, 0, released.stderr);
    answers(await guest.monitor({ meta: { role: 'Stopped', interval: '11000' } }), 7);
    answers(await guest.probe(), 7);
  });
});

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { SAME_HASHES } from '../../scripts/build/reproducible-pkg.ts';

const project = join(import.meta.dirname, '../..');

const sumOf = (path: string) => createHash('sha256').update(readFileSync(path)).digest('hex');

describe('two builds in two folders', () => {
  let folder: string;
  let binaries: string[];
  before(() => {
    folder = mkdtempSync(join(tmpdir(), 'kvmha-builds-'));
    binaries = ['one', 'another'].map((name) => {
      const directory = join(folder, name);
      mkdirSync(directory);
      const binary = join(directory, 'kvmha');
      execFileSync(process.execPath, [join(project, 'scripts/build.ts'), binary], {
        cwd: directory,
        stdio: 'pipe',
      });
      return binary;
    });
  });
  after(() => rmSync(folder, { recursive: true, force: true }));

  test('give the same binary, to the byte', () => {
    const [one, another] = binaries.map(sumOf);
    assert.equal(one, another);
  });

  test('hold compiled code that a process with other hashes takes', () => {
    const script = `${binaries[0]}.main.cjs`;
    const code = join(folder, 'code');
    const node = (...args: string[]) => execFileSync(process.execPath, args, { encoding: 'utf8' }).trim();
    const compiled = `new vm.Script(fs.readFileSync('${script}', 'utf8')`;
    node(SAME_HASHES, '-e', `fs.writeFileSync('${code}', ${compiled}).createCachedData())`);
    assert.equal(
      node('-p', `${compiled}, { cachedData: fs.readFileSync('${code}') }).cachedDataRejected`),
      'false',
    );
  });
});

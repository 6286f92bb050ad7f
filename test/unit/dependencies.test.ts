import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';

interface Locked {
  readonly version: string;
  readonly resolved?: string;
  readonly integrity?: string;
  readonly dev?: boolean;
  readonly optional?: boolean;
  readonly hasInstallScript?: boolean;
}

const project = join(import.meta.dirname, '../..');
const read = (name: string) => JSON.parse(readFileSync(join(project, name), 'utf8'));
const manifest = read('package.json');
const packages = Object.entries<Locked>(read('package-lock.json').packages).filter(([path]) => path !== '');
const nameOf = (path: string) => path.replace(/^.*node_modules\//, '');

describe('what kvmha depends on', () => {
  test('is named with one version each', () => {
    for (const [name, version] of Object.entries<string>({
      ...manifest.dependencies,
      ...manifest.devDependencies,
      ...manifest.optionalDependencies,
    })) {
      assert.match(version, /^\d+\.\d+\.\d+$/, name);
      assert.equal(packages.find(([path]) => path === `node_modules/${name}`)?.[1].version, version);
    }
  });

  test('comes from the registry, with a checksum', () => {
    for (const [path, { resolved, integrity }] of packages) {
      assert.match(resolved ?? 'https://registry.npmjs.org/', /^https:\/\/registry\.npmjs\.org\//, path);
      assert.match(integrity ?? '', /^sha512-/, path);
    }
  });

  test('is little where it is part of the binary, and has no scripts that npm runs', () => {
    // What is optional is for `make build RUNTIME=bun`.
    const production = packages.filter(([, { dev, optional }]) => dev !== true && optional !== true);
    assert.ok(Object.keys(manifest.dependencies).length <= 4);
    assert.ok(production.length <= 22, production.map(([path]) => nameOf(path)).join(' '));
    assert.deepEqual(
      production.filter(([, { hasInstallScript }]) => hasInstallScript === true),
      [],
    );
  });

  test('runs scripts when it is installed only where package.json allows it', () => {
    const withScripts = packages.filter(([, { hasInstallScript }]) => hasInstallScript === true);
    assert.deepEqual(
      [...new Set(withScripts.map(([path]) => nameOf(path)))].sort(),
      Object.keys(manifest.allowScripts).sort(),
    );
  });
});

describe('the audit', () => {
  const directory = mkdtempSync(join(tmpdir(), 'kvmha-audit-'));
  after(() => rmSync(directory, { recursive: true, force: true }));

  /** scripts/audit.sh with an npm that prints and exits so. */
  function audit(printed: string, code: number) {
    writeFileSync(join(directory, 'npm'), `#!/bin/sh\necho '${printed}'\nexit ${code}\n`);
    chmodSync(join(directory, 'npm'), 0o755);
    const env = { PATH: `${directory}:${process.env['PATH']}` };
    return spawnSync(join(project, 'scripts/audit.sh'), { env, encoding: 'utf8' });
  }

  test('fails for a known vulnerability, and shows it', () => {
    const { status, stdout, stderr } = audit('{"auditReportVersion": 2, "vulnerabilities": {"yaml": {}}}', 1);
    assert.equal(status, 1);
    assert.match(stdout, /"yaml"/);
    assert.match(stderr, /known vulnerabilities/);
  });

  test('is skipped, and says so, where the registry does not answer', () => {
    const { status, stdout } = audit('{"message": "request failed", "error": {"summary": ""}}', 1);
    assert.equal(status, 0);
    assert.match(stdout, /skipped/);
  });

  test('passes where nothing is known', () => {
    assert.equal(audit('{"auditReportVersion": 2, "vulnerabilities": {}}', 0).status, 0);
  });

  test('is part of the run on a clean checkout', () => {
    assert.match(readFileSync(join(project, '.ci/run'), 'utf8'), /^make .*audit$/m);
    const said = execFileSync('make', ['-C', project, '--dry-run', 'audit'], { encoding: 'utf8' });
    assert.match(said, /scripts\/audit\.sh/);
  });
});

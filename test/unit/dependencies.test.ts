import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { Deadline } from '../../lib/deadline.ts';
import { run } from '../../lib/run.ts';

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

describe('the audit', { concurrency: true }, () => {
  const directory = mkdtempSync(join(tmpdir(), 'kvmha-audit-'));
  after(() => rmSync(directory, { recursive: true, force: true }));

  /**
   * The real npm against a registry that gives this answer to the list of packages that npm sends it. The answer's
   * form is that of the Bulk Advisory endpoint (npm-audit(1), "Bulk Advisory Endpoint"): advisories by the names of
   * packages, each with its id, url, title, severity and vulnerable_versions, and at npmjs.org with cwe and cvss.
   */
  async function audit(answer: object, code = 200) {
    const asked: string[] = [];
    // npm remembers advisories in its cache, by their ids.
    const cache = mkdtempSync(join(directory, 'cache-'));
    const registry = createServer((request, response) => {
      asked.push(`${request.method} ${request.url}`);
      request.resume();
      request.on('end', () => {
        const isAudit = request.url === '/-/npm/v1/security/advisories/bulk';
        // Of a package that has an advisory, npm asks for its versions, too.
        const body = isAudit ? answer : { name: 'yaml', 'dist-tags': {}, versions: {} };
        response.writeHead(isAudit ? code : 200, { 'content-type': 'application/json' });
        response.end(JSON.stringify(body));
      });
    });
    registry.listen(0, '127.0.0.1');
    await once(registry, 'listening');
    try {
      const { port } = registry.address() as AddressInfo;
      const output = await run(join(project, 'scripts/audit.sh'), [], {
        deadline: Deadline.in(120_000),
        env: { npm_config_registry: `http://127.0.0.1:${port}/`, npm_config_cache: cache },
      });
      assert.ok(
        asked.includes('POST /-/npm/v1/security/advisories/bulk'),
        `npm asked for ${asked.join(', ')}`,
      );
      return output;
    } finally {
      registry.closeAllConnections();
      registry.close();
    }
  }

  const advisory = (severity: string) => ({
    yaml: [
      {
        id: 1091671,
        url: 'https://github.com/advisories/GHSA-f9xv-q969-pqx4',
        title: 'Uncaught Exception in yaml',
        severity,
        vulnerable_versions: '>=2.0.0-5',
        cwe: ['CWE-248'],
        cvss: { score: 7.5, vectorString: 'CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:N/I:N/A:H' },
      },
    ],
  });

  test('fails for a known vulnerability, and shows it', async () => {
    const { exitCode, stdout, stderr } = await audit(advisory('high'));
    assert.equal(exitCode, 1, stdout);
    assert.match(stdout, /GHSA-f9xv-q969-pqx4/);
    assert.match(stderr, /known vulnerabilities/);
  });

  test('passes where nothing is known, and where nothing is of level high', async () => {
    for (const answer of [{}, advisory('moderate')]) {
      const { exitCode, stdout } = await audit(answer);
      assert.equal(exitCode, 0, stdout);
      assert.match(stdout, /nothing of level high or worse/);
    }
  });

  test('is skipped, and says so, where the registry has no such service', async () => {
    const { exitCode, stdout } = await audit({ error: 'Not Found' }, 404);
    assert.equal(exitCode, 0);
    assert.match(stdout, /skipped/);
  });

  test('is part of the run on a clean checkout', () => {
    assert.match(readFileSync(join(project, '.ci/run'), 'utf8'), /^make .*audit$/m);
    const said = execFileSync('make', ['-C', project, '--dry-run', 'audit'], { encoding: 'utf8' });
    assert.match(said, /scripts\/audit\.sh/);
  });
});

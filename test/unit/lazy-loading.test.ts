import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it } from 'node:test';

describe('a monitor of a guest that runs', () => {
  it('loads neither the XML nor the YAML library: name, parameters and default policy do without', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'kvmha-lazy-'));
    try {
      const config = join(directory, 'guest.xml');
      await writeFile(config, "<domain type='kvm'><name>web</name></domain>");
      const module = (path: string) => JSON.stringify(new URL(`../../${path}`, import.meta.url).href);
      const script = `
        import { registerHooks } from 'node:module';
        const { domainIdentityOf } = await import(${module('lib/libvirt/domain-identity.ts')});
        const [config, cache] = process.argv.slice(1);
        Date.now = () => 1e15; // The file has not changed for ages: the identity may be cached.
        await domainIdentityOf(config, cache);
        registerHooks({
          resolve(specifier, context, next) {
            if (/xmldom|yaml|execa|domain-xml/.test(specifier)) {
              throw new Error('loaded ' + specifier);
            }
            return next(specifier, context);
          },
        });
        const { readParameters } = await import(${module('lib/parameters.ts')});
        const { loadPolicy } = await import(${module('lib/policy.ts')});
        const { readEnvironment } = await import(${module('agent/ocf/environment.ts')});
        const { Log } = await import(${module('agent/ocf/log.ts')});
        new Log(readEnvironment(['monitor'], process.env)).debug('healthy');
        await loadPolicy(readParameters(process.env).parameters.policy);
        console.log((await domainIdentityOf(config, cache)).name);`;
      const { stdout, stderr } = spawnSync(
        process.execPath,
        ['--input-type=module-typescript', '-e', script, config, join(directory, 'cache')],
        { encoding: 'utf8' },
      );
      assert.equal(stdout, 'web\n', stderr);
    } finally {
      await rm(directory, { recursive: true });
    }
  });
});

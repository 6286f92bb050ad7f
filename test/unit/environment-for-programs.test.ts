import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { secureEnvironment } from '../../agent/environment-for-programs.ts';
import { makeFolder } from '../support/folder.ts';

const root = mkdtempSync(join(tmpdir(), 'kvmha-path-'));
after(() => rmSync(root, { recursive: true, force: true }));

const folder = (name: string, mode: number) => makeFolder(join(root, name), mode);

function pathAfter(path: string): string | undefined {
  const variables: Record<string, string | undefined> = { PATH: path };
  secureEnvironment(variables);
  return variables['PATH'];
}

describe('the environment of the programs that are run', () => {
  test('keeps what belongs to the cluster, the locale and the terminal', () => {
    const kept = {
      OCF_RESKEY_config: '/x',
      HA_LOGFILE: '/var/log/x',
      CIB_file: '/x.xml',
      HOME: '/root',
      LANG: 'C',
      TERM: 'xterm',
      PCMK_logfile: 'none',
    };
    const variables: Record<string, string | undefined> = { ...kept, PATH: '/usr/bin' };
    secureEnvironment(variables);
    assert.deepEqual(variables, { ...kept, PATH: '/usr/bin' });
  });

  test('has nothing by which a library or a script would be loaded', () => {
    const variables: Record<string, string | undefined> = Object.fromEntries(
      [
        'LD_PRELOAD',
        'LD_LIBRARY_PATH',
        'LD_AUDIT',
        'OPENSSL_CONF',
        'SSLKEYLOGFILE',
        'NODE_OPTIONS',
        'NODE_V8_COVERAGE',
        'BASH_ENV',
        'BASH_FUNC_virsh%%',
        'ENV',
        'PYTHONPATH',
        'PYTHONSTARTUP',
        'PERL5OPT',
        'GCONV_PATH',
      ].map((name) => [name, '/tmp/x']),
    );
    secureEnvironment(variables);
    assert.deepEqual(Object.keys(variables), ['PATH']);
  });

  test('looks for programs nowhere where another user could have put one', () => {
    const own = folder('own', 0o755);
    const open = folder('open', 0o777);
    const sticky = folder('sticky', 0o1777);
    mkdirSync(join(open, 'below'));
    symlinkSync(open, join(root, 'link'));
    assert.equal(
      pathAfter(`${open}:${join(root, 'link')}:${join(open, 'below')}:${sticky}:.:bin::/nowhere:${own}`),
      own,
    );
  });

  test('has the standard path where no folder is left, or none was given', () => {
    assert.equal(pathAfter('.'), '/usr/sbin:/usr/bin:/sbin:/bin');
    const variables: Record<string, string | undefined> = {};
    secureEnvironment(variables);
    assert.equal(variables['PATH'], '/usr/sbin:/usr/bin:/sbin:/bin');
  });
});

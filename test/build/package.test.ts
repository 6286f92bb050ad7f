import assert from 'node:assert/strict';
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { DEFAULT_POLICY, parsePolicy } from '../../lib/policy.ts';
import { brokenLinks, pagesBelow } from '../support/documentation.ts';

const project = join(import.meta.dirname, '../..');

const missing = ['dpkg-deb', 'dpkg-parsechangelog', 'dpkg-shlibdeps'].filter((program) => !isHere(program));

function isHere(program: string): boolean {
  return spawnSync(program, ['--version'], { stdio: 'ignore' }).error === undefined;
}

/** Builds the package, as fast as that goes. */
function build(directory: string, version?: string): string {
  const { status, stderr } = spawnSync('make', ['-C', project, 'deb', `DISTDIR=${directory}`], {
    encoding: 'utf8',
    env: {
      ...process.env,
      DEB_OPTIONS: version === undefined ? '-Zgzip -z1' : '-Znone',
      ...(version === undefined ? {} : { DEB_VERSION: version }),
    },
  });
  assert.equal(status, 0, stderr);
  const [name, ...others] = readdirSync(directory).filter(
    (each) => version === undefined || each.includes(version),
  );
  assert.deepEqual(others, []);
  return join(directory, name ?? '');
}

/** This machine's root with an empty layer over it, in a namespace of mounts that ends with `holder`. */
class CleanRoot implements AsyncDisposable {
  readonly #holder: ChildProcess;
  readonly #root: string;

  private constructor(holder: ChildProcess, root: string) {
    this.#holder = holder;
    this.#root = root;
  }

  /** @param directory to mount it on; `shared` in it is seen at /mnt */
  static async over(directory: string): Promise<CleanRoot> {
    const script = `
      set -e
      mount -t tmpfs none "$0"
      mkdir "$0/upper" "$0/work" "$0/root"
      mount -t overlay none -o "lowerdir=/,upperdir=$0/upper,workdir=$0/work" "$0/root"
      mount --rbind /proc "$0/root/proc"
      mount --bind /dev "$0/root/dev"
      mount -t tmpfs none "$0/root/run"
      mount --bind "$1" "$0/root/mnt"
      echo ready
      exec cat`;
    const mounts = join(directory, 'mounts');
    spawnSync('mkdir', ['-p', mounts]);
    const holder = spawn(
      'unshare',
      ['--mount', '--propagation=private', 'sh', '-c', script, mounts, join(directory, 'packages')],
      { stdio: ['pipe', 'pipe', 'inherit'] },
    );
    await Promise.race([
      once(holder.stdout, 'data'),
      once(holder, 'exit').then(() => {
        throw new Error('no clean root could be made');
      }),
    ]);
    return new CleanRoot(holder, join(mounts, 'root'));
  }

  run(command: string, env: Readonly<Record<string, string>> = {}) {
    const enter = ['--mount', `--target=${this.#holder.pid}`, '--', '/usr/sbin/chroot', this.#root];
    const clean = {
      PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
      LC_ALL: 'C',
      HOME: '/',
    };
    return spawnSync('nsenter', [...enter, 'sh', '-c', command], {
      encoding: 'utf8',
      env: { ...clean, DEBIAN_FRONTEND: 'noninteractive', ...env },
    });
  }

  check(command: string, env: Readonly<Record<string, string>> = {}): string {
    const { status, stdout, stderr } = this.run(command, env);
    assert.equal(status, 0, `${command}:\n${stdout}${stderr}`);
    return stdout;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#holder.stdin?.end();
    await once(this.#holder, 'exit');
  }
}

describe('the Debian package', {
  skip: missing.length === 0 ? false : `not here: ${missing.join(', ')}`,
}, () => {
  let directory: string;
  let root: CleanRoot;
  let first: string;
  let second: string;
  let filesBefore: string[];
  before(async () => {
    directory = mkdtempSync(join(tmpdir(), 'kvmha-package-'));
    const packages = join(directory, 'packages');
    first = build(packages);
    second = build(packages, '99-1');
    root = await CleanRoot.over(directory);
    root.run('dpkg --purge kvmha && rm -rf /etc/kvmha /var/log/kvmha /var/lib/kvmha', {
      KVMHA_REMOVE_ANYWAY: '1',
    });
    filesBefore = files();
  });
  /** What on the disk belongs to the package, by its name. */
  const files = () => root.check('find /etc /usr /var -xdev -path "*kvmha*"').trim().split('\n').sort();
  after(async () => {
    await root?.[Symbol.asyncDispose]();
    rmSync(directory, { recursive: true, force: true });
  });

  const inRoot = (path: string) => `/mnt/${path.slice(path.lastIndexOf('/') + 1)}`;
  const status = () => root.run(`dpkg-query -W -f '\${Status} \${Version}' kvmha`).stdout;

  test('has no errors for lintian', { skip: isHere('lintian') ? false : 'lintian is not installed' }, () => {
    const { status, stdout } = spawnSync('lintian', ['--fail-on', 'error', '--allow-root', first], {
      encoding: 'utf8',
    });
    assert.equal(status, 0, stdout);
  });

  test('installs the command, the agents, their manual pages and completion', () => {
    root.check(`dpkg --install ${inRoot(first)}`);
    assert.match(status(), /^install ok installed \d/);
    assert.equal(root.check('dpkg --verify kvmha'), '');
    const { version } = JSON.parse(readFileSync(join(project, 'package.json'), 'utf8'));
    assert.equal(root.check('kvmha --version'), `${version}\n`);
    assert.match(
      root.check('/usr/lib/ocf/resource.d/kvmha/KvmGuest meta-data'),
      /<resource-agent name="KvmGuest"/,
    );
    assert.match(
      root.check('/usr/lib/ocf/resource.d/kvmha/KvmWatch meta-data'),
      /<resource-agent name="KvmWatch"/,
    );
    for (const path of ['man8/kvmha.8.gz', 'man7/ocf_kvmha_KvmGuest.7.gz', 'man7/ocf_kvmha_KvmWatch.7.gz']) {
      assert.match(root.check(`gzip -dc /usr/share/man/${path}`), /^\.TH /);
    }
    root.check('bash -n /usr/share/bash-completion/completions/kvmha');
    assert.match(
      root.check('cat /usr/lib/tmpfiles.d/kvmha.conf'),
      /^d \/var\/lib\/kvmha\/dumps 0700 root root/m,
    );
  });

  test('brings documentation whose links lead to what is in the package', () => {
    const files = join(directory, 'files');
    mkdirSync(files);
    const tar = spawnSync('sh', [
      '-c',
      'dpkg-deb --fsys-tarfile "$0" | tar -xC "$1" ./usr/share/doc',
      first,
      files,
    ]);
    assert.equal(tar.status, 0, String(tar.stderr));
    const documents = join(files, 'usr/share/doc/kvmha');
    assert.deepEqual(
      pagesBelow(documents).flatMap((page) => brokenLinks(documents, page).map((link) => `${page}: ${link}`)),
      [],
    );
  });

  test('brings the unit of the watcher, and does not enable it', () => {
    assert.match(
      root.check('cat /usr/lib/systemd/system/kvmha-watch.service'),
      /^ExecStart=\/usr\/sbin\/kvmha watch$/m,
    );
    assert.equal(root.check('find /etc/systemd -name "kvmha*"'), '');
  });

  test('brings a policy that shows every key and changes nothing, as a file of the operator', async () => {
    const text = root.check('cat /etc/kvmha/policy.yaml');
    assert.deepEqual(await parsePolicy(text, 'policy.yaml'), DEFAULT_POLICY);
    assert.doesNotMatch(text, /^ *[^ #\n]/m);
    assert.deepEqual(
      await parsePolicy(text.replace(/^#( *[a-z-]+:)/gm, '$1'), 'policy.yaml'),
      DEFAULT_POLICY,
      'one # less in front of each key and it is the documented policy',
    );
    assert.match(root.check(`dpkg-query -W -f '\${Conffiles}' kvmha`), /\/etc\/kvmha\/policy\.yaml/);
  });

  test('is upgraded, and what the operator changed stays', () => {
    root.check('echo "out-of-space: fail" >>/etc/kvmha/policy.yaml');
    root.check(`dpkg --install ${inRoot(second)}`);
    assert.equal(status(), 'install ok installed 99-1');
    assert.match(root.check('cat /etc/kvmha/policy.yaml'), /^out-of-space: fail$/m);
    root.check('kvmha --version');
  });

  test('is not removed where the cluster runs a guest or the watcher, or a guest is preserved, unless it is told to', () => {
    const record = '/run/kvmha/guests/00000000-0000-4000-8000-000000000001/quiesce.json';
    root.check(`mkdir -p $(dirname ${record}) && echo '{}' >${record}`);
    const { status: refused, stderr } = root.run('dpkg --remove kvmha');
    assert.notEqual(refused, 0);
    assert.match(stderr, /kvmha is not removed: .*Move the ones away/s);
    assert.match(status(), /installed 99-1$/);
    root.check('kvmha --version');
    root.check(`rm ${record}`);
    const watched = root.run('(flock 9; exec dpkg --remove kvmha) 9>/run/kvmha/watch.lock');
    assert.notEqual(watched.status, 0);
    assert.match(watched.stderr, /the watcher runs here as a resource of the cluster/);
    root.check(`echo '{}' >${record}`);
    root.check('dpkg --remove kvmha', { KVMHA_REMOVE_ANYWAY: '1' });
    assert.match(status(), /^deinstall ok config-files/);
  });

  test('leaves the configuration when it is removed, and of all else only post-mortems when it is purged', () => {
    assert.notEqual(root.run('test -e /usr/sbin/kvmha').status, 0);
    root.check('test -e /etc/kvmha/policy.yaml');
    root.check('mkdir -p /var/lib/kvmha/dumps/web /var/log/kvmha && touch /var/log/kvmha/events.jsonl');
    assert.match(root.check('dpkg --purge kvmha'), /post-mortems in \/var\/lib\/kvmha\/dumps are left/);
    const left = files().filter((path) => !filesBefore.includes(path));
    assert.deepEqual(left, ['/var/lib/kvmha', '/var/lib/kvmha/dumps', '/var/lib/kvmha/dumps/web']);
  });
});

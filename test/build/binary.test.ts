import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { brokenLinks, pagesBelow } from '../support/documentation.ts';
import { DANGEROUS_FOR_BUN, RUNTIME } from '../support/runtime.ts';

const project = join(import.meta.dirname, '../..');
const source = (name: string) => readFileSync(join(project, name), 'utf8');
const version: string = JSON.parse(source('package.json')).version;

const AGENTS = '/usr/lib/ocf/resource.d/kvmha';
const AGENT = `${AGENTS}/KvmGuest`;
const NOBODY = 65534;

/** A root directory that holds the installed files and the libraries they are linked with, and nothing else. */
let root: string;

function make(...args: string[]): void {
  execFileSync('make', ['--no-print-directory', '-C', project, ...args], { stdio: 'pipe' });
}

/** The shared libraries of the binary, as ldd(1) finds them. */
function librariesOf(binary: string): string[] {
  const found = execFileSync('ldd', [binary], { encoding: 'utf8' }).matchAll(/(?<= )\/\S+|^\t\/\S+/gm);
  return [...found].map(([path]) => path.trim());
}

/**
 * Runs `command` as nobody in `root`, on a read-only file system without /dev, HOME or PATH, and without /proc, which only
 * Bun needs.
 */
function runConfined(...command: string[]) {
  const proc = RUNTIME === 'bun' ? 'mount -t proc proc "$0/proc" && ' : '';
  const script = `${proc}mount --rbind "$0" "$0" && mount -o remount,bind,ro "$0" && exec env -i "$@"`;
  const chroot = ['/usr/sbin/chroot', `--userspec=${NOBODY}:${NOBODY}`, root];
  const args = ['--mount', '--propagation=private', 'sh', '-c', script, root, ...chroot, ...command];
  return spawnSync('unshare', args, { encoding: 'utf8', timeout: 30_000, maxBuffer: 1 << 24 });
}

before(() => {
  root = mkdtempSync(join(tmpdir(), 'kvmha-root-'));
  execFileSync('chmod', ['755', root]);
  mkdirSync(join(root, 'proc'));
  make('install', `DESTDIR=${root}`);
  for (const library of librariesOf(join(root, 'usr/sbin/kvmha'))) {
    mkdirSync(dirname(join(root, library)), { recursive: true });
    copyFileSync(library, join(root, library));
  }
});

after(() => rmSync(root, { recursive: true, force: true }));

describe('installed, alone in a read-only root and as nobody', () => {
  for (const [agent, metadata] of [
    ['KvmGuest', 'ocf-metadata.xml'],
    ['KvmWatch', 'agent/watch/metadata.xml'],
  ] as const) {
    test(`${agent} prints ${metadata} to the byte`, () => {
      const { status, stdout, stderr } = runConfined(`${AGENTS}/${agent}`, 'meta-data');
      assert.equal(stderr, '');
      assert.equal(stdout, source(metadata));
      assert.equal(status, 0);
    });
  }

  test('the command knows its version', () => {
    const { status, stdout, stderr } = runConfined('/usr/sbin/kvmha', '--version');
    assert.equal(stderr, '');
    assert.equal(stdout, `${version}\n`);
    assert.equal(status, 0);
  });
});

describe('the binary', () => {
  test('does not heed NODE_OPTIONS', () => {
    const env = { NODE_OPTIONS: '--require=/nonexistent' };
    const { status, stdout } = spawnSync(join(root, AGENT), ['meta-data'], { env, encoding: 'utf8' });
    assert.equal(stdout, source('ocf-metadata.xml'));
    assert.equal(status, 0);
  });

  test('does not heed the variables that tell an executable of Bun what to do', () => {
    for (const [name, value] of Object.entries(DANGEROUS_FOR_BUN)) {
      const env = { [name]: value };
      const { status, stdout, stderr } = spawnSync(join(root, AGENT), ['meta-data'], {
        env,
        encoding: 'utf8',
      });
      assert.equal(stderr, '', name);
      assert.equal(stdout, source('ocf-metadata.xml'), name);
      assert.equal(status, 0, name);
    }
  });

  test('does not heed OPENSSL_CONF, which could load a library into it', (t) => {
    const directory = mkdtempSync(join(tmpdir(), 'kvmha-openssl-'));
    t.after(() => rmSync(directory, { recursive: true, force: true }));
    const configuration = join(directory, 'openssl.cnf');
    const engine = '[init]\nengines = all\n[all]\nx = x\n[x]\ndynamic_path = /nonexistent.so\ninit = 1\n';
    writeFileSync(configuration, `nodejs_conf = init\nopenssl_conf = init\n${engine}`);
    const env = { OPENSSL_CONF: configuration };
    const node = spawnSync(process.execPath, ['-p', '1'], { env, encoding: 'utf8' });
    assert.match(node.stderr, /nonexistent/, 'Node itself does not heed it any more');
    const { status, stdout, stderr } = spawnSync(join(root, AGENT), ['meta-data'], { env, encoding: 'utf8' });
    assert.equal(stderr, '');
    assert.equal(stdout, source('ocf-metadata.xml'));
    assert.equal(status, 0);
  });
});

describe('make install', () => {
  test('makes the agents relative links to the command', () => {
    for (const agent of ['KvmGuest', 'KvmWatch']) {
      assert.equal(readlinkSync(join(root, AGENTS, agent)), '../../../../sbin/kvmha');
    }
  });

  test('brings documentation whose links lead to what was installed', () => {
    const documents = join(root, 'usr/share/doc/kvmha');
    const pages = pagesBelow(documents);
    assert.deepEqual(pages, pagesBelow(project));
    assert.deepEqual(
      pages.flatMap((page) => brokenLinks(documents, page).map((link) => `${page}: ${link}`)),
      [],
    );
  });

  test('keeps the agent where Pacemaker looks for it, with another PREFIX', (t) => {
    const other = mkdtempSync(join(tmpdir(), 'kvmha-prefix-'));
    t.after(() => rmSync(other, { recursive: true, force: true }));
    make('install', `DESTDIR=${other}`, 'PREFIX=/opt/kvmha');
    assert.equal(readlinkSync(join(other, AGENT)), '../../../../../opt/kvmha/sbin/kvmha');
    assert.equal(
      execFileSync(join(other, AGENT), ['meta-data'], { encoding: 'utf8' }),
      source('ocf-metadata.xml'),
    );
  });

  test('is undone by make uninstall, which leaves what is not its own', (t) => {
    const other = mkdtempSync(join(tmpdir(), 'kvmha-uninstall-'));
    t.after(() => rmSync(other, { recursive: true, force: true }));
    const foreign = join(other, '/usr/lib/ocf/resource.d/heartbeat/Dummy');
    mkdirSync(dirname(foreign), { recursive: true });
    writeFileSync(foreign, '');
    make('install', `DESTDIR=${other}`);
    make('uninstall', `DESTDIR=${other}`);
    const left = readdirSync(other, { recursive: true, withFileTypes: true });
    assert.deepEqual(
      left.filter((entry) => !entry.isDirectory()).map((entry) => join(entry.parentPath, entry.name)),
      [foreign],
    );
    assert.ok(!existsSync(dirname(join(other, AGENT))));
    assert.ok(!existsSync(join(other, 'usr/share/doc/kvmha')));
  });
});

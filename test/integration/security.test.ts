import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { Fault } from '../fault/fault.ts';
import type { LabNode } from '../lab/client.ts';
import { answers, Host, processes, type TestGuest, until } from '../support/host.ts';
import { DANGEROUS_FOR_BUN, RUNTIME } from '../support/runtime.ts';
import { Watch } from '../support/watch.ts';

const NOBODY = 65534;
/** Folders that every user may write to. */
const OPEN_FOLDERS = ['/tmp', '/var/tmp', '/dev/shm'];

let host: Host;
let watch: Watch;
/** The node, with programs called by somebody who keeps nothing from anybody. */
let careless: Pick<LabNode, 'exec'>;
/** Was quiesced while nobody looked after modes. */
let guest: TestGuest;

before(async () => {
  host = await Host.up();
  const { node } = host;
  careless = {
    exec: (command, options) => node.exec(['sh', '-c', 'umask 0; exec "$@"', 'sh', ...command], options),
  };
  watch = new Watch(node);
  await watch.start();
  guest = await host.guest('web');
  answers(await guest.resource.call(careless as LabNode, 'start'), 0);
  await guest.ticks();
});
after(async () => {
  await watch[Symbol.asyncDispose]();
  await host[Symbol.asyncDispose]();
});

async function asNobody(...command: string[]): Promise<string> {
  const words = ['setpriv', `--reuid=${NOBODY}`, `--regid=${NOBODY}`, '--clear-groups', ...command];
  const { exitCode, stdout, stderr } = await host.node.exec(words);
  return `${exitCode} ${stdout}${stderr}`;
}

/** Everything below `folders`, the folders themselves first, as `MODE USER:GROUP TYPE PATH`. */
async function everythingIn(...folders: string[]): Promise<string[]> {
  const printed = await host.node.check(['find', ...folders, '-printf', '%m %u:%g %y %p\\n']);
  return printed.split('\n').filter((line) => line !== '');
}

describe('a node', () => {
  test('lets nobody but root and the user of QEMU at the sockets of a guest, and root alone at the watcher’s', async () => {
    const [folder = '', ...sockets] = await everythingIn('/run/libvirt/qemu/kvmha/agent');
    assert.match(folder, /^700 \S+ d /);
    assert.equal(sockets.length, 1);
    assert.match((await everythingIn('/run/kvmha/watch.sock')).join(), /^600 root:root s /);
    for (const path of ['/run/libvirt/qemu/kvmha/agent/web.pid', '/run/kvmha/watch.sock']) {
      assert.match(await asNobody('test', '-e', path), /^1 /, path);
    }
    assert.match(await asNobody('ls', '/run/libvirt/qemu/kvmha/agent'), /Permission denied/);
    assert.match(await asNobody('ls', '/run/libvirt/qemu/kvmha/watcher'), /Permission denied/);
  });

  test('whose watcher gets SIGUSR1 opens no debugger, and goes on watching', async () => {
    const watcher = processes(host.node).find(({ argv }) => argv.includes('watch') && argv[0] === 'kvmha');
    assert.ok(watcher !== undefined, 'there is no watcher');
    process.kill(watcher.pid, 'SIGUSR1');
    // Two answers later a debugger would have been started.
    assert.ok(await watch.tryStatus());
    assert.ok(await watch.tryStatus());
    const listening = (kind: string) =>
      readFileSync(`/proc/${watcher.pid}/net/${kind}`, 'utf8').match(/^.* 0A .*$/gm) ?? [];
    const debuggers = ['tcp', 'tcp6'].flatMap(listening).filter((line) => /:240D /.test(line)); // port 9229
    assert.deepEqual(debuggers, []);
    // Bun opens none by itself, and what handles the signal there is the watcher's own.
    if (RUNTIME === 'bun') {
      return;
    }
    const caught = /^SigCgt:\s*(\S+)$/m.exec(readFileSync(`/proc/${watcher.pid}/status`, 'utf8'))?.[1] ?? '';
    assert.equal(BigInt(`0x${caught}`) & (1n << 9n), 0n, 'it has a handler for SIGUSR1');
  });

  test('runs no program of another user, and loads no library, that the environment names', async () => {
    const { node } = host;
    const programs = '/var/tmp/programs';
    const mark = '/var/tmp/ran';
    await node.check(['install', '-d', '-o', String(NOBODY), '-m', '777', programs]);
    for (const name of [
      'virsh',
      'sh',
      'flock',
      'logger',
      'dd',
      'crm_mon',
      'crm_node',
      'cibadmin',
      'attrd_updater',
      'sync',
    ]) {
      node.write(`${programs}/${name}`, `#!/bin/bash\necho "$0" "$@" >>${mark}\n`);
    }
    node.write('/var/tmp/script', `echo a script >>${mark}\n`);
    await node.check(['sh', '-c', `chmod 755 ${programs}/*`]);
    const env = {
      PATH: `${programs}:.:/usr/sbin:/usr/bin:/sbin:/bin`,
      BASH_ENV: '/var/tmp/script',
      ENV: '/var/tmp/script',
      NODE_OPTIONS: '--require=/var/tmp/script',
      ...DANGEROUS_FOR_BUN,
      PYTHONSTARTUP: '/var/tmp/script',
    };
    answers(await guest.monitor({ env, meta: { interval: '10000' } }), 0);
    // With a log it has to run programs, and a debugging monitor looks at everything.
    answers(await guest.monitor({ env: { ...env, HA_debug: '1', HA_LOGFACILITY: 'daemon' } }), 0);
    answers(await guest.probe({ env }), 0);
    await node.exec(['kvmha', 'status'], { env });
    assert.equal(
      (await node.exec(['test', '-e', mark])).exitCode,
      1,
      `it ran ${await node.exec(['cat', mark]).then(({ stdout }) => stdout)}`,
    );
  });

  test('makes what it keeps of a guest readable by root alone, whatever the umask', async () => {
    new Fault(host.node, guest.fault).set('W', 'web.img');
    await watch.proves('web');
    answers(await guest.resource.call(careless as LabNode, 'monitor'), 7, /quiesced-failover-safe/);
    answers(await guest.resource.call(careless as LabNode, 'stop'), 0);
    const { exitCode, stderr } = await careless.exec(['kvmha', 'postmortem', 'web']);
    assert.equal(exitCode, 0, stderr);
    const found = await everythingIn('/run/kvmha', '/var/lib/kvmha', '/var/log/kvmha');
    const kinds = [
      /quiesce\.json/,
      /running\.json/,
      /resources\/web\.json/,
      /manifest\.json/,
      /memory\.elf/,
      /events\.jsonl/,
    ];
    for (const kind of kinds) {
      assert.ok(
        found.some((line) => kind.test(line)),
        `${kind} was not made:\n${found.join('\n')}`,
      );
    }
    const reachable = found.filter((line) => !/^(700 root:root d|600 root:root [fs]) /.test(line));
    assert.deepEqual(reachable, []);
  });

  test('needs no folder that everybody may write to, and leaves nothing there', async () => {
    const before = await everythingIn(...OPEN_FOLDERS);
    const closed = OPEN_FOLDERS.map((folder) => `mount -t tmpfs -o ro none ${folder}`).join(' && ');
    const confined = (command: readonly string[]) => [
      'unshare',
      '--mount',
      'sh',
      '-c',
      `${closed} && exec "$@"`,
      'sh',
      ...command,
    ];
    const node = { exec: (command, options) => host.node.exec(confined(command), options) } as LabNode;
    const other = await host.guest('confined');
    const env = { HA_RSCTMP: '/tmp' };
    answers(await other.resource.call(node, 'start', { env }), 0);
    await other.ticks();
    answers(await other.resource.call(node, 'monitor', { env: { ...env, HA_debug: '1' } }), 0);
    answers(await other.resource.call(node, 'stop', { env }), 0);
    await until('the guest to be gone', () => other.pids().length === 0);
    assert.deepEqual(await everythingIn(...OPEN_FOLDERS), before);
  });

  test('writes no post-mortem into a folder that another user has laid out for it, nor through his link', async () => {
    const { node } = host;
    await node.check(['install', '-d', '-o', String(NOBODY), '-m', '755', '/var/tmp/dumps']);
    await node.check(['sh', '-c', `ln -s /etc /var/tmp/link && chown -h ${NOBODY} /var/tmp/link`]);
    for (const folder of ['/var/tmp/dumps/pm', '/var/tmp/link/pm']) {
      const { exitCode, stderr } = await node.exec(['kvmha', 'postmortem', 'web', '--output', folder]);
      assert.notEqual(exitCode, 0);
      assert.match(stderr, /belongs to user 65534, in a folder that everybody may write to/);
    }
    assert.deepEqual(await everythingIn('/var/tmp/dumps').then((all) => all.length), 1);
    assert.equal((await node.exec(['test', '-e', '/etc/pm'])).exitCode, 1);
  });

  test('keeps the folders above the sockets for root alone to write to', async () => {
    const [folder = ''] = await everythingIn('/run/libvirt/qemu/kvmha');
    assert.match(folder, /^755 root:root d /);
    const [above = ''] = await everythingIn('/run/libvirt/qemu');
    assert.match(above, /^7[0-5][0-5] root:root d /);
  });
});

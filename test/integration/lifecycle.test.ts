import assert from 'node:assert/strict';
import type { ChildProcess } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { Deadline, sleep } from '../../lib/deadline.ts';
import { type QmpEvent, QmpSocket } from '../../lib/qemu/qmp.ts';
import { Fault } from '../fault/fault.ts';
import { domainXml } from '../guest/domain.ts';
import { createDisk } from '../guest/witness.ts';
import { AGENT, Resource } from '../support/agent.ts';
import { ControlGroup } from '../support/control-group.ts';
import { answers, Host, processesNamed, TestGuest, until } from '../support/host.ts';
import type { Order } from '../support/quiesce-run.ts';

const QUIESCE_RUN = join(import.meta.dirname, '../support/quiesce-run.ts');

let host: Host;
let events: Lifecycle;
before(async () => {
  host = await Host.up();
  events = new Lifecycle(host);
});
after(() => host[Symbol.asyncDispose]());

/** What libvirt tells of its domains' lives: who ended them, and whether they were asked. */
class Lifecycle {
  #text = '';
  readonly #child: ChildProcess;

  constructor(on: Host) {
    this.#child = on.node.spawn(['virsh', 'event', '--event', 'lifecycle', '--loop']);
    this.#child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      this.#text += text;
    });
    this.#child.unref();
  }

  of(guest: TestGuest): string[] {
    return this.#text
      .split('\n')
      .flatMap((line) => (line.includes(`domain '${guest.name}'`) ? [line.replace(/^.*?: /, '')] : []));
  }

  /** Waits until the last that happened to the guest is this. */
  async until(guest: TestGuest, wanted: RegExp): Promise<void> {
    await until(`${guest.name}'s last event to be ${wanted}, of ${this.of(guest).join('; ')}`, () =>
      wanted.test(this.of(guest).at(-1) ?? ''),
    );
  }
}

/** What the agent has logged about a guest. */
function logOf(guest: TestGuest): string {
  const log = readFileSync(host.node.path('/var/log/agent.log'), 'utf8');
  return log
    .split('\n')
    .filter((line) => line.includes(`KvmGuest(${guest.name})`))
    .join('\n');
}

function script(path: string, body: string): string {
  host.node.write(path, `#!/bin/sh\n${body}\n`);
  return path;
}

describe('a start', { concurrency: 4 }, () => {
  test('of a guest that runs already changes nothing', async () => {
    const guest = await host.running('twice');
    const before = await guest.everything();
    answers(await guest.call('start'), 0);
    assert.deepEqual(await guest.everything(), before);
    await guest.stop();
  });

  test('twice at the same moment makes one guest', async () => {
    for (const uuid of [undefined, 'none'] as const) {
      const guest = await host.guest(uuid === undefined ? 'race' : 'racen', { ...(uuid && { uuid }) });
      const [first, second] = await Promise.all([guest.call('start'), guest.call('start')]);
      answers(first, 0);
      answers(second, 0);
      assert.equal((await guest.ticks()).boots, 1);
      guest.pid();
      answers(await guest.stop(), 0);
    }
  });

  test('beside a persistent definition says so, and forbids libvirt to start it by itself', async () => {
    const guest = await host.guest('persist');
    await host.virsh('define', guest.resource.config);
    await host.virsh('autostart', guest.name);
    answers(await guest.call('start'), 0);
    assert.match(logOf(guest), /WARNING: .*disabling autostart/);
    assert.match(logOf(guest), /WARNING: .*persistent definition.*virsh undefine persist/);
    assert.match(await host.virsh('dominfo', guest.name), /Autostart: +disable/);
    answers(await guest.stop(), 0);
    // It is the operator's.
    assert.match(await host.virsh('list', '--all', '--name'), /^persist$/m);
    answers(await guest.probe(), 7);
  });

  test('beside a persistent definition with a uuid that the configuration does not have', async () => {
    const guest = await host.guest('persistn', { uuid: 'none' });
    await host.virsh('define', guest.resource.config);
    answers(await guest.call('start'), 0);
    await guest.ticks();
    answers(await guest.monitor(), 0);
    answers(await guest.stop(), 0);
    assert.match(await host.virsh('list', '--all', '--name'), /^persistn$/m);
  });

  test('is refused while libvirt keeps a managed save', async () => {
    const guest = await host.guest('managed');
    await host.virsh('define', guest.resource.config);
    await host.virsh('start', guest.name);
    await guest.ticks();
    await host.virsh('managedsave', guest.name);
    answers(await guest.call('start'), 5, /managed save of managed here.*virsh managedsave-remove managed/);
    assert.deepEqual(guest.pids(), []);
    await host.virsh('managedsave-remove', guest.name);
    answers(await guest.call('start'), 0);
    assert.equal((await guest.ticks()).boots, 2);
    answers(await guest.stop(), 0);
  });

  const broken: readonly [what: string, name: string, change: (xml: string) => string, reason: RegExp][] = [
    [
      'with a missing emulator',
      'noemu',
      (xml) => xml.replace('<devices>', '<devices><emulator>/usr/bin/qemu-none</emulator>'),
      /noemu was not started: .*qemu-none/,
    ],
    [
      'with what libvirt does not accept',
      'badxml',
      (xml) => xml.replace("machine='pc'", "machine='abacus'"),
      /badxml was not started: .*XML error/,
    ],
    [
      'with a missing image',
      'nodisk',
      (xml) => xml.replace('nodisk.img', 'nowhere.img'),
      /nodisk was not started: .*nowhere\.img/,
    ],
    [
      'with what QEMU does not accept',
      'badarg',
      (xml) => xml.replace('<qemu:commandline>', "<qemu:commandline><qemu:arg value='-abacus'/>"),
      // QEMU's words come by way of virtlogd: libvirt does not wait for them.
      /badarg was not started: .*(abacus|closed the monitor)/,
    ],
  ];
  for (const [what, name, change, reason] of broken) {
    test(`${what} says why, and leaves nothing`, async () => {
      const guest = await host.guest(name);
      host.node.write(guest.resource.config, change(domainXml(guest.resource.domain)));
      answers(await guest.call('start'), 1, reason);
      assert.deepEqual(guest.pids(), []);
      assert.doesNotMatch(await host.virsh('list', '--all', '--name'), new RegExp(`^${name}$`, 'm'));
      const folder = `/run/kvmha/guests/${guest.resource.domain.uuid}`;
      assert.ok(!existsSync(host.node.path(`${folder}/start.xml`)), 'the prepared XML is left');
      answers(await guest.probe(), 7);
      answers(await guest.stop(), 0);
    });
  }

  test('of a guest whose disk another has locked says so, and leaves the other alone', async () => {
    const [owner, guest] = await Promise.all([host.running('owner'), host.guest('robber')]);
    const { disks } = owner.resource.domain;
    host.node.write(guest.resource.config, domainXml({ ...guest.resource.domain, ...(disks && { disks }) }));
    answers(await guest.call('start'), 1, /robber was not started: .*lock/);
    assert.deepEqual(guest.pids(), []);
    answers(await guest.stop(), 0);
    await owner.ticks();
    answers(await owner.stop(), 0);
  });

  test('by an umask that forbids everything lets QEMU make its sockets all the same', async () => {
    const guest = await host.guest('umask');
    const before = await host.node.check(['stat', '-c', '%a', '/run/libvirt/qemu/kvmha']);
    await host.node.check(['chmod', '700', '/run/libvirt/qemu/kvmha']);
    answers(await guest.call('start'), 0);
    assert.equal(await host.node.check(['stat', '-c', '%a', '/run/libvirt/qemu/kvmha']), before);
    answers(await guest.stop(), 0);
  });

  test('ends when the monitor scripts succeed, and a monitor fails with them', async () => {
    const flag = '/run/lab/scripts-ok';
    const check = script('/usr/local/bin/check it', `test -e ${flag} || { echo "no service"; exit 3; }`);
    await host.node.check(['chmod', '+x', check]);
    const guest = await host.guest('scripts', { parameters: { monitor_scripts: `"${check}"` } });
    const starting = guest.call('start');
    await guest.ticks();
    host.node.write(flag, '');
    answers(await starting, 0);
    answers(await guest.monitor(), 0);
    await host.node.check(['rm', flag]);
    answers(await guest.monitor(), 1, /scripts: monitor script .*check it exited 3: no service/);
    answers(await guest.probe(), 0);
    script(check, 'sleep 1234');
    answers(
      await guest.monitor({ meta: { timeout: '6000' } }),
      1,
      /monitor script .*check it.* did not end in time/,
    );
    answers(await guest.call('start', { meta: { timeout: '6000' } }), 1, /monitor script/);
    assert.equal(
      (await host.node.exec(['pgrep', '-f', 'sleep 1234'])).stdout,
      '',
      'what the script started is left',
    );
    answers(await guest.stop(), 0);
  });

  test('makes the image of a guest with a backing file, and anew if it is stateless', async () => {
    await createDisk('/shared/golden.img', { node: host.node });
    const disk = { path: '/shared/clone.qcow2', format: 'qcow2' } as const;
    const guest = new TestGuest(host.node, { name: 'clone', disks: [disk] }, disk.path, {
      backingfile: '/shared/golden.img',
    });
    guest.resource.configure(host.node);
    const boots = async (stateless: string) => {
      answers(await guest.call('start', { parameters: { stateless } }), 0);
      const written = await guest.ticks();
      answers(await guest.stop(), 0);
      return written.boots;
    };
    assert.equal(await boots('false'), 1);
    assert.equal(await boots('false'), 2);
    assert.equal(await boots('true'), 1);
  });

  test('starts the storage pool that the guest needs', async (t) => {
    await createDisk('/shared/pool/pooled.img', { node: host.node });
    const defined = await host.node.exec([
      ...['virsh', 'pool-define-as', 'tank', 'dir', '--target', '/shared/pool'],
    ]);
    if (defined.exitCode !== 0) {
      return t.skip(`libvirt has no storage pools here: ${defined.stderr.trim()}`);
    }
    const guest = await host.guest('pooled');
    const xml = domainXml(guest.resource.domain)
      .replace("type='file'", "type='volume'")
      .replace("file='/shared/pooled.img'", "pool='tank' volume='pooled.img'");
    host.node.write(guest.resource.config, xml);
    answers(await guest.call('start'), 1, /pool.*tank/);
    answers(await guest.call('start', { parameters: { start_resources: 'true' } }), 0);
    answers(await guest.monitor(), 0);
    answers(await guest.stop(), 0);
  });
});

describe('a stop', { concurrency: 4 }, () => {
  test('asks the guest to shut down', async () => {
    const guest = await host.running('asked');
    answers(await guest.stop(), 0);
    await events.until(guest, /Stopped Shutdown/);
  });

  test('resumes a paused guest, so that it can shut down', async () => {
    const guest = await host.running('paused');
    await host.virsh('suspend', guest.name);
    answers(await guest.stop(), 0);
    await events.until(guest, /Stopped Shutdown/);
  });

  test('waits for a dump, so that the guest can shut down', async () => {
    const guest = await host.running('dumped');
    const pipe = '/run/lab/dumped.fifo';
    await host.node.check(['mkfifo', pipe]);
    host.node.spawn(['sh', '-c', `(sleep 3; cat >/dev/null) <${pipe}`], {}, { stdio: 'ignore' });
    host.node.spawn(['virsh', 'dump', '--memory-only', guest.name, pipe], {}, { stdio: 'ignore' });
    await guest.untilState('paused (dumping)');
    answers(await guest.stop(), 0);
    await events.until(guest, /Stopped Shutdown/);
  });

  test('destroys a guest that ignores the power button, before its timeout', async () => {
    const guest = await host.running('deaf', { settings: { ignorePowerButton: true } });
    answers(await guest.stop({ meta: { timeout: '20000' } }), 0);
    await events.until(guest, /Stopped Destroyed/);
    assert.match(logOf(guest), /asking it to shut down/);
    assert.match(logOf(guest), /has not shut down in time, ending it/);
    assert.deepEqual(guest.pids(), []);
  });

  test('does not ask with force_stop', async () => {
    const guest = await host.running('forced', { parameters: { force_stop: 'true' } });
    answers(await guest.stop(), 0);
    await events.until(guest, /Stopped Destroyed/);
    assert.doesNotMatch(logOf(guest), /asking it to shut down/);
  });

  test('asks in the way of shutdown_mode', async () => {
    const acpi = await host.running('acpi', { parameters: { shutdown_mode: 'acpi' } });
    answers(await acpi.stop(), 0);
    await events.until(acpi, /Stopped Shutdown/);
    // No agent runs in the guest to hear it, and the power button is still better than destroying it.
    const agent = await host.running('agent', { parameters: { shutdown_mode: 'agent' } });
    answers(await agent.stop({ meta: { timeout: '60000' } }), 0);
    await events.until(agent, /Stopped Shutdown/);
    assert.match(logOf(agent), /virsh shutdown: .*agent/);
  });

  test('with a snapshot saves the guest, and a start goes on from there once', async () => {
    await host.node.check(['mkdir', '/shared/saved']);
    const guest = await host.running('saved', { parameters: { snapshot: '/shared/saved' } });
    const { instance } = await guest.witness();
    answers(await guest.stop(), 0);
    await events.until(guest, /Stopped Saved/);
    assert.ok(existsSync(host.node.path('/shared/saved/saved.state')));
    answers(await guest.call('start'), 0);
    assert.equal((await guest.ticks()).instance, instance);
    assert.ok(!existsSync(host.node.path('/shared/saved/saved.state')));
    answers(await guest.monitor(), 0);
    // Its own monitors were restored with it.
    await guest.qmp('query-status');
    answers(await guest.stop({ parameters: { snapshot: '' } }), 0);
    answers(await guest.call('start'), 0);
    assert.equal((await guest.ticks()).boots, 2);
    answers(await guest.stop({ parameters: { snapshot: '' } }), 0);
  });

  test('with a snapshot that the disks have left behind is refused', async () => {
    await host.node.check(['mkdir', '-p', '/shared/old']);
    const guest = await host.running('old', { parameters: { snapshot: '/shared/old' } });
    answers(await guest.stop(), 0);
    const state = '/shared/old/old.state';
    await host.node.check(['touch', '--date=1 hour ago', state]);
    answers(
      await guest.call('start'),
      5,
      /old\.img was written to after .*old\.state.*remove the saved state/,
    );
    assert.deepEqual(guest.pids(), []);
    await host.node.check(['rm', state]);
    answers(await guest.call('start'), 0);
    // One that is there although the guest runs is not of this run, and must not outlive it.
    host.node.write(state, 'half a state');
    const pipe = `${state}.fifo`;
    await host.node.check([
      'sh',
      '-c',
      `rm ${state}; mkfifo ${pipe}; ln -s ${pipe} ${state}; sleep 1000 <${pipe} &`,
    ]);
    answers(await guest.stop({ meta: { timeout: '12000' } }), 0);
    assert.ok(!existsSync(host.node.path(state)), 'half a state is left');
  });

  test('with a snapshot that cannot be saved shuts the guest down', async () => {
    host.node.write('/shared/nofolder', '');
    const guest = await host.running('unsaved');
    answers(await guest.stop({ parameters: { snapshot: '/shared/nofolder' } }), 0);
    await events.until(guest, /Stopped Shutdown/);
    assert.match(logOf(guest), /state was not saved, shutting it down instead/);
  });

  test('with save_config_on_stop saves what has changed, and nothing that the agent has added', async () => {
    const guest = await host.guest('config', { disk: { errorPolicy: 'default' } });
    const parameters = { save_config_on_stop: 'true' };
    answers(await guest.call('start', { parameters }), 0);
    await guest.ticks();
    assert.match(await host.virsh('dumpxml', guest.name), /error_policy='stop'/);
    await host.virsh('desc', guest.name, '--live', 'a new description');
    answers(await guest.stop({ parameters }), 0);
    const saved = readFileSync(host.node.path(guest.resource.config), 'utf8');
    assert.match(saved, /<description>a new description<\/description>/);
    assert.match(saved, /LD_PRELOAD/);
    assert.doesNotMatch(saved, /error_policy|charkvmha/);
    answers(await guest.call('start', { parameters }), 0);
    assert.equal((await guest.ticks()).boots, 2);
    answers(await guest.stop({ parameters }), 0);
    assert.equal(readFileSync(host.node.path(guest.resource.config), 'utf8'), saved);
  });

  test('wakes a guest that has suspended itself', async () => {
    const guest = await host.running('asleep');
    await guest.press('s');
    await guest.untilState('pmsuspended (unknown)');
    answers(await guest.stop({ meta: { timeout: '12000' } }), 0);
    assert.ok(
      events.of(guest).some((event) => /Resumed|Started Wakeup/.test(event)),
      events.of(guest).join(),
    );
    assert.deepEqual(guest.pids(), []);
  });
});

describe('a guest', { concurrency: 4 }, () => {
  test('that was resumed in the middle of being quiesced is not well, though it runs', async () => {
    const guest = await host.running('halfway');
    answers(await guest.monitor(), 0);
    const uuid = (await host.virsh('domuuid', guest.name)).trim();
    const order = {
      name: guest.name,
      uuid,
      timeout: 20_000,
      before: { 'delete-nodes': 'die' },
    } satisfies Order;
    const { exitCode } = await host.node.exec([process.execPath, QUIESCE_RUN, JSON.stringify(order)]);
    assert.equal(exitCode, 128 + 9, 'it did not die half-way');
    await guest.qmp('cont');
    answers(await guest.monitor(), 1, /halfway.*resumed in the middle of being quiesced/);
    answers(await guest.stop(), 0);
    answers(await guest.probe(), 7);
  });

  test('that was started past the agent is monitored, quiesced and stopped all the same', async () => {
    const guest = await host.guest('adopted');
    const plain = async () => {
      await host.virsh('create', guest.resource.config);
      await guest.ticks();
    };
    await plain();
    answers(await guest.probe(), 0);
    answers(await guest.monitor(), 0);
    answers(await guest.call('start'), 0);
    answers(await guest.stop(), 0);
    await events.until(guest, /Stopped Shutdown/);
    await plain();
    const fault = new Fault(host.node, guest.fault);
    fault.set('W', guest.disk);
    await guest.untilState('paused (I/O error)');
    answers(await guest.monitor(), 7, /adopted.*quiesced-failover-safe/);
    answers(await guest.probe(), 7);
    answers(await guest.stop(), 0);
    guest.pid();
    fault.clear();
    await guest.runElsewhere();
    await host.virsh('destroy', guest.name);
    answers(await guest.monitor(), 7);
    answers(await guest.call('start'), 0);
    answers(await guest.stop(), 0);
  });

  test('that runs is monitored by what docs/performance.md lists, in its order, and by nothing else', async (t) => {
    const guest = await host.running('lean');
    const uuid = (await host.virsh('domuuid', guest.name)).trim();
    const record = host.node.path(`/run/kvmha/guests/${uuid}/running.json`);
    const { pid } = JSON.parse(readFileSync(record, 'utf8')).qemu;
    const trace = '/run/lab/lean.trace';
    const under = ['strace', '-f', '-o', trace, '-e', 'trace=%file,%network,%process,write'];
    if ((await host.node.exec(['strace', '--version'])).exitCode !== 0) {
      t.skip('strace(1), which shows what it does, is not there');
      return;
    }
    const done = async () => {
      answers(await guest.monitor({ under, meta: { interval: '10000' } }), 0);
      const calls = readFileSync(host.node.path(trace), 'utf8').split('\n');
      // Before that it is Node.js that starts.
      const own = calls.slice(calls.findIndex((call) => call.includes('"/run/kvmha/')));
      return own.flatMap((call) => {
        const [, kind, rest] = /^\d+ +(\w+)\((.*)$/.exec(call) ?? [];
        const path = /"(\/[^"]*)"/.exec(rest ?? '')?.[1];
        const command = /^\d+, "\{\\"execute\\":\\"([\w-]+)\\"/.exec(rest ?? '')?.[1];
        const generic = path
          ?.replace(guest.resource.config, 'CONFIG')
          .replace(uuid, 'UUID')
          .replace(`/proc/${pid}/`, '/proc/PID/')
          .replaceAll(guest.name, 'NAME');
        // libuv keeps a descriptor of /dev/null, for when there are none left.
        return generic !== undefined && generic !== '/dev/null'
          ? [`${kind} ${generic}`]
          : command !== undefined
            ? [`ask ${command}`]
            : /^(execve|clone|fork|vfork)/.test(kind ?? '') && !/CLONE_THREAD/.test(rest ?? '')
              ? [`${kind}`]
              : [];
      });
    };
    const manual = readFileSync(join(import.meta.dirname, '../../docs/performance.md'), 'utf8');
    const section = manual.split(/^## /m).find((each) => each.startsWith('What a monitor does')) ?? '';
    const listed = [...section.matchAll(/^\d+\. `([^`]+)`/gm)].map(([, what]) => what);
    // As long as the domain's file has just been written, the monitor reads it, and more than that.
    let seen: string[] = [];
    await Deadline.in(60_000).poll(500, async () => {
      seen = await done();
      return seen.length === listed.length || undefined;
    });
    assert.deepEqual(seen, listed);
    answers(await guest.stop(), 0);
  });

  test('that runs is monitored though no process can be made', async (t) => {
    // nsenter(1) and the process that it starts; with its two threads, there is no room for a child.
    const limit = ControlGroup.of({ tasks: 4 });
    if (typeof limit === 'string') {
      t.skip(limit);
      return;
    }
    using group = limit;
    const guest = await host.running('fewtasks');
    const command = host.node.command([AGENT, 'monitor'], guest.resource.environment('monitor'));
    // As long as the domain's file has just been written, the monitor reads it, and more than that.
    let last: unknown;
    const answered = await Deadline.in(60_000).poll(500, async () => {
      answers(await guest.monitor(), 0);
      last = await group.run(command);
      return (last as { exitCode: number }).exitCode === 0 || undefined;
    });
    assert.ok(answered, `no monitor answers without a process: ${JSON.stringify(last)}`);
    assert.notEqual(
      (await group.run(host.node.command(['sh', '-c', 'sleep 0 | sleep 0 | sleep 0']))).exitCode,
      0,
    );
    answers(await guest.stop(), 0);
  });

  test('that was started past the agent and then anew is known by its last qemu', async () => {
    const guest = await host.running('anew');
    await host.virsh('destroy', guest.name);
    await host.virsh('create', guest.resource.config);
    await guest.ticks();
    answers(await guest.monitor(), 0);
    const { uuid } = guest.resource.domain;
    const record = JSON.parse(readFileSync(host.node.path(`/run/kvmha/guests/${uuid}/running.json`), 'utf8'));
    assert.equal(record.qemu.pid, await guest.resource.pid(host.node));
    answers(await guest.stop(), 0);
  });

  test('without a uuid lives a whole life', async () => {
    const guest = await host.running('nameless', { uuid: 'none' });
    answers(await guest.monitor(), 0);
    answers(await guest.probe(), 0);
    const fault = new Fault(host.node, guest.fault);
    fault.set('W', guest.disk);
    await guest.untilState('paused (I/O error)');
    answers(await guest.monitor(), 7, /quiesced-failover-safe/);
    answers(await guest.stop(), 0);
    guest.pid();
    answers(await guest.call('start'), 5, /kvmha release nameless/);
    fault.clear();
    await guest.runElsewhere();
    await host.virsh('destroy', guest.name);
    answers(await guest.call('start'), 0);
    answers(await guest.stop(), 0);
  });

  test('whose name is a number is not taken for the domain of that id', async () => {
    const other = await host.running('other');
    const id = (await host.virsh('domid', other.name)).trim();
    const guest = await host.guest(id);
    answers(await guest.probe(), 7);
    answers(await guest.monitor(), 7);
    answers(await guest.stop(), 0);
    answers(await guest.call('start'), 0);
    await guest.ticks();
    answers(await guest.monitor(), 0);
    const nameless = { ...guest.resource.domain };
    delete (nameless as { uuid?: string }).uuid;
    new Resource(nameless).configure(host.node);
    answers(await guest.monitor(), 0);
    answers(await guest.stop(), 0);
    assert.deepEqual(guest.pids(), []);
    await other.ticks();
    answers(await other.stop(), 0);
  });

  test('is not changed by reload and reload-agent', async () => {
    const guest = await host.running('reloaded');
    const seen = async () => {
      const { records: _, ...rest } = await guest.everything();
      return rest;
    };
    const before = await seen();
    for (const action of ['reload', 'reload-agent', 'validate-all', 'status']) {
      answers(await guest.call(action, { parameters: { force_stop: 'true' } }), 0);
    }
    assert.deepEqual(await seen(), before);
    await guest.ticks();
    answers(await guest.stop(), 0);
  });

  test('makes a reload fail that would not find it any more', async () => {
    const guest = await host.running('elsewise');
    host.node.write(
      '/run/lab/other.conf',
      'unix_sock_dir = "/run/lab/other"\nauth_unix_rw = "none"\nauth_unix_ro = "none"\n',
    );
    const otherLibvirtd = `
      mkdir -p /run/lab/other
      mount -t tmpfs none /run/libvirt
      mount -t tmpfs none /var/lib/libvirt
      libvirtd -d -f /run/lab/other.conf -p /run/lab/other.pid`;
    await host.node.check(['unshare', '--mount', 'sh', '-c', otherLibvirtd]);
    try {
      const hypervisor = 'qemu+unix:///system?socket=/run/lab/other/libvirt-sock';
      answers(await guest.call('reload', { parameters: { hypervisor } }), 1, /elsewise .*new parameters/);
      answers(await guest.call('reload', { parameters: { policy: '/nowhere.yaml' } }), 5, /nowhere\.yaml/);
      await guest.ticks();
      answers(await guest.stop(), 0);
    } finally {
      await host.node.check(['sh', '-c', 'kill "$(cat /run/lab/other.pid)"']);
    }
  });
});

describe('without libvirtd', () => {
  test('a guest that runs is monitored, and stopped by asking it', async () => {
    const [guest, deaf, gone] = await Promise.all([
      host.running('nolibvirt'),
      host.running('nolibvirtd', { settings: { ignorePowerButton: true } }),
      host.guest('nolibvirtg'),
    ]);
    await host.withoutLibvirtd(async () => {
      const before = await guest.everything(['libvirt']);
      answers(await guest.probe(), 0);
      answers(await guest.monitor(), 0);
      answers(await guest.monitorOfStopped(), 0);
      assert.deepEqual(await guest.everything(['libvirt']), before);
      answers(await gone.probe(), 7);
      answers(await gone.monitorOfStopped(), 7);
      answers(await gone.monitor(), 7);
      answers(await gone.stop(), 0);
      answers(await gone.call('start'), 1, /nolibvirtg was not started: .*libvirt/);
      const heard: QmpEvent[] = [];
      const socket = await QmpSocket.connect(
        host.node.path('/run/libvirt/qemu/kvmha/watcher/nolibvirt.pid'),
        Deadline.in(10_000),
        (event) => heard.push(event),
      );
      const [asked, ended] = await Promise.all([
        guest.stop({ meta: { timeout: '60000' } }),
        deaf.stop({ meta: { timeout: '30000' } }),
      ]);
      socket.close();
      answers(asked, 0);
      answers(ended, 0);
      assert.ok(heard.some(({ event, data }) => event === 'SHUTDOWN' && data['reason'] === 'guest-shutdown'));
      assert.deepEqual([...guest.pids(), ...deaf.pids()], []);
    });
    await guest.runElsewhere();
    answers(await guest.call('start'), 0);
    answers(await guest.stop(), 0);
  });

  test('that is frozen, a guest is ended by asking it, and none that was started past the agent is failed', async () => {
    const [guest, adopted] = await Promise.all([host.running('icy'), host.guest('icya')]);
    await host.virsh('create', adopted.resource.config);
    await adopted.ticks();
    const thaw = await host.freeze('libvirtd');
    const meta = { timeout: '8000' };
    const adoptedIsWell = async () => {
      const reason = /libvirt does not answer.*its vCPUs use processor time/;
      const [monitor, probe, ofStopped] = await Promise.all([
        adopted.monitor({ meta }),
        adopted.probe({ meta }),
        adopted.monitorOfStopped({ meta }),
      ]);
      answers(monitor, 190, reason);
      answers(probe, 190);
      answers(ofStopped, 0);
      await adopted.freeze();
      answers(await adopted.monitor({ meta }), 1, /stopped by a signal/);
      process.kill(adopted.pid(), 'SIGCONT');
      answers(await adopted.stop({ meta }), 0);
    };
    try {
      const [stop] = await Promise.all([guest.stop({ meta: { timeout: '60000' } }), adoptedIsWell()]);
      answers(stop, 0);
      assert.match(logOf(guest), /asking it to shut down over QMP/);
      assert.doesNotMatch(logOf(guest), /has not shut down in time/);
      assert.deepEqual([...guest.pids(), ...adopted.pids()], []);
    } finally {
      thaw();
    }
    await Promise.all([guest.runElsewhere(), adopted.runElsewhere()]);
    answers(await guest.call('start'), 0);
    answers(await guest.stop(), 0);
  });

  test('a start that libvirt does not end counts as one, until libvirt has said how it ended', async () => {
    const guest = await host.guest('pending');
    const hook = '#!/bin/sh\n[ "$2" != prepare ] || while [ -e "/run/lab/hold-$1" ]; do sleep 0.1; done\n';
    host.node.write('/etc/libvirt/hooks/qemu', hook);
    await host.node.check(['chmod', '755', '/etc/libvirt/hooks/qemu']);
    // It looks for hooks when it starts.
    await host.withoutLibvirtd(async () => {});
    host.node.write('/run/lab/hold-pending', '');
    const meta = { timeout: '6000' };
    answers(await guest.call('start', { meta }), 1, /libvirt was told to start pending, and may still do so/);
    assert.deepEqual(guest.pids(), []);
    answers(await guest.probe({ meta }), 1, /pending is unknown.*may still do so/);
    answers(await guest.monitorOfStopped({ meta }), 7);
    answers(await guest.stop({ meta }), 1, /libvirt was told to start pending, and may still do so/);
    const stopping = guest.stop();
    await host.node.check(['rm', '/run/lab/hold-pending']);
    answers(await stopping, 0);
    answers(await guest.probe(), 7);
    // It has ended for good.
    await sleep(1000);
    assert.deepEqual(guest.pids(), []);

    // The same with a libvirtd that shuts down, and answers nobody while it ends what it does.
    host.node.write('/run/lab/hold-pending', '');
    const starting = guest.call('start', { meta: { timeout: '12000' } });
    await until('the hook to run', async () => {
      const { stdout } = await host.node.exec(['pgrep', '-f', 'hooks/qemu pending prepare']);
      return stdout !== '';
    });
    await host.withoutLibvirtd(async () => {
      answers(await starting, 1, /libvirt was told to start pending, and may still do so/);
      answers(await guest.stop({ meta }), 1, /libvirt was told to start pending, and may still do so/);
      await host.node.check(['rm', '/run/lab/hold-pending']);
      await until('libvirtd to end', () => processesNamed(host.node, 'libvirtd').length === 0);
      answers(await guest.stop(), 0);
    }, 'SIGTERM');
    assert.deepEqual(guest.pids(), []);
    answers(await guest.call('start'), 0);
    answers(await guest.stop(), 0);
  });
});

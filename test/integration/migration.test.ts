import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { after, afterEach, before, describe, test } from 'node:test';
import { sleep } from '../../lib/deadline.ts';
import { Fault } from '../fault/fault.ts';
import { createDisk } from '../guest/witness.ts';
import { Lab } from '../lab/client.ts';
import { type Call, installedTree } from '../support/agent.ts';
import { answers, type GuestOptions, Host, type TestGuest, until } from '../support/host.ts';
import { signal, Traveller } from '../support/migration.ts';

const DIRECT = { migration_transport: 'tcp', migrate_options: '--unsafe' };
const POST_COPY = { migration_transport: 'tcp', migrate_options: '--p2p --unsafe --postcopy' };
const DEBUG: Call = { env: { HA_debug: '1' } };

/**
 * libvirtd gives up a peer-to-peer migration when the other side has been silent for so many seconds; 30 by default.
 * Without its capabilities, which libvirt takes away, QEMU may not handle page faults, and so do no post-copy. A guest
 * may come by any of the node's addresses.
 */
const QEMU_CONF = `\
keepalive_interval = 1
keepalive_count = 6
clear_emulator_capabilities = 0
migration_address = "0.0.0.0"
`;

let lab: Lab;
let node1: Host;
let node2: Host;
/** Whether the folder of the QMP sockets was there on the target before and after its first probe. */
let folders: { readonly before: boolean; readonly after: boolean };
const disposables = new AsyncDisposableStack();
before(async () => {
  const tree = disposables.use(await installedTree());
  lab = disposables.use(await Lab.up({ nodes: 2, cluster: false, install: tree.path, qemuConf: QEMU_CONF }));
  [node1, node2] = [Host.of(lab.node(1)), Host.of(lab.node(2))];
  for (const [index, { node }] of [node1, node2].entries()) {
    await node.check(['ip', 'address', 'add', `10.77.1.${index + 1}/24`, 'dev', 'br0']);
    await node.check(['sh', '-c', 'printf "10.77.1.1 node1-mig\\n10.77.1.2 node2-mig\\n" >>/etc/hosts']);
  }
  const exists = () => existsSync(node2.node.path('/run/libvirt/qemu/kvmha/agent'));
  const before = exists();
  answers(await (await node2.guest('stranger')).probe(), 7);
  folders = { before, after: exists() };
});
after(() => disposables.disposeAsync());

function traveller(name: string, options: Parameters<typeof Traveller.start>[2] = {}): Promise<Traveller> {
  return Traveller.start(lab, name, options);
}

/** What each of the three monitors of a side answers, in the time that it is given for that. */
async function monitors(
  guest: TestGuest,
  timeout = '6000',
): Promise<[probe: number, monitor: number, stopped: number]> {
  const call = { meta: { timeout } };
  const probe = await guest.probe(call);
  const monitor = await guest.monitor(call);
  const stopped = await guest.monitorOfStopped(call);
  return [probe.exitCode, monitor.exitCode, stopped.exitCode];
}

test('a probe makes the folder in which a guest that comes will have its QMP sockets', () => {
  assert.deepEqual(folders, { before: false, after: true });
});

describe('a guest that is migrated', { concurrency: 3 }, () => {
  for (const [how, name, parameters] of [
    ['peer-to-peer', 'p2p', {}],
    ['by virsh itself', 'direct', DIRECT],
  ] as const) {
    test(`${how} goes on there and back, with its sockets, and leaves nothing`, async () => {
      await using guest = await traveller(name, { parameters });
      const { source, target } = guest;
      answers(await guest.migrate(), 0);
      answers(await target.call('migrate_from'), 0);
      await guest.runsOnly('target');
      await guest.leftNothing('source');
      const record = JSON.parse(
        readFileSync(
          target.node.path(`/run/kvmha/guests/${source.resource.domain.uuid}/running.json`),
          'utf8',
        ),
      ) as { qemu: { pid: number } };
      assert.equal(record.qemu.pid, await target.resource.pid(target.node));
      // It says "libvirt says ..." when it had to ask more than the guest's own socket.
      const monitored = await target.monitor(DEBUG);
      answers(monitored, 0);
      assert.match(monitored.stderr, /is running: QMP says running$/m);

      answers(await target.call('migrate_to', { meta: { migrate_target: 'node1' } }), 0);
      answers(await source.call('migrate_from'), 0);
      await guest.runsOnly('source');
      await guest.leftNothing('target');
    });
  }

  test('need not have been started by the agent, nor have its sockets', async () => {
    await using guest = await traveller('plain', { by: 'virsh' });
    const { answer } = await guest.setOut();
    assert.deepEqual(await monitors(guest.source), [0, 0, 0]);
    assert.deepEqual(await monitors(guest.target), [7, 7, 7]);
    await guest.hasten();
    answers(await answer, 0);
    answers(await guest.target.call('migrate_from'), 0);
    assert.equal((await guest.goesOn()).boots, 1);
    await guest.leftNothing('source');
    assert.deepEqual(await monitors(guest.target), [0, 0, 0]);
  });

  test('is held to the speed and the downtime from its first page on', async () => {
    await using guest = await traveller('limits');
    const answer = guest.migrate({ parameters: { migration_speed: '1', migration_downtime: '1234' } });
    answer.catch(() => {});
    await until('memory to be sent', async () => (await guest.phase()) === 'active');
    const limits = (await guest.qemu('query-migrate-parameters')) as Record<string, number>;
    assert.equal(limits['max-bandwidth'], 1024 * 1024);
    assert.equal(limits['downtime-limit'], 1234);
    await guest.hasten();
    answers(await answer, 0);
  });

  for (const [what, name, parameters, connection, port] of [
    [
      'remoteuri and migrateuri',
      'uris',
      {
        remoteuri: 'qemu+tcp://%n/system',
        migrateuri: 'tcp://%n-mig:49301',
        migrate_options: '--p2p --unsafe',
      },
      'qemu+tcp://node2/system',
      49301,
    ],
    [
      '--migrateuri among the options',
      'option',
      { migrate_options: '--p2p --unsafe --migrateuri=tcp://%n-mig:49302' },
      'qemu+tcp://node2/system',
      49302,
    ],
    [
      'a migration network, a port and a user',
      'network',
      { migration_network_suffix: '-mig', migrateport: '49303', migration_user: 'virt' },
      'qemu+tcp://virt@node2-mig/system',
      49303,
    ],
  ] as const) {
    test(`goes by the way that ${what} name`, async () => {
      await using guest = await traveller(name, {
        parameters: { migration_transport: 'tcp', migrate_options: '--unsafe', ...parameters },
      });
      const { answer } = await guest.setOut();
      const connections = await guest.source.node.check(['ss', '-Htn', 'state', 'established']);
      assert.match(connections, new RegExp(`10\\.77\\.1\\.2:${port}\\b`), 'its memory goes another way');
      assert.match(
        await guest.source.node.check(['cat', '/var/log/agent.log']),
        new RegExp(`\\(${name}\\).*migrating it to ${connection.replaceAll('+', '\\+')}$`, 'm'),
      );
      await guest.hasten();
      answers(await answer, 0);
      await guest.runsOnly('target');
    });
  }

  test('finds the pools and networks started that it needs', async () => {
    const pool = "<pool type='dir'><name>depot</name><target><path>/shared/depot</path></target></pool>";
    const network = "<network><name>lane</name><forward mode='bridge'/><bridge name='br0'/></network>";
    for (const { node } of [node1, node2]) {
      node.write('/run/lab/depot.xml', pool);
      node.write('/run/lab/lane.xml', network);
      await createDisk('/shared/depot/more.img', { node, content: 'blank' });
      await node.check(['virsh', 'pool-define', '/run/lab/depot.xml']);
      await node.check(['virsh', 'net-define', '/run/lab/lane.xml']);
    }
    await using guest = await traveller('resources', {
      parameters: { start_resources: 'true' },
      devices: `\
    <disk type='volume' device='disk'>
      <driver name='qemu' type='raw' cache='none'/>
      <source pool='depot' volume='more.img'/>
      <target dev='vdb' bus='virtio'/>
    </disk>
    <interface type='network'>
      <source network='lane'/>
      <model type='virtio'/>
    </interface>
`,
    });
    assert.doesNotMatch(await node2.virsh('pool-list', '--name'), /depot/);
    answers(await guest.migrate(), 0);
    assert.match(await node2.virsh('pool-list', '--name'), /depot/);
    assert.match(await node2.virsh('net-list', '--name'), /lane/);
    await guest.runsOnly('target');
  });

  test('has its configuration saved as it is on either side, without what the agent adds', async () => {
    await using guest = await traveller('saved', { parameters: { save_config_on_stop: 'true' } });
    const config = () => readFileSync(guest.source.node.path(guest.source.resource.config), 'utf8');
    await node1.virsh('desc', 'saved', '--live', 'changed before');
    answers(await guest.migrate(), 0);
    assert.match(config(), /<description>changed before<\/description>/);
    await node2.virsh('desc', 'saved', '--live', 'changed after');
    answers(await guest.target.call('migrate_from'), 0);
    assert.match(config(), /<description>changed after<\/description>/);
    assert.doesNotMatch(config(), /charkvmha/);
  });
});

describe('a guest that stands still when it is migrated', { concurrency: 3 }, () => {
  test('because an operator has paused it is paused there, too, and can be resumed', async () => {
    await using guest = await traveller('paused');
    await node1.virsh('suspend', 'paused');
    answers(await guest.migrate(), 0);
    answers(await guest.target.call('migrate_from'), 0);
    assert.deepEqual(await monitors(guest.target), [0, 0, 7]);
    await node2.virsh('resume', 'paused');
    await guest.runsOnly('target');
  });

  test('because its storage is full is not taken for hit by a fault there, and can be resumed', async () => {
    await using guest = await traveller('full');
    new Fault(guest.source.node, guest.source.fault).set('WN', guest.source.disk);
    await guest.source.untilState('paused (I/O error)');
    answers(await guest.migrate(), 0);
    answers(await guest.target.call('migrate_from'), 0);
    assert.deepEqual(await monitors(guest.target), [0, 0, 7]);
    await node2.virsh('resume', 'full');
    await guest.runsOnly('target');
  });

  test('because it has suspended itself is woken first', async () => {
    await using guest = await traveller('asleep');
    await guest.source.press('s');
    await guest.source.untilState('pmsuspended (unknown)');
    answers(await guest.migrate(), 0);
    answers(await guest.target.call('migrate_from'), 0);
    await guest.goesOn();
    await guest.leftNothing('source');
  });
});

describe('migrate_to and migrate_from refuse', { concurrency: 3 }, () => {
  test('to go nowhere, and to take what nobody sends', async () => {
    await using guest = await traveller('nowhere');
    answers(await guest.source.call('migrate_to'), 2, /nowhere: migrate_to was called without a target node/);
    answers(await guest.target.call('migrate_from'), 1, /nowhere does not run on this node/);
    answers(
      await guest.target.call('migrate_to', { meta: { migrate_target: 'node1' } }),
      1,
      /does not run on this/,
    );
    await guest.runsOnly('source');
  });

  test('to migrate a guest that was hit by a fault, and one that is preserved', async () => {
    await using guest = await traveller('hurt');
    new Fault(guest.source.node, guest.source.fault).set('W', guest.source.disk);
    await guest.source.untilState('paused (I/O error)');
    answers(await guest.migrate(), 1, /hurt is faulted: .*It cannot be migrated/);
    answers(await guest.source.monitor(), 7);
    answers(await guest.migrate(), 1, /kvmha release hurt/);
    await guest.leftNothing('target');
  });

  test('to take what does not arrive in time', async () => {
    await using guest = await traveller('slow');
    const { answer } = await guest.setOut();
    answers(
      await guest.target.call('migrate_from', { meta: { timeout: '4000' } }),
      1,
      /slow is incoming: .*did not settle in time/,
    );
    await guest.hasten();
    answers(await answer, 0);
  });

  test('to migrate a guest whose image the target does not have', async () => {
    await using guest = await traveller('alone');
    await createDisk('/var/lib/alone-more.img', { node: guest.source.node, content: 'blank' });
    await node1.virsh(
      ...['attach-disk', 'alone', '/var/lib/alone-more.img', 'vdb', '--subdriver', 'raw', '--cache', 'none'],
    );
    answers(
      await guest.migrate(),
      1,
      /alone: migration to .* failed \(.*alone-more\.img.*\); it still runs here/,
    );
    await guest.runsOnly('source');
    await guest.leftNothing('target');
  });
});

/** What a test that failed has frozen would fail all that come after it. */
function thawEachTime(): void {
  afterEach(() => {
    node1.thaw('libvirtd');
    node2.thaw('libvirtd');
  });
}

describe('while a guest moves', () => {
  thawEachTime();

  test('it is the source’s own, and the target’s not yet', async () => {
    await using guest = await traveller('moving');
    const { answer } = await guest.setOut();
    assert.deepEqual(await monitors(guest.source), [0, 0, 0]);
    assert.deepEqual(await monitors(guest.target), [7, 7, 7]);
    await guest.hasten();
    answers(await answer, 0);
    assert.deepEqual(await monitors(guest.source), [7, 7, 7]);
    assert.deepEqual(await monitors(guest.target), [0, 0, 0]);
  });

  test('no probe takes it for failed, at whichever moment it looks', async () => {
    await using guest = await traveller('often');
    const seen: string[] = [];
    let over = false;
    const look = async (side: TestGuest) => {
      while (!over) {
        const { exitCode, reason } = await side.probe();
        seen.push(exitCode === 1 ? `${side.node.name}: ${reason}` : 'well');
      }
    };
    const looks = Promise.all([look(guest.source), look(guest.target)]);
    for (const [from, to] of [
      [guest.source, 'node2'],
      [guest.target, 'node1'],
      [guest.source, 'node2'],
      [guest.target, 'node1'],
    ] as const) {
      answers(await from.call('migrate_to', { meta: { migrate_target: to } }), 0);
    }
    over = true;
    await looks;
    assert.deepEqual(
      seen.filter((answer) => answer !== 'well'),
      [],
    );
    await guest.runsOnly('source');
  });

  test('what has every page, but no order to run, is never taken for the guest', async () => {
    await using guest = await traveller('handed');
    const { answer } = await guest.setOut();
    const thaw = await node2.freeze('libvirtd');
    await guest.hasten();
    await until('the source to have handed over', async () => (await guest.phase()) === 'completed');
    const [source, probe] = await Promise.all([
      guest.source.probe(DEBUG),
      guest.target.probe({ meta: { timeout: '4000' } }),
    ]);
    thaw();
    answers(source, 0);
    assert.match(source.stderr, /handed is transient/);
    answers(probe, 1, /handed is unknown: .*it was migrated here and has not run since/);
    answers(await answer, 0);
    await guest.runsOnly('target');
    await guest.leftNothing('source');
  });

  test('what is left of it when everybody who knew is killed is known to be remains', async () => {
    await using guest = await traveller('remains', { parameters: DIRECT });
    const { source, target } = guest;
    const { answer } = await guest.setOut();
    const thawTarget = await node2.freeze('libvirtd');
    await guest.hasten();
    await until('the source to have handed over', async () => (await guest.phase()) === 'completed');
    await node1.freeze('libvirtd');
    thawTarget();
    await guest.goesOn();
    signal(source, 'virsh', 'SIGKILL');
    signal(source, 'migrate_to', 'SIGKILL');
    await node1.withoutLibvirtd(async () => {
      await answer;
    });
    assert.equal(await source.resource.state(source.node), 'paused (migrating)');
    assert.deepEqual(await monitors(source), [7, 7, 7]);
    assert.deepEqual(await monitors(target), [0, 0, 0]);
    answers(await guest.migrate(), 0);
    answers(await source.call('start'), 1, /remains has migrated away/);
    answers(await source.stop(), 0);
    await guest.leftNothing('source');
    await guest.runsOnly('target');
  });
});

describe('a migration that fails by itself', { concurrency: 3 }, () => {
  test('for lack of time is cancelled, and the guest stays', async () => {
    await using guest = await traveller('short');
    const { answer } = await guest.setOut({ meta: { timeout: '8000' } });
    answers(
      await answer,
      1,
      /short: migration to qemu\+tcp:\/\/node2\/system failed \(virsh migrate did not end in time.*; it still runs here$/,
    );
    await guest.runsOnly('source');
    answers(await guest.migrate({ parameters: { migration_speed: '1000' } }), 0);
    await guest.runsOnly('target');
    await guest.leftNothing('source');
  });

  test('because the qemu of the target dies leaves the guest here', async () => {
    await using guest = await traveller('there');
    const { answer } = await guest.setOut();
    process.kill(guest.target.pid(), 'SIGKILL');
    answers(await answer, 1, /it still runs here$/);
    answers(await guest.target.stop(), 0);
    await guest.runsOnly('source');
    await guest.leftNothing('target');
  });

  test('because the qemu of the source dies says that it runs nowhere', async () => {
    await using guest = await traveller('here');
    const { answer } = await guest.setOut();
    process.kill(guest.source.pid(), 'SIGKILL');
    answers(await answer, 1, /here it is shut-off: .*; on the target it is not known$/);
    answers(await guest.source.stop(), 0);
    answers(await guest.target.stop(), 0);
    await guest.leftNothing('source');
    await guest.leftNothing('target');
  });
});

describe('a migration that fails', () => {
  thawEachTime();

  test('because the libvirtd of the source dies leaves the guest here', async () => {
    await using guest = await traveller('daemon');
    const { answer } = await guest.setOut();
    await node1.withoutLibvirtd(async () => {
      answers(await answer, 1, /it still runs here$/);
      answers(await guest.source.monitor(), 0);
    });
    await guest.runsOnly('source');
    await guest.leftNothing('target');
  });

  test('because the libvirtd of the source hangs is cancelled in QEMU itself', async () => {
    await using guest = await traveller('deaf');
    const { answer } = await guest.setOut({ meta: { timeout: '20000' } });
    const thaw = await node1.freeze('libvirtd');
    try {
      answers(await answer, 1, /it still runs here$/);
      assert.equal(await guest.phase(), 'cancelled');
    } finally {
      thaw();
    }
    await guest.runsOnly('source');
    await until('the target to have given it up', () => guest.target.pids().length === 0);
  });

  test('because the libvirtd of the target is dead leaves the guest here', async () => {
    await using guest = await traveller('nobody');
    await node2.withoutLibvirtd(async () => {
      answers(await guest.migrate(), 1, /Connection refused\); it still runs here$/);
    });
    await guest.runsOnly('source');
  });

  test('because the libvirtd of the target hangs leaves the guest here, and a stop can still ask it', async () => {
    await using guest = await traveller('hung');
    const thaw = await node2.freeze('libvirtd');
    try {
      answers(await guest.migrate({ meta: { timeout: '5000' } }), 1, /it still runs here$/);
      await guest.goesOn();
      // libvirt still waits for the target, and passes nothing on meanwhile.
      answers(await guest.source.stop({ meta: { timeout: '20000' } }), 0);
      const log = await guest.source.node.check(['cat', '/var/log/agent.log']);
      assert.match(log, /\(hung\).*asking it to shut down over QMP/);
      assert.doesNotMatch(log, /\(hung\).*(destroying|killing)/);
    } finally {
      thaw();
    }
    await guest.leftNothing('source');
  });

  test('because the agent is killed goes on, the guest is here until it is there, and nothing is locked', async () => {
    await using guest = await traveller('killed');
    const { answer } = await guest.setOut();
    signal(guest.source, 'migrate_to', 'SIGKILL');
    await answer;
    assert.deepEqual(await monitors(guest.source), [0, 0, 0]);
    assert.deepEqual(await monitors(guest.target), [7, 7, 7]);
    await guest.hasten();
    answers(await guest.target.call('migrate_from'), 0);
    await guest.runsOnly('target');
    await until('the source to have let go', () => guest.source.pids().length === 0);
    assert.deepEqual(await monitors(guest.source), [7, 7, 7]);
    answers(await guest.source.stop({ meta: { timeout: '10000' } }), 0);
    await guest.leftNothing('source');
    await guest.runsOnly('target');
  });

  test('because the agent is killed does not let the guest escape a stop', async () => {
    await using guest = await traveller('escape');
    const { answer } = await guest.setOut();
    signal(guest.source, 'migrate_to', 'SIGKILL');
    await answer;
    answers(await guest.source.stop(), 0);
    answers(await guest.target.stop(), 0);
    await guest.leftNothing('source');
    await guest.leftNothing('target');
    assert.match(
      await guest.source.node.check(['cat', '/var/log/agent.log']),
      /\(escape\).*cancelling its migration/,
    );
  });

  test('by virsh alone, the guest having arrived, is a success', async () => {
    await using guest = await traveller('arrived');
    const { answer } = await guest.setOut();
    const thaw = await node2.freeze('libvirtd');
    await guest.hasten();
    await until('the source to have handed over', async () => (await guest.phase()) === 'completed');
    signal(guest.source, 'virsh', 'SIGKILL');
    await sleep(500);
    thaw();
    answers(await answer, 0);
    await guest.runsOnly('target');
    await guest.leftNothing('source');
  });

  test('because the network is cut leaves the guest here', async () => {
    await using guest = await traveller('cut');
    const { answer } = await guest.setOut({ meta: { timeout: '30000' } });
    await guest.target.node.cut();
    try {
      answers(await answer, 1, /it still runs here$/);
      await guest.goesOn();
    } finally {
      await guest.target.node.heal();
    }
    answers(await guest.target.stop(), 0);
    await guest.runsOnly('source');
  });

  test('because the network is cut at the hand-over lets the guest run on one side at most', async () => {
    await using guest = await traveller('halved');
    const { target } = guest;
    const { answer } = await guest.setOut({ meta: { timeout: '10000' } });
    const thaw = await node2.freeze('libvirtd');
    await guest.hasten();
    await until('the source to have handed over', async () => (await guest.phase()) === 'completed');
    await sleep(300);
    await target.node.cut();
    thaw();
    try {
      answers(await answer, 1, /halved: migration to .* failed/);
    } finally {
      await target.node.heal();
    }
    assert.equal((await guest.goesOn()).boots, 1);
  });

  test('because the target is powered off leaves the guest here', async () => {
    await using guest = await traveller('off');
    const { answer } = await guest.setOut({ meta: { timeout: '30000' } });
    await guest.target.node.powerOff();
    answers(await answer, 1, /it still runs here$/);
    await guest.runsOnly('source');
    await guest.target.node.powerOn();
    Host.of(guest.target.node);
    answers(await guest.target.probe(), 7);
    // libvirt examines the emulators of a node that has just been switched on when the guest comes to it.
    answers(await guest.migrate({ meta: { timeout: '90000' } }), 0);
    await guest.runsOnly('target');
  });
});

describe('a post-copy migration', () => {
  const options: GuestOptions = { parameters: POST_COPY, memory: 64 };

  async function inPostCopy(name: string, call: Call) {
    const guest = await traveller(name, options);
    const { answer } = await guest.setOut(call);
    await guest.qemu('migrate-set-parameters', { 'max-postcopy-bandwidth': 20_000 });
    await node1.virsh('migrate-postcopy', name);
    await guest.source.untilState('paused (post-copy)');
    return { guest, answer };
  }

  test('leaves the guest whole on neither side until it has ended, which a stop waits for', async () => {
    const { guest: started, answer } = await inPostCopy('spread', {});
    await using guest = started;
    assert.deepEqual(await monitors(guest.source), [1, 1, 7]);
    answers(
      await guest.source.stop({ meta: { timeout: '4000' } }),
      1,
      /stop: spread is in a post-copy migration/,
    );
    assert.equal((await guest.target.probe()).exitCode, 0);
    const stop = guest.source.stop();
    await sleep(1000);
    await guest.hasten();
    answers(await stop, 0);
    answers(await answer, 0);
    await guest.runsOnly('target');
    await guest.leftNothing('source');
  });

  test('that lost its source is no success, nor the target’s half a guest', async () => {
    const { guest: started, answer } = await inPostCopy('half', { meta: { timeout: '10000' } });
    await using guest = started;
    await guest.target.untilState('running (post-copy)');
    process.kill(guest.source.pid(), 'SIGKILL');
    answers(await answer, 1, /here it is shut-off: .*; on the target it is running \(post-copy failed\)$/);
    assert.deepEqual(await monitors(guest.target), [1, 1, 7]);
    answers(
      await guest.target.stop({ meta: { timeout: '4000' } }),
      1,
      /stop: half is in a post-copy migration/,
    );
  });
});

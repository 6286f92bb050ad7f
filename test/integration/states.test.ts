import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { after, before, describe, type TestContext, test } from 'node:test';
import { Fault } from '../fault/fault.ts';
import type { Answer } from '../support/agent.ts';
import { answers, type GuestOptions, Host, type TestGuest, until } from '../support/host.ts';

/** What can be seen of a guest while something is frozen. */
type Blind = readonly ('libvirt' | 'qemu')[];

/** A row of the state table of the design: what each action answers, and what becomes of the guest. */
interface Row {
  /** Brings a guest of this name into the state. */
  readonly raise: (name: string) => Promise<TestGuest>;
  readonly probe: number;
  readonly monitor: number;
  readonly stopped: number;
  readonly stop: number;
  /** What the reasons of a failing probe and monitor say. */
  readonly reason?: RegExp;
  /** Whether the monitor leaves everything as it is, too. */
  readonly monitorChangesNothing?: boolean;
  /** Whether the guest's qemu is left by a stop. */
  readonly staysAfterStop?: boolean;
  readonly blind?: Blind;
  readonly timeout?: string;
}

let host: Host;
before(async () => {
  host = await Host.up();
});
after(() => host[Symbol.asyncDispose]());

/** Calls each of the four actions on guests in one state. */
async function holds(t: TestContext, name: string, row: Row): Promise<void> {
  const meta = { timeout: row.timeout ?? '60000' };
  const guest = await row.raise(name);
  const before = await guest.everything(row.blind);
  await t.test('probe', async () => {
    answers(await guest.probe({ meta }), row.probe, row.probe === 1 ? row.reason : undefined);
    assert.deepEqual(await guest.everything(row.blind), before, 'the probe changed something');
  });
  await t.test('monitor with role=Stopped', async () => {
    answers(await guest.monitorOfStopped({ meta }), row.stopped);
    assert.deepEqual(
      await guest.everything(row.blind),
      before,
      'the monitor with role=Stopped changed something',
    );
  });
  await t.test('recurring monitor', async () => {
    answers(await guest.monitor({ meta }), row.monitor, row.monitor === 0 ? undefined : row.reason);
    if (row.monitorChangesNothing) {
      const after = await guest.everything(row.blind);
      assert.deepEqual(withoutNote(after), withoutNote(before), 'the monitor changed something');
    }
  });
  await t.test('stop', async () => {
    const own = row.monitorChangesNothing ? guest : await row.raise(`${name}-stop`);
    answers(await own.stop({ meta }), row.stop);
    assert.equal(own.pids().length, row.staysAfterStop ? 1 : 0);
    if (row.stop === 0) {
      const written = await own.witness();
      const elsewhere = await own.runElsewhere();
      assert.equal(elsewhere.boots, written.boots + 1);
      assert.ok(elsewhere.ticks > written.ticks, 'an acknowledged write was lost');
    }
  });
}

/** A recurring monitor may note which I/O error it has seen, beside the guest's other records. */
function withoutNote(facts: Record<string, unknown>): Record<string, unknown> {
  const records = facts['records'];
  assert.ok(Array.isArray(records));
  const others = records.filter(
    (line) => !/\/io-error\.json /.test(line) && !/\/guests\/[0-9a-f-]+ /.test(line),
  );
  return { ...facts, records: others };
}

function row(what: string, name: string, expected: Row): void {
  test(what, (t) => holds(t, name, expected));
}

async function failing(name: string, letters: string, options: GuestOptions = {}): Promise<TestGuest> {
  const guest = await host.running(name, options);
  new Fault(host.node, guest.fault).set(letters, guest.disk);
  return guest;
}

/** A save, dump or migration of the guest to a place that takes no data. */
async function stuck(guest: TestGuest, ...words: string[]): Promise<TestGuest> {
  const pipe = `/run/lab/${guest.name}.fifo`;
  await host.node.check(['mkfifo', pipe]);
  host.node.spawn(['sh', '-c', `sleep 1000 <${pipe}`], {}, { stdio: 'ignore' }).unref();
  host.node.spawn(['virsh', ...words, guest.name, pipe], {}, { stdio: 'ignore' }).unref();
  return guest;
}

describe('the table of states', { concurrency: 4 }, () => {
  row('running', 'run', {
    raise: (name) => host.running(name),
    ...{ probe: 0, monitor: 0, stopped: 0, stop: 0, monitorChangesNothing: true },
  });

  const survived = async (name: string, parameters: Record<string, string> = {}) => {
    const guest = await failing(name, 'W', { disk: { errorPolicy: 'report' }, parameters });
    await until('the error to be counted', async () =>
      /"failed_wr_operations":[1-9]/.test(JSON.stringify(await guest.qmp('query-blockstats'))),
    );
    new Fault(host.node, guest.fault).clear();
    await guest.ticks();
    return guest;
  };
  row('degraded: an I/O error was reported to the guest', 'degraded', {
    raise: (name) => survived(name),
    ...{ probe: 190, monitor: 190, stopped: 0, stop: 0, monitorChangesNothing: true },
    reason: /degraded.*I\/O errors were passed to the guest/,
  });

  row('degraded, with the policy to ignore it', 'degradedi', {
    raise: (name) => {
      host.node.write('/etc/kvmha/ignore.yaml', 'monitor: { degraded: ignore }\n');
      return survived(name, { policy: '/etc/kvmha/ignore.yaml' });
    },
    ...{ probe: 0, monitor: 0, stopped: 0, stop: 0, monitorChangesNothing: true },
  });

  row('transient: its memory is being saved', 'save', {
    raise: async (name) => {
      const guest = await stuck(await host.running(name), 'save');
      await guest.untilState('paused (saving)');
      return guest;
    },
    ...{ probe: 0, monitor: 0, stopped: 7, stop: 0, monitorChangesNothing: true, timeout: '20000' },
  });

  row('transient: its memory is being dumped', 'dump', {
    raise: async (name) => {
      const guest = await stuck(await host.running(name), 'dump', '--memory-only');
      await guest.untilState('paused (dumping)');
      return guest;
    },
    ...{ probe: 0, monitor: 0, stopped: 7, stop: 0, monitorChangesNothing: true, timeout: '20000' },
  });

  const paused = async (name: string, parameters: Record<string, string> = {}) => {
    const guest = await host.running(name, { parameters });
    await host.virsh('suspend', name);
    return guest;
  };
  row('paused by an operator', 'paused', {
    raise: (name) => paused(name),
    ...{ probe: 0, monitor: 0, stopped: 7, stop: 0, monitorChangesNothing: true },
  });
  row('paused by an operator, with operator_pause=failed', 'pausef', {
    raise: (name) => paused(name, { operator_pause: 'failed' }),
    ...{ probe: 0, monitor: 1, stopped: 7, stop: 0, monitorChangesNothing: true },
    reason: /virsh resume pausef/,
  });

  row('incoming copy', 'incoming', {
    raise: async (name) => {
      const guest = await host.guest(name, { args: ['-incoming', 'defer'] });
      await host.virsh('create', guest.resource.config);
      return guest;
    },
    ...{ probe: 7, monitor: 7, stopped: 7, stop: 0, monitorChangesNothing: true },
    reason: /incoming.*inmigrate/,
  });

  row('suspended by itself', 'suspended', {
    raise: async (name) => {
      const guest = await host.running(name);
      await guest.press('s');
      await guest.untilState('pmsuspended (unknown)');
      return guest;
    },
    ...{ probe: 0, monitor: 0, stopped: 7, stop: 0, monitorChangesNothing: true, timeout: '20000' },
  });

  const full = async (name: string, parameters: Record<string, string> = {}) => {
    const guest = await failing(name, 'WN', { parameters });
    await guest.untilState('paused (I/O error)');
    return guest;
  };
  row('out of space is held, and not quiesced', 'full', {
    raise: (name) => full(name),
    ...{ probe: 0, monitor: 0, stopped: 7, stop: 0, monitorChangesNothing: true },
  });
  row('out of space with the policy to fail, and not quiesced', 'fullf', {
    raise: (name) => {
      host.node.write('/etc/kvmha/fail.yaml', 'out-of-space: fail\n');
      return full(name, { policy: '/etc/kvmha/fail.yaml' });
    },
    ...{ probe: 0, monitor: 1, stopped: 7, stop: 0, monitorChangesNothing: true },
    reason: /out-of-space.*Free space/,
  });

  row('faulted: I/O error', 'ioerror', {
    raise: async (name) => {
      const guest = await failing(name, 'W');
      await guest.untilState('paused (I/O error)');
      return guest;
    },
    ...{ probe: 1, monitor: 7, stopped: 7, stop: 0, staysAfterStop: true },
    reason: /io-error/,
  });

  row('faulted: the watchdog paused it', 'watchdog', {
    raise: async (name) => {
      const guest = await host.running(name, { watchdog: 'pause', settings: { watchdog: true } });
      await guest.press('h');
      await guest.untilState('paused (watchdog)');
      return guest;
    },
    ...{ probe: 1, monitor: 7, stopped: 7, stop: 0, staysAfterStop: true },
    reason: /watchdog/,
  });

  test(
    'faulted: KVM failed with an internal error',
    { skip: !existsSync('/dev/kvm') && 'there is no KVM here' },
    (t) =>
      holds(t, 'internal', {
        raise: async (name) => {
          const guest = await host.running(name, { type: 'kvm' });
          await guest.press('i');
          await guest.untilState('paused (unknown)');
          return guest;
        },
        ...{ probe: 1, monitor: 7, stopped: 7, stop: 0, staysAfterStop: true },
        reason: /internal-error/,
      }),
  );

  row('faulted and not to be proved safe: it has a device that nobody has examined', 'unproved', {
    raise: async (name) => {
      const guest = await failing(name, 'W', { args: ['-device', 'edu,addr=0x10'] });
      await guest.untilState('paused (I/O error)');
      return guest;
    },
    ...{ probe: 1, monitor: 1, stopped: 7, stop: 0, monitorChangesNothing: true },
    reason: /io-error|edu/,
  });

  row('quiesced-failover-safe', 'safe', {
    raise: async (name) => {
      const guest = await failing(name, 'W');
      await guest.untilState('paused (I/O error)');
      answers(await guest.monitor(), 7, /quiesced-failover-safe/);
      return guest;
    },
    ...{ probe: 7, monitor: 7, stopped: 7, stop: 0, monitorChangesNothing: true, staysAfterStop: true },
    reason: /kvmha release safe/,
  });

  row('shut off: libvirt does not know it', 'off', {
    raise: async (name) => {
      const guest = await host.running(name);
      await host.virsh('destroy', name);
      return guest;
    },
    ...{ probe: 7, monitor: 7, stopped: 7, stop: 0 },
    reason: /shut-off: libvirt does not know the domain/,
  });

  row('shut off: defined but not running', 'defined', {
    raise: async (name) => {
      const guest = await host.guest(name);
      await host.virsh('define', guest.resource.config);
      return guest;
    },
    ...{ probe: 7, monitor: 7, stopped: 7, stop: 0 },
    reason: /shut-off: libvirt says shut off/,
  });

  const panicked = async (name: string, onCrash: 'preserve' | 'destroy', panic: 'fence' | 'preserve') => {
    const guest = await host.running(name, { pvpanic: true, onCrash, parameters: { guest_panic: panic } });
    await guest.press('p');
    if (onCrash === 'preserve') {
      await guest.untilState('crashed (panicked)');
    } else {
      await until('its qemu to be gone', () => guest.pids().length === 0);
    }
    return guest;
  };
  row('crashed, and its qemu is left', 'crash', {
    raise: (name) => panicked(name, 'preserve', 'fence'),
    ...{ probe: 1, monitor: 7, stopped: 7, stop: 0 },
    reason: /crashed.*guest-panicked/,
  });
  row('crashed, with guest_panic=preserve', 'crashp', {
    raise: (name) => panicked(name, 'preserve', 'preserve'),
    ...{ probe: 1, monitor: 7, stopped: 7, stop: 0, staysAfterStop: true },
    reason: /guest-panicked/,
  });
  row('crashed, and its process is gone', 'crashd', {
    raise: (name) => panicked(name, 'destroy', 'fence'),
    ...{ probe: 7, monitor: 7, stopped: 7, stop: 0 },
    reason: /shut-off/,
  });
});

/** What a probe, a monitor with role=Stopped and a recurring monitor answer, with a timeout that they must keep. */
async function observers(guest: TestGuest): Promise<[probe: Answer, ofStopped: Answer, monitor: Answer]> {
  const meta = { timeout: '10000' };
  return Promise.all([guest.probe({ meta }), guest.monitorOfStopped({ meta }), guest.monitor({ meta })]);
}

describe('while libvirtd is frozen', { concurrency: 3 }, () => {
  let thaw: () => void;
  let running: TestGuest;
  let frozen: TestGuest;
  let none: TestGuest;
  before(async () => {
    [running, frozen, none] = await Promise.all([
      host.running('calm'),
      host.running('frozen'),
      host.guest('none'),
    ]);
    thaw = await host.freeze('libvirtd');
  });
  after(() => thaw());

  test('a guest that runs has not failed', async () => {
    const before = await running.everything(['libvirt']);
    const [probe, ofStopped, monitor] = await observers(running);
    answers(probe, 0);
    answers(ofStopped, 0);
    answers(monitor, 0);
    assert.deepEqual(await running.everything(['libvirt']), before);
    await running.ticks();
  });

  test('a guest whose qemu is frozen, too, is unknown until a stop ends it', async () => {
    await frozen.freeze();
    const before = await frozen.everything(['libvirt', 'qemu']);
    const [probe, ofStopped, monitor] = await observers(frozen);
    answers(probe, 1, /frozen is unknown.*stopped by a signal.*Look at process/);
    answers(ofStopped, 7);
    answers(monitor, 1, /frozen is unknown.*stopped by a signal.*Look at process/);
    assert.deepEqual(await frozen.everything(['libvirt', 'qemu']), before);
    answers(await frozen.stop({ meta: { timeout: '15000' } }), 0);
    assert.deepEqual(frozen.pids(), []);
  });

  test('a guest that is not there is shut off', async () => {
    const [probe, ofStopped, monitor] = await observers(none);
    answers(probe, 7);
    answers(ofStopped, 7);
    answers(monitor, 7);
    answers(await none.stop({ meta: { timeout: '15000' } }), 0);
  });
});

test('a guest whose qemu alone is frozen is unknown, and goes on when it is thawed', async () => {
  const guest = await host.running('hung');
  await guest.freeze();
  const before = await guest.everything(['qemu']);
  const [probe, ofStopped, monitor] = await observers(guest);
  answers(probe, 1, /stopped by a signal/);
  answers(ofStopped, 7);
  answers(monitor, 1, /stopped by a signal/);
  assert.deepEqual(await guest.everything(['qemu']), before);
  process.kill(guest.pid(), 'SIGCONT');
  await guest.ticks();
  assert.match(await host.virsh('qemu-monitor-command', 'hung', '--hmp', 'info status'), /running/);
});

import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, beforeEach, describe, it, type TestContext } from 'node:test';
import { Deadline } from '../../lib/deadline.ts';
import { describeError, type HostError } from '../../lib/host/host-error.ts';
import { TraceReader } from '../../lib/host/tracefs.ts';
import type { HostStatus } from '../../lib/watch/host-watch.ts';
import { Host } from '../support/host.ts';
import { Probes } from '../support/trace-probes.ts';
import { type Entry, journal, Watch } from '../support/watch.ts';

const PATIENCE = 60_000;

/** What rasdaemon's triggers get, see its contrib/mc_event_trigger. */
const UNCORRECTED = {
  TYPE: 'Uncorrected',
  COUNT: '1',
  MESSAGE: 'memory read error',
  LABEL: 'DIMM_A1',
  MC_INDEX: '0',
  ADDRESS: '1e2b6a000',
};

let host: Host;
let watch: Watch;
/** Or why there are none. The kernel has one set of them, so that all that uses them is in one file. */
let probes: Probes | string;
before(async () => {
  probes = Probes.set();
  host = await Host.up();
  watch = new Watch(host.node);
  host.node.write('/etc/ras/kvmha', '#!/bin/sh\nexec kvmha host-error\n');
  await host.node.check(['chmod', '755', '/etc/ras/kvmha']);
});
after(async () => {
  await watch[Symbol.asyncDispose]();
  await host[Symbol.asyncDispose]();
  if (typeof probes !== 'string') {
    await probes[Symbol.asyncDispose]();
  }
});
beforeEach(async () => {
  host.node.write('/etc/kvmha/policy.yaml', '');
  await host.node.check(['rm', '-f', '/run/kvmha/host.json']);
});

function entries(): Entry[] {
  return journal(host.node).filter(({ host: name }) => name !== undefined);
}

async function health(): Promise<{ exitCode: number; stdout: string; report: Record<string, unknown> }> {
  const { exitCode, stdout } = await host.node.exec(['kvmha', 'host-health']);
  const json = await host.node.exec(['kvmha', 'host-health', '--json']);
  return { exitCode, stdout, report: JSON.parse(json.stdout) };
}

describe('an error of the host', () => {
  it("makes health red by a trigger of rasdaemon's, until an operator says green", async () => {
    const trigger = await host.node.exec(['/etc/ras/kvmha'], { env: UNCORRECTED });
    assert.equal(trigger.exitCode, 0, trigger.stderr);
    assert.match(trigger.stderr, /health is red: mc0 DIMM_A1: uncorrected error, memory read error/);

    const red = await health();
    assert.equal(red.exitCode, 1);
    assert.match(red.stdout, /^health of node1: red since .*mc0 DIMM_A1.*host-health green/);
    assert.equal(red.report['health'], 'red');
    assert.equal(red.report['told'], null);
    // No cluster runs here.
    assert.match(String(red.report['untold']), /Pacemaker|crm_mon|not run/);
    const status = await host.node.exec(['kvmha', 'status']);
    assert.equal(status.exitCode, 1);
    assert.match(status.stderr, /health of node1: red/);
    const said = entries().slice(-3);
    assert.deepEqual(
      said.map(({ what }) => what),
      ['seen', 'decided', 'done'],
    );
    assert.equal(said[1]?.['health'], 'red');
    assert.equal(said[2]?.['outcome'], 'not-told');

    const green = await host.node.exec(['kvmha', 'host-health', 'green', '--reason', 'DIMM replaced']);
    assert.equal(green.exitCode, 0, green.stderr);
    assert.equal((await health()).exitCode, 0);
    assert.equal((await host.node.exec(['kvmha', 'status'])).exitCode, 0);
  });

  it('is reported by hand, and counted where it was corrected', async () => {
    host.node.write('/etc/kvmha/policy.yaml', 'host: { corrected: { errors: 10, seconds: 3600 } }\n');
    const report = (count: string) =>
      host.node.check([
        ...['kvmha', 'host-error', '--severity', 'corrected', '--component', 'fan 3', '--count', count],
      ]);
    await report('9');
    assert.equal((await health()).report['health'], 'green');
    await report('1');
    const yellow = await health();
    assert.equal(yellow.report['health'], 'yellow');
    assert.equal(yellow.report['why'], 'fan 3: 10 corrected errors within 3600 s');
  });

  it('is only written down where the policy says to observe, and not even that where it is not enabled', async () => {
    host.node.write('/etc/kvmha/policy.yaml', 'watch: { mode: observe }\n');
    await host.node.check(['/etc/ras/kvmha'], { env: UNCORRECTED });
    const { report } = await health();
    assert.equal(report['untold'], 'the policy says watch.mode: observe');
    assert.equal(entries().findLast(({ what }) => what === 'decided')?.['mode'], 'observe');

    await host.node.check(['rm', '/run/kvmha/host.json']);
    host.node.write('/etc/kvmha/policy.yaml', 'host: { enabled: false }\n');
    const before = entries().length;
    const { stdout } = await host.node.exec(['/etc/ras/kvmha'], { env: UNCORRECTED });
    assert.match(stdout, /Not counted, the policy says host.enabled: false/);
    assert.equal(entries().length, before);
    assert.equal((await health()).report['health'], 'green');
  });

  it('is refused where it says nothing', async () => {
    for (const words of [
      ['host-error'],
      ['host-error', '--severity', 'fatal'],
      ['host-error', '--component', 'fan 3'],
      ['host-error', '--severity', 'bad', '--component', 'fan 3'],
      ['host-error', '--severity', 'fatal', '--component', 'fan 3', '--count', '0'],
      ['host-health', 'blue'],
    ]) {
      const { exitCode, stderr } = await host.node.exec(['kvmha', ...words]);
      assert.equal(exitCode, 2, words.join(' '));
      assert.match(stderr, /[a-z]/, words.join(' '));
    }
  });

  it('makes health not forget itself when many tell of it at a time', async () => {
    const one = ['kvmha', 'host-error', '--severity', 'corrected', '--component'];
    const all = Array.from({ length: 8 }, (_, index) => host.node.check([...one, `fan ${index}`]));
    await Promise.all(all);
    const { report } = await health();
    assert.equal((report['totals'] as Record<string, number>)['corrected'], 8);
  });
});

describe('the watcher', () => {
  after(() => watch.stop());

  async function status(what: string, fits: (host: HostStatus) => boolean): Promise<HostStatus> {
    let last: HostStatus | undefined;
    const found = await Deadline.in(PATIENCE).poll(100, async () => {
      last = (await watch.tryStatus())?.host;
      return last !== undefined && fits(last) ? last : undefined;
    });
    assert.ok(found, `${what}: ${JSON.stringify(last)}`);
    return found;
  }

  it('watches without what the node does not have, and says once what that is', async () => {
    await watch.start();
    const { missing } = await status('it has looked', (host) => host.missing.length > 0);
    assert.ok(missing.some((each) => /tracefs is not mounted/.test(each)));
    await watch.stop();
    const log = await host.node.check(['cat', '/var/log/watch.log']);
    assert.equal(log.match(/errors of the host are not heard of from/g)?.length, 1);
  });

  it("hears of the kernel's trace events, thousands of them, and once", async (context) => {
    if (typeof probes === 'string') {
      context.skip(probes);
      return;
    }
    await host.node.check(['mount', '-t', 'tracefs', 'tracefs', '/sys/kernel/tracing']);
    await watch.start();
    await status('it listens', ({ trace }) => trace.includes('memory_failure_event'));
    await probes.raise(0x4321, 1);
    const heard = await status('it has heard', ({ recent }) => recent.length === 2);
    assert.equal(heard.health, 'red');
    const words = heard.recent.map((each) => each.words);
    assert.match(words.join('\n'), /a page was lost.*0x4321000/);
    assert.match(words.join('\n'), /0000:3b:00.0: fatal error/);
    // What it has heard is not counted again.
    const mf = { PFN: '0x4321', PAGE_TYPE: 'dirty LRU page', ACTION_RESULT: 'Recovered' };
    const { stdout } = await host.node.exec(['/etc/ras/kvmha'], { env: mf });
    assert.match(stdout, /hears of memory_failure_event by itself/);

    const before = entries().length;
    for (let i = 0; i < 5; i += 1) {
      await probes.raise(0x10000 * (i + 1), 10_000);
    }
    await status('it has lost some', ({ missed }) => missed > 0);
    await status('it answers', () => true);
    assert.ok(entries().length - before < 300, `${entries().length - before} lines`);
    await watch.stop();
    assert.ok(!existsSync(`${probes.tracefs}/instances/kvmha`), 'its trace instance is left');
  });

  it('takes a lost page for that of the guest of which QEMU tells at the same time', async (context) => {
    if (typeof probes === 'string') {
      context.skip(probes);
      return;
    }
    await watch.start();
    await status('it listens', ({ trace }) => trace.includes('memory_failure_event'));
    const guest = await host.running('web');
    await watch.follows('web');
    // Not needed yet (Intel SDM, volume 3: SRAO), so the guest goes on if it can be told.
    const error = 'mce 0 9 0xbd000000000000cf 0x5 0x1000 0x8c';
    await host.virsh('qemu-monitor-command', '--hmp', 'web', error);
    await probes.raise(0x5555, 1, false);
    const { health: now, recent } = await status('it has heard', ({ recent: all }) => all.length === 1);
    assert.match(String(recent[0]?.words), /0x5555000.* in the memory of web/);
    assert.equal(now, 'yellow');
    await guest.stop();
    await watch.stop();
  });

  it('hears of what was raised while it was dead', async (context) => {
    if (typeof probes === 'string') {
      context.skip(probes);
      return;
    }
    await watch.start();
    await status('it listens', ({ trace }) => trace.includes('memory_failure_event'));
    await watch.kill();
    await probes.raise(0x4444, 1);
    await watch.start();
    await status('it has heard', ({ recent }) => recent.some(({ words }) => words.includes('0x4444000')));
  });
});

describe("the kernel's trace", () => {
  function raised(context: TestContext): Probes | undefined {
    if (typeof probes === 'string') {
      context.skip(probes);
      return undefined;
    }
    return probes;
  }

  function instance(): string {
    return `kvmha-test-${process.pid}`;
  }

  it('tells of every error once', async (context) => {
    const here = raised(context);
    if (here === undefined) {
      return;
    }
    const reader = new TraceReader(here.tracefs, instance());
    try {
      assert.deepEqual(reader.read(), { errors: [], missed: 0 });
      await here.raise(0x1234, 2);
      const { errors } = reader.read();
      const words = (kind: HostError['kind']) =>
        errors.filter((error) => error.kind === kind).map(describeError);
      assert.deepEqual(words('page').sort(), [
        'memory: uncorrected error, a page was lost: page of type 2, Recovered (address 0x1234000)',
        'memory: uncorrected error, a page was lost: page of type 2, Recovered (address 0x1235000)',
      ]);
      assert.deepEqual(words('pci'), Array(2).fill('0000:3b:00.0: fatal error, status 0x4000'));
      assert.deepEqual(reader.read(), { errors: [], missed: 0 });
    } finally {
      reader.close();
    }
    assert.ok(!existsSync(join(here.tracefs, 'instances', instance())), 'the instance is left');
  });

  it('keeps what comes while nobody reads, for the next who does', async (context) => {
    const here = raised(context);
    if (here === undefined) {
      return;
    }
    // One that is never closed, as by a process that is killed.
    const killed = new TraceReader(here.tracefs, instance());
    assert.ok(killed.events.includes('memory_failure_event'));
    await here.raise(0x77, 1);
    const next = new TraceReader(here.tracefs, instance());
    assert.deepEqual(
      next
        .read()
        .errors.map(({ kind }) => kind)
        .sort(),
      ['page', 'pci'],
    );
    next.close();
    killed.close();
  });

  it('is read in bounded pieces in a flood, and tells that events were lost', async (context) => {
    const here = raised(context);
    if (here === undefined) {
      return;
    }
    const reader = new TraceReader(here.tracefs, instance());
    try {
      await here.raise(0x1000, 20_000);
      const pieces = Array.from({ length: 20 }, () => reader.read());
      assert.ok(pieces.every(({ errors }) => errors.length < 10_000));
      assert.ok(pieces.some(({ missed }) => missed > 0));
      assert.deepEqual(reader.read(), { errors: [], missed: 0 });
    } finally {
      reader.close();
    }
  });
});

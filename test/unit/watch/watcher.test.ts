import assert from 'node:assert/strict';
import { mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { Deadline } from '../../../lib/deadline.ts';
import type { JournalEntry } from '../../../lib/journal.ts';
import { DEFAULT_POLICY } from '../../../lib/policy.ts';
import { Watcher } from '../../../lib/watch/watcher.ts';
import type { GuestName, GuestPolicy, News, Recovery, World } from '../../../lib/watch/world.ts';
import {
  eventsOf,
  type Recording,
  ReplayServer,
  recording,
  recordings,
} from '../../support/qmp-recording.ts';

const UUID = '11111111-2222-4333-8444-555555555555';

/** A world that remembers what a watcher wanted of it. */
class FakeWorld implements World {
  readonly entries: JournalEntry[] = [];
  readonly kept: News[] = [];
  readonly failedOver: string[] = [];
  readonly lostMemoryOf: string[] = [];
  readonly problems: string[] = [];
  readonly journal = { record: (entry: JournalEntry) => void this.entries.push(entry) };
  readonly log = {
    debug: () => {},
    info: () => {},
    warn: () => {},
    err: (message: string) => void this.problems.push(message),
  };
  guestPolicy: GuestPolicy = {
    watch: DEFAULT_POLICY.watch,
    state: { operatorPause: 'healthy', outOfSpace: 'hold', guestPanic: 'fence', degraded: 'report' },
  };
  recovery: () => Promise<Recovery> = async () => ({ kind: 'requested', why: 'told' });

  guests(): [] {
    return [];
  }

  async policy(): Promise<GuestPolicy> {
    return this.guestPolicy;
  }

  keep(_: GuestName, news: News): void {
    this.kept.push(news);
  }

  hostLostMemoryOf({ name }: GuestName): void {
    this.lostMemoryOf.push(name);
  }

  failOver({ name }: GuestName, fault: string): Promise<Recovery> {
    this.failedOver.push(`${name}: ${fault}`);
    return this.recovery();
  }

  decisions(): string[] {
    return this.entries.filter(({ what }) => what === 'decided').map((entry) => String(entry['do']));
  }

  seen(event: string): JournalEntry[] {
    return this.entries.filter((entry) => entry.what === 'seen' && entry['event'] === event);
  }
}

let directory: string;
let world: FakeWorld;
let watcher: Watcher;
let servers: AsyncDisposableStack;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'kvmha-watch-'));
  world = new FakeWorld();
  watcher = new Watcher(directory, world);
  servers = new AsyncDisposableStack();
});

afterEach(async () => {
  await watcher.stop();
  await servers.disposeAsync();
  await rm(directory, { recursive: true, force: true });
  assert.deepEqual(world.problems, []);
});

async function qemu(name: string, said: Recording): Promise<ReplayServer> {
  return servers.use(await ReplayServer.listen(join(directory, `${name}.pid`), said, UUID));
}

async function until(what: string, condition: () => boolean): Promise<void> {
  const met = await Deadline.in(10_000).poll(5, () => condition() || undefined);
  assert.ok(met, `${what}: ${JSON.stringify({ status: watcher.status(), entries: world.entries })}`);
}

const state = (name: string) => watcher.status().find((guest) => guest.name === name)?.state;

/** A guest that runs, is followed and has been looked at. */
async function followed(name: string, said: Recording): Promise<ReplayServer> {
  const server = await qemu(name, said);
  server.say({ status: 'running', running: true });
  watcher.start();
  await until(`${name} is followed`, () => state(name) !== undefined);
  return server;
}

describe('Watcher', () => {
  it('follows the guests that are there, those that come, and no other files', async () => {
    const running = recording('suspend-resume');
    await qemu('first', running);
    await writeFile(join(directory, 'notes.txt'), '');
    watcher.start();
    await until('the first is followed', () => state('first') === 'running');
    await qemu('second', running);
    await until('the second is followed', () => state('second') === 'running');
    assert.deepEqual(watcher.status(), [
      { name: 'first', uuid: UUID, by: 'qmp', silent: undefined, state: 'running' },
      { name: 'second', uuid: UUID, by: 'qmp', silent: undefined, state: 'running' },
    ]);
  });

  it('tells of a guest of which QEMU says that the host lost memory of it, and of no other', async () => {
    const other = await followed('db', recording('suspend-resume'));
    const server = await followed('web', recording('memory-action-optional'));
    await other.send();
    await server.send();
    await until('it is told', () => world.lostMemoryOf.length > 0);
    await until('the other is heard', () => world.seen('RESUME').length > 0);
    assert.deepEqual([...new Set(world.lostMemoryOf)], ['web']);
  });

  it('forgets a guest whose qemu is gone, and follows the next of that name', async () => {
    const server = await followed('web', recording('destroyed'));
    await server[Symbol.asyncDispose]();
    await until('it is forgotten', () => watcher.status().length === 0);
    await qemu('web', recording('write-error'));
    await until('it fails over', () => world.failedOver.length === 1);
  });

  it('finds guests in a folder that has taken the place of the one that it watched', async () => {
    await followed('web', recording('suspend-resume'));
    await rename(directory, `${directory}.old`);
    const later = await mkdtemp(join(tmpdir(), 'kvmha-watch-'));
    await rename(later, directory);
    watcher.reread();
    await qemu('db', recording('suspend-resume'));
    await until('the new one is followed', () => state('db') === 'running');
    await rm(`${directory}.old`, { recursive: true });
  });

  for (const version of ['7.2', '10.0']) {
    for (const size of [1 << 20, 7, 1]) {
      it(`does what each recorded happening asks for (QEMU ${version}, ${size} bytes at a time)`, async () => {
        const faults: Readonly<Record<string, string>> = {
          'write-error': 'io-error',
          'watchdog-pause': 'watchdog',
          'emulation-failure': 'internal-error',
          'memory-reset': "memory failure in the guest's memory, not needed yet (QEMU: reset)",
          'memory-action-required': "memory failure in the guest's memory, needed at once (QEMU: inject)",
        };
        const survived = ['passed-error', 'ignored-error', 'memory-action-optional', 'memory-corrected'];
        const held = ['no-space', 'panic', 'crash-kernel'];
        for (const said of recordings().filter(({ qemu }) => qemu === version)) {
          world = new FakeWorld();
          watcher = new Watcher(directory, world);
          const server = await followed(said.name, said);
          server.say(undefined);
          await server.send(undefined, size);
          const events = new Set(eventsOf(said).map((line) => String(JSON.parse(line).event)));
          events.delete('SUSPEND');
          await until(said.name, () => [...events].every((event) => world.seen(event).length > 0));
          await watcher.stop();

          const fault = faults[said.name];
          assert.deepEqual(world.failedOver, fault === undefined ? [] : [`${said.name}: ${fault}`]);
          const last = world.decisions().at(-1);
          if (fault !== undefined) {
            assert.equal(last, 'fail-over');
          } else if (survived.includes(said.name)) {
            assert.equal(last, 'degrade');
            assert.match(JSON.stringify(world.kept), /"survived":".*(I\/O error|memory failure)/);
          } else if (held.includes(said.name)) {
            assert.equal(last, 'hold', said.name);
          } else {
            assert.equal(last, undefined, said.name);
          }
          const isMemoryFault = said.name === 'memory-reset' || said.name === 'memory-action-required';
          assert.deepEqual(
            world.kept.filter((news) => 'fault' in news),
            isMemoryFault ? [{ fault }] : [],
            said.name,
          );
          await server[Symbol.asyncDispose]();
        }
      });
    }
  }

  it('keeps which I/O error has stopped a guest, and that it runs again', async () => {
    const server = await followed('web', recording('no-space'));
    server.say(undefined);
    await server.send();
    await until('it is held', () => world.decisions().includes('hold'));
    await server.send('{"event": "RESUME"}\r\n');
    await server.send(`${eventsOf(recording('write-error')).join('\r\n')}\r\n`);
    await until('all is heard', () => world.seen('STOP').length === 2);
    assert.deepEqual(world.kept, [{ ioError: 'nospace' }, { runs: true }, { ioError: 'failed' }]);
  });

  it('finds a fault that nobody has heard of, when it connects and when it connects again', async () => {
    await qemu('before', recording('write-error'));
    watcher.start();
    await until('the fault is found', () => world.failedOver.includes('before: io-error'));

    const server = await followed('between', recording('emulation-failure'));
    server.say(undefined);
    server.hangUp();
    await until('the fault is found', () => world.failedOver.includes('between: internal-error'));
  });

  it('is not kept from one guest by another that hangs, and comes back to it', async () => {
    const hung = await qemu('hung', recording('write-error'));
    hung.hang(true);
    const server = await followed('web', recording('write-error'));
    server.say(undefined);
    await server.send();
    await until('the other fails over', () => world.failedOver.includes('web: io-error'));
    assert.ok(watcher.status().find(({ name }) => name === 'hung')?.silent);
    hung.hang(false);
    hung.hangUp();
    await until('it is found', () => world.failedOver.includes('hung: io-error'));
  });

  it('survives peers that speak no QMP', async () => {
    const noise = createServer((socket) => socket.on('error', () => {}).end('{"QMP": {}}\r\n[1]\r\nxyz\r\n'));
    servers.defer(() => new Promise<void>((resolve) => noise.close(() => resolve())));
    await new Promise<void>((resolve) => noise.listen(join(directory, 'noise.pid'), resolve));
    await followed('web', recording('suspend-resume'));
    await until('it is said why', () =>
      Boolean(
        watcher
          .status()
          .find(({ name }) => name === 'noise')
          ?.silent?.includes('QMP'),
      ),
    );
  });

  it('writes down no more than the first of many events that say the same', async () => {
    const server = await followed('web', recording('passed-error'));
    const [event = ''] = eventsOf(recording('passed-error'));
    await server.send(`${event}\r\n`.repeat(20_000), 64 * 1024);
    server.say({ status: 'paused', running: false });
    await server.send('{"event": "STOP"}\r\n');
    await until('the last is heard', () => state('web') === 'paused-by-operator');
    assert.equal(world.seen('BLOCK_IO_ERROR').length, 1);
    assert.equal(world.kept.length, 1);
  });

  it('tries once for a fault that stays, and anew for one that comes after the guest has run again', async () => {
    world.recovery = async () => ({ kind: 'not-proved', why: 'no' });
    const server = await followed('web', recording('write-error'));
    server.say(undefined);
    await server.send();
    await until('it is tried', () => world.failedOver.length === 1);
    watcher.lookAtAll();
    await server.send();
    await until('all is heard', () => server.asked.filter((name) => name === 'query-block').length >= 3);
    assert.equal(world.failedOver.length, 1);
    await server.send('{"event": "RESUME"}\r\n{"event": "STOP"}\r\n');
    await until('it is tried again', () => world.failedOver.length === 2);
  });

  it('only writes down what it would do, where the policy says to observe', async () => {
    world.guestPolicy = { ...world.guestPolicy, watch: { ...DEFAULT_POLICY.watch, mode: 'observe' } };
    const server = await followed('web', recording('write-error'));
    await server.send(`${eventsOf(recording('memory-action-required'))[0]}\r\n`);
    await until('it is written down', () => world.decisions().length === 1);
    server.say(undefined);
    await server.send();
    await until('it is written down', () => world.decisions().length === 2);
    await watcher.stop();
    assert.deepEqual(world.decisions(), ['fail-over', 'fail-over']);
    assert.deepEqual([world.kept, world.failedOver], [[], []]);
  });

  it('finishes what it is doing about a guest before it ends', async () => {
    let finish = () => {};
    world.recovery = () =>
      new Promise((resolve) => {
        finish = () => resolve({ kind: 'requested', why: 'told' });
      });
    await qemu('web', recording('write-error'));
    watcher.start();
    await until('it has begun', () => world.failedOver.length === 1);
    let ended = false;
    const end = watcher.stop().then(() => {
      ended = true;
    });
    await new Promise((resolve) => setTimeout(resolve, 50));
    assert.equal(ended, false);
    finish();
    await end;
    assert.deepEqual(world.entries.at(-1)?.['outcome'], 'requested');
  });
});

import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import fc from 'fast-check';
import { Deadline } from '../../../lib/deadline.ts';
import { isKvmhaError } from '../../../lib/error.ts';
import { VirshEvents } from '../../../lib/libvirt/events.ts';
import { parseCommandLine } from '../../../lib/qemu/command-line.ts';
import { type Json, type Monitor, QmpError, type QmpEvent, QmpSocket } from '../../../lib/qemu/qmp.ts';
import { assess } from '../../../lib/quiesce/assess.ts';
import { inspect, requestsMade } from '../../../lib/quiesce/inspection.ts';
import { meaningOf } from '../../../lib/watch/meaning.ts';
import { anyJson, anyText, runs, withoutCrash } from './runs.ts';

const GREETING = '{"QMP": {"version": {}, "capabilities": []}}\r\n';
const PATIENCE = 10_000;

const directory = mkdtempSync(join(tmpdir(), 'kvmha-fuzz-'));
const path = join(directory, 'qmp');
let server: Server;
/** What the peer does with the next client. */
let serve: (client: Socket) => void;

before(() => {
  server = createServer((client) => {
    client.on('error', () => undefined);
    serve(client);
  });
  return new Promise<void>((resolve) => server.listen(path, resolve));
});
after(() => {
  server.close();
  rmSync(directory, { recursive: true, force: true });
});

/** `bytes` in pieces that end where `cuts` say. */
function pieces(bytes: Buffer, cuts: readonly number[]): Buffer[] {
  const ends = [...new Set(cuts.map((cut) => cut % (bytes.length + 1)))].sort((one, other) => one - other);
  return [...ends, bytes.length].map((end, index) => bytes.subarray(index === 0 ? 0 : ends[index - 1], end));
}

const cuts = fc.array(fc.nat(), { maxLength: 4 });
const bytes = fc.oneof(
  fc.uint8Array({ maxLength: 300 }).map((array) => Buffer.from(array)),
  fc
    .array(
      fc.oneof(
        anyJson.map((value) => JSON.stringify(value)),
        anyText,
        fc.constant('\n'),
      ),
      { maxLength: 8 },
    )
    .map((parts) => Buffer.from(parts.join(''))),
);

/** A session of which the peer answers each command with what `answer` gives, in pieces. */
function answering(
  answer: (request: { id: number; execute: string }) => Buffer,
  cut: readonly number[],
): void {
  serve = (client) => {
    client.write(GREETING);
    let waiting = '';
    client.setEncoding('utf8').on('data', (text: string) => {
      waiting += text;
      for (let end = waiting.indexOf('\n'); end >= 0; end = waiting.indexOf('\n')) {
        const request = JSON.parse(waiting.slice(0, end));
        waiting = waiting.slice(end + 1);
        const reply =
          request.execute === 'qmp_capabilities'
            ? Buffer.from(`${JSON.stringify({ return: {}, id: request.id })}\n`)
            : answer(request);
        for (const piece of pieces(reply, cut)) {
          client.write(piece);
        }
      }
    });
  };
}

describe('a QMP peer', () => {
  test('that sends any bytes is greeted or refused, with a reason', async () => {
    await fc.assert(
      fc.asyncProperty(bytes, cuts, fc.boolean(), async (sent, cut, greets) => {
        serve = (client) => {
          client.write(greets ? GREETING : '');
          pieces(sent, cut).forEach((piece) => void client.write(piece));
          client.end();
        };
        const session = await withoutCrash(() =>
          QmpSocket.connect(path, Deadline.in(PATIENCE), () => undefined),
        );
        session?.close();
      }),
      runs(150),
    );
  });

  test('that answers with any JSON gives what it said, or a reason, and events never stand for an answer', async () => {
    await fc.assert(
      fc.asyncProperty(anyJson, anyJson, cuts, fc.nat(3), async (value, other, cut, kind) => {
        fc.pre(other !== 2); // the id of the command
        const events: QmpEvent[] = [];
        const line = (message: object) => `${JSON.stringify(message)}\r\n`;
        answering(({ id }) => {
          const event = line({ event: 'STOP', data: value, timestamp: other, id, return: other });
          const reply = [
            line({ return: value, id }),
            line({ error: value, id }),
            line({ return: value, id: other }),
            line({ id, ...(Object(other) as object), event: 0, QMP: undefined }),
          ][kind];
          return Buffer.from(`${event}${reply}`);
        }, cut);
        const session = await QmpSocket.connect(path, Deadline.in(PATIENCE), (event) => events.push(event));
        try {
          const answer = await session.execute('query-status', {}, Deadline.in(PATIENCE));
          assert.ok(kind === 0 || kind === 3, `taken for an answer: ${JSON.stringify(answer)}`);
          assert.equal(kind === 0 ? JSON.stringify(answer) : '', kind === 0 ? JSON.stringify(value) : '');
        } catch (error) {
          assert.ok(isKvmhaError(error), String(error));
          assert.equal(typeof (error instanceof QmpError ? error.class : ''), 'string');
          assert.notEqual(kind, 0, String(error));
        } finally {
          session.close();
        }
        assert.equal(events.length, 1);
      }),
      runs(120),
    );
  });

  test('that refuses a command in other forms than words has refused it', async () => {
    const unprintable = { toString: 1, valueOf: 1 };
    answering(
      ({ id }) =>
        Buffer.from(`${JSON.stringify({ error: { class: unprintable, desc: unprintable }, id })}\n`),
      [],
    );
    const session = await QmpSocket.connect(path, Deadline.in(PATIENCE));
    await assert.rejects(
      session.execute('stop', {}, Deadline.in(PATIENCE)),
      (error) => error instanceof QmpError && /does not say why/.test(error.message),
    );
    session.close();
  });

  test('that never ends its line is left, and what it sent is not kept', async () => {
    const flood = Buffer.alloc(1024 * 1024, '[');
    let sent = 0;
    serve = (client) => {
      client.write(GREETING);
      const more = () => {
        while (!client.destroyed && sent < 64 * flood.length) {
          sent += flood.length;
          if (!client.write(flood)) {
            client.once('drain', more);
            return;
          }
        }
      };
      more();
    };
    const session = await QmpSocket.connect(path, Deadline.in(30_000));
    await assert.rejects(
      session.execute('query-status', {}, Deadline.in(30_000)),
      (error) => isKvmhaError(error, 'protocol') && /without end/.test(error.message),
    );
    assert.ok(sent < 48 * flood.length, 'it was read on and on');
  });

  test('that nests its answer without measure is refused in words', async () => {
    const deep = '['.repeat(200_000);
    answering(({ id }) => Buffer.from(`{"id":${id},"return":${deep}${']'.repeat(deep.length)}}\n`), []);
    const session = await QmpSocket.connect(path, Deadline.in(30_000));
    await withoutCrash(() => inspect(['qemu'], session, Deadline.in(30_000)));
    session.close();
  });
});

describe('what QEMU says of itself', () => {
  const answers = fc.infiniteStream(anyJson);

  test('can be anything, and is then no guest that can be quiesced', async () => {
    await fc.assert(
      fc.asyncProperty(answers, async (stream) => {
        const monitor: Monitor = {
          execute: async () => stream.next().value as Json,
          close: () => undefined,
        };
        const inspection = await withoutCrash(() =>
          inspect(['qemu', '-name', 'x'], monitor, Deadline.in(PATIENCE)),
        );
        if (inspection !== undefined) {
          assert.equal(assess(inspection, () => undefined).kind, 'refused');
        }
        await withoutCrash(() => requestsMade(monitor, Deadline.in(PATIENCE)));
      }),
      runs(300),
    );
  });

  test('statistics that are no numbers are refused in words', async () => {
    const monitor: Monitor = {
      execute: async () => [{ qdev: 'x', stats: { wr_operations: { toString: 1, valueOf: 1 } } }],
      close: () => undefined,
    };
    await assert.rejects(requestsMade(monitor, Deadline.in(PATIENCE)), (error) =>
      isKvmhaError(error, 'protocol'),
    );
  });

  test('an event of any name and content means something or nothing', () => {
    fc.assert(
      fc.property(
        fc.oneof(
          anyText,
          fc.constantFrom('BLOCK_IO_ERROR', 'MEMORY_FAILURE', 'WATCHDOG', 'GUEST_PANICKED', 'STOP'),
        ),
        anyJson,
        (event, data) => {
          const isObject = typeof data === 'object' && data !== null && !Array.isArray(data);
          const meaning = meaningOf({ event, data: (isObject ? data : {}) as QmpEvent['data'] });
          assert.equal(typeof meaning.kind, 'string');
        },
      ),
      runs(500),
    );
  });

  test('a command line of any words is read or refused, with a reason', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(
          fc.oneof(anyText, fc.constantFrom('-name', '-uuid', '-blockdev', '{}', '-', '--', 'guest=a,,b,c')),
        ),
        (argv) => withoutCrash(() => parseCommandLine(argv)).then(() => undefined),
      ),
      runs(300),
    );
  });
});

describe('what virsh event prints', () => {
  const line = fc.oneof(
    anyText,
    fc
      .tuple(
        fc.constantFrom(
          'lifecycle',
          'io-error-reason',
          'watchdog',
          'memory-failure',
          'constructor',
          '__proto__',
        ),
        anyText,
        fc.oneof(
          anyText,
          fc.constantFrom('constructor x', '__proto__', 'Suspended x', '(a) toString due to enospc'),
        ),
      )
      .map(([kind, name, more]) => `event '${kind}' for domain '${name}': ${more}`),
    fc.constantFrom('recipient: guest', 'recursive: 0', 'action: inject', '__proto__: 1'),
  );

  test('can be anything: what is heard are events with a name', () => {
    fc.assert(
      fc.property(fc.array(line), (lines) => {
        for (const { domain, event } of new VirshEvents().push(`${lines.join('\n')}\n`)) {
          assert.equal(typeof domain, 'string');
          assert.equal(typeof event.event, 'string');
          assert.equal(typeof meaningOf(event).kind, 'string');
          assert.ok(Object.values(event.data).every((value) => typeof value !== 'function'));
        }
      }),
      runs(500),
    );
  });

  test('is not kept when a line does not end', () => {
    const events = new VirshEvents();
    for (let mebibytes = 0; mebibytes < 64; mebibytes++) {
      assert.deepEqual(events.push('x'.repeat(1024 * 1024)), []);
    }
    assert.deepEqual(
      events.push("\nevent 'watchdog' for domain 'web': pause\n").map(({ domain }) => domain),
      ['web'],
    );
  });
});

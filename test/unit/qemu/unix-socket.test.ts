import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { openUnixSocket } from '../../../lib/qemu/unix-socket.ts';

describe('a connection to a UNIX socket', () => {
  let folder: string;
  let path: string;
  let server: Server;
  let serve: (client: Socket) => void;
  before(async () => {
    folder = mkdtempSync(join(tmpdir(), 'kvmha-socket-'));
    path = join(folder, 'socket');
    server = createServer((client) => {
      client.on('error', () => undefined);
      serve(client);
    });
    await new Promise<void>((resolve) => server.listen(path, resolve));
  });
  after(() => {
    server.close();
    rmSync(folder, { recursive: true, force: true });
  });

  /** All that comes until the end, and the end. */
  const heard = (at: string, ...sent: string[]) =>
    new Promise<{ readonly text: string; readonly error: string | undefined }>((resolve) => {
      const received: Uint8Array[] = [];
      const socket = openUnixSocket(at, {
        received: (bytes) => received.push(bytes),
        ended: (error) => resolve({ text: Buffer.concat(received).toString(), error: error?.code }),
      });
      sent.forEach((each) => void socket.write(each));
    });

  test('sends what is written in order, also what was written before it was there', async () => {
    serve = (client) => {
      let text = '';
      client.setEncoding('utf8');
      client.on('data', (more: string) => {
        text += more;
        if (text.endsWith('.')) {
          client.end(text);
        }
      });
    };
    const parts = ['one, ', 'zwölf, ', '🖥 '.repeat(100_000), 'end.'];
    assert.deepEqual(await heard(path, ...parts), { text: parts.join(''), error: undefined });
  });

  test('tells by which error it could not be made', async () => {
    const file = join(folder, 'file');
    writeFileSync(file, '');
    assert.equal((await heard(join(folder, 'absent'))).error, 'ENOENT');
    assert.equal((await heard(join(file, 'below'))).error, 'ENOTDIR');
    assert.equal((await heard(file)).error, 'ECONNREFUSED');
    assert.match((await heard(`/${'long'.repeat(40)}`)).error ?? '', /^(ENAMETOOLONG|EINVAL)$/);
  });

  test('is not heard of again once it is destroyed, and the peer sees its end', async () => {
    const seen = new Promise<void>((resolve) => {
      serve = (client) => {
        client.on('close', resolve);
        client.write('hello');
      };
    });
    let times = 0;
    const socket = openUnixSocket(path, {
      received: () => {
        times += 1;
        socket.destroy();
        socket.destroy();
        socket.write('too late');
      },
      ended: () => assert.fail('told of its own end'),
    });
    await seen;
    assert.equal(times, 1);
  });
});

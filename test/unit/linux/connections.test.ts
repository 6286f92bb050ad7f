import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import { networkInterfaces, tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { Deadline } from '../../../lib/deadline.ts';
import { connectionsTo, hasConnection, type ServerAddress } from '../../../lib/linux/connections.ts';

const found = (server: ServerAddress) => connectionsTo(process.pid, server, Deadline.in(10_000));

async function listening(where: { host?: string; port?: number; path?: string }): Promise<Server> {
  const server = createServer().listen(where);
  await once(server, 'listening');
  return server;
}

async function connected(to: { host?: string; port?: number; path?: string }): Promise<Socket> {
  const socket = connect(to as { path: string });
  await once(socket, 'connect');
  return socket;
}

async function closed(socket: Socket): Promise<void> {
  const end = once(socket, 'close');
  socket.destroy();
  await end;
}

/** Each connection to the server is found, as long as it is open, and no other for it. */
async function tells(
  server: ServerAddress,
  to: { host?: string; port?: number; path?: string },
): Promise<void> {
  assert.deepEqual(await found(server), []);
  const first = await connected(to);
  const [connection = ''] = await found(server);
  assert.ok(hasConnection(process.pid, connection), connection);
  const second = await connected(to);
  const both = await found(server);
  assert.equal(both.length, 2, 'two connections to one server are two');
  await closed(first);
  const left = await found(server);
  assert.deepEqual(
    left,
    both.filter((each) => each !== connection),
  );
  assert.ok(!hasConnection(process.pid, connection), 'one that is closed is not open');
  const third = await connected(to);
  assert.ok(!(await found(server)).includes(connection), 'a new one is another than the one that was closed');
  await Promise.all([second, third].map(closed));
  assert.deepEqual(await found(server), []);
}

describe('the connections of a process to a server are found, each as itself', () => {
  for (const host of ['127.0.0.1', '::1']) {
    const addresses = Object.values(networkInterfaces()).flat();
    const absent = !addresses.some((each) => each?.address === host) && `there is no ${host} here`;
    test(`by TCP to ${host}`, { skip: absent }, async () => {
      const server = await listening({ host, port: 0 });
      const { port } = server.address() as AddressInfo;
      await tells({ transport: 'tcp', host: 'any.name', port }, { host, port });
      server.close();
    });
  }

  test('by a UNIX socket', async () => {
    const directory = mkdtempSync(join(tmpdir(), 'kvmha connections-'));
    const path = join(directory, 's');
    const server = await listening({ path });
    const other = await listening({ path: `${path}2` });
    const elsewhere = await connected({ path: `${path}2` });
    await tells({ transport: 'unix', path }, { path });
    await closed(elsewhere);
    server.close();
    other.close();
    rmSync(directory, { recursive: true });
  });
});

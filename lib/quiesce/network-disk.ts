import type { Deadline } from '../deadline.ts';
import { KvmhaError } from '../error.ts';
import { type Connection, connectionsTo, type ServerAddress, serverName } from '../linux/connections.ts';
import { parseCommandLine } from '../qemu/command-line.ts';
import type { QemuProcess } from '../qemu/qemu-process.ts';
import { isObject } from '../qemu/qmp.ts';
import { readFirstConnections, writeFirstConnections } from '../record/first-connections.ts';
import type { NodeOptions } from './assess.ts';

/**
 * The server of a node of driver nbd, from the options it was opened with (QAPI `BlockdevOptionsNbd`).
 *
 * @returns undefined where it is reached in another way than was examined
 */
export function nbdServer({ server }: NodeOptions): ServerAddress | undefined {
  if (!isObject(server)) {
    return undefined;
  }
  const { type, host, port, path, ...others } = server;
  if (Object.keys(others).length > 0) {
    return undefined;
  }
  if (type === 'inet' && typeof host === 'string' && typeof port === 'string' && /^\d+$/.test(port)) {
    return { transport: 'tcp', host, port: Number(port) };
  }
  return type === 'unix' && typeof path === 'string' ? { transport: 'unix', path } : undefined;
}

/** What QEMU calls a node of driver nbd that was opened with these options (`nbd_refresh_filename` of block/nbd.c). */
export function nbdFilename(options: NodeOptions): string | undefined {
  const server = nbdServer(options);
  const name = typeof options['export'] === 'string' ? `/${options['export']}` : '';
  return server === undefined
    ? undefined
    : server.transport === 'tcp'
      ? `nbd://${serverName(server)}${name}`
      : `nbd+unix://${name}?socket=${server.path}`;
}

/**
 * Remembers the connections that a qemu has to the servers of its guest's disks, before the guest runs.
 *
 * @throws KvmhaError where they cannot be seen, or not be recorded
 */
export async function noteFirstConnections(qemu: QemuProcess, deadline: Deadline): Promise<void> {
  const servers = parseCommandLine(qemu.argv)
    .blockdevs.filter(({ driver }) => driver === 'nbd')
    .flatMap((options) => nbdServer(options) ?? []);
  const { pid, startTime } = qemu;
  const connections = await allConnections(pid, servers, deadline);
  writeFirstConnections(qemu.uuid ?? '', { qemu: { pid, startTime }, connections });
}

/**
 * The connections to the servers of disks, one for each, that have been there since before the guest ran: every write
 * that QEMU has ever sent was then sent by them. Of a connection that was lost QEMU tells nothing. It makes a new one, and
 * a flush on that says nothing of a write that its server has received by the old one and not carried out yet (seen with
 * 7.2 and 10.0: the write reached the image later).
 *
 * @param servers one for each disk, so that a server of two disks is there twice
 * @throws KvmhaError `malformed` where it is not so; as `connectionsTo`
 */
export async function firstConnections(
  qemu: QemuProcess,
  servers: readonly ServerAddress[],
  deadline: Deadline,
): Promise<readonly Connection[]> {
  if (servers.length === 0) {
    return [];
  }
  const first = readFirstConnections(qemu.uuid ?? '', qemu);
  if (first === undefined) {
    throw new KvmhaError(
      'malformed',
      `nothing is recorded of the connection to ${names(servers)} from before the guest ran (kvmha has not started it, ` +
        'or it came by live migration), so that a write that was sent by an earlier one may still be carried out',
    );
  }
  return sameConnections(qemu.pid, servers, first, deadline);
}

/**
 * The connections of process `pid` to the servers, which must be one for each, and among those that were seen before.
 *
 * @throws KvmhaError `malformed` where it is not so; as `connectionsTo`
 */
export async function sameConnections(
  pid: number,
  servers: readonly ServerAddress[],
  before: readonly Connection[],
  deadline: Deadline,
): Promise<readonly Connection[]> {
  const connections = await allConnections(pid, servers, deadline);
  const other = connections.find((connection) => !before.includes(connection));
  if (other !== undefined || connections.length !== servers.length) {
    const now =
      other === undefined ? `${connections.length} of ${servers.length} are there` : `${other} is new`;
    throw new KvmhaError(
      'malformed',
      `the connection to ${names(servers)} was lost since the guest was started (${now}), and a write that was sent by ` +
        'it may still be carried out by the server',
    );
  }
  return connections;
}

async function allConnections(
  pid: number,
  servers: readonly ServerAddress[],
  deadline: Deadline,
): Promise<Connection[]> {
  const found = await Promise.all(servers.map((server) => connectionsTo(pid, server, deadline)));
  return [...new Set(found.flat())];
}

function names(servers: readonly ServerAddress[]): string {
  return [...new Set(servers.map(serverName))].join(', ');
}

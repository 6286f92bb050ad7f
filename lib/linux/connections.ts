import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import type { Deadline } from '../deadline.ts';
import { errnoOf, KvmhaError, messageOf } from '../error.ts';
import { runChecked } from '../run.ts';

/** Where a server listens. */
export type ServerAddress =
  | { readonly transport: 'tcp'; readonly host: string; readonly port: number }
  | { readonly transport: 'unix'; readonly path: string };

/** A connection of a process to a server, in words that no other connection of this host has: its two ends, its inode. */
export type Connection = string;

/**
 * The connections of process `pid` to a server, by its sockets' inodes (/proc/PID/fd). Those by TCP are found in
 * /proc/PID/net/tcp and tcp6 by the server's port, whatever its address, because a name can have many. The kernel
 * tells only by sock_diag(7), which ss(8) asks, to whom a UNIX socket is connected.
 *
 * @throws KvmhaError `file` when that cannot be seen; as `run` where ss(8) is needed
 */
export async function connectionsTo(
  pid: number,
  server: ServerAddress,
  deadline: Deadline,
): Promise<Connection[]> {
  try {
    const inodes = socketsOf(pid);
    return server.transport === 'tcp'
      ? tcpConnections(pid, server.port)
          .filter(({ inode }) => inodes.has(inode))
          .map(words)
      : (await unixConnections(pid, server.path, deadline))
          .filter(({ inode }) => inodes.has(inode))
          .map(words);
  } catch (error) {
    if (error instanceof KvmhaError) {
      throw error;
    }
    throw new KvmhaError('file', `the sockets of process ${pid}: ${messageOf(error)}`, { cause: error });
  }
}

/** Whether process `pid` still has the socket of a connection open. @throws KvmhaError `file` */
export function hasConnection(pid: number, connection: Connection): boolean {
  try {
    return socketsOf(pid).has(inodeOf(connection));
  } catch (error) {
    throw new KvmhaError('file', `the sockets of process ${pid}: ${messageOf(error)}`, { cause: error });
  }
}

/** A server, for people. */
export function serverName(server: ServerAddress): string {
  return server.transport === 'tcp' ? `${server.host}:${server.port}` : server.path;
}

interface Ends {
  readonly inode: string;
  readonly ends: string;
}

function words({ inode, ends }: Ends): Connection {
  return `${ends} (socket ${inode})`;
}

function inodeOf(connection: Connection): string {
  return /\(socket (\d+)\)$/.exec(connection)?.[1] ?? '';
}

/** Inodes of the sockets that a process has open. */
function socketsOf(pid: number): ReadonlySet<string> {
  const inodes = readdirSync(`/proc/${pid}/fd`).flatMap((number) => {
    try {
      return /^socket:\[(\d+)\]$/.exec(readlinkSync(`/proc/${pid}/fd/${number}`))?.[1] ?? [];
    } catch (error) {
      if (errnoOf(error) === 'ENOENT') {
        return []; // closed between the listing and the look
      }
      throw error;
    }
  });
  return new Set(inodes);
}

/** Lines of /proc/PID/net/tcp (proc(5)): number, local and remote address in hexadecimal, state, ..., inode. */
const TCP_LINE = /^\s*\d+: ([0-9A-F]+:[0-9A-F]{4}) ([0-9A-F]+:([0-9A-F]{4})) (?:\S+ +){6}(\d+) /;

function tcpConnections(pid: number, port: number): Ends[] {
  return ['tcp', 'tcp6'].flatMap((family) =>
    readTable(`/proc/${pid}/net/${family}`).flatMap((line) => {
      const [, local = '', remote = '', remotePort = '', inode = ''] = TCP_LINE.exec(line) ?? [];
      return remotePort !== '' && Number.parseInt(remotePort, 16) === port
        ? [{ inode, ends: `${local} to ${remote}` }]
        : [];
    }),
  );
}

function readTable(path: string): string[] {
  try {
    return readFileSync(path, 'utf8').split('\n');
  } catch (error) {
    if (errnoOf(error) === 'ENOENT' && path.endsWith('6')) {
      return []; // a kernel without IPv6
    }
    throw error;
  }
}

/** `u_str ESTAB 0 0 LOCAL-NAME LOCAL-INODE * PEER-INODE`, an end without a name as "*". */
const UNIX_LINE = /^u_str\s+\S+\s+\d+\s+\d+\s+(.*?)\s+(\d+)\s+\*\s+(\d+)\s*$/;

async function unixConnections(pid: number, path: string, deadline: Deadline): Promise<Ends[]> {
  if (readlinkSync(`/proc/${pid}/ns/net`) !== readlinkSync('/proc/self/ns/net')) {
    throw new KvmhaError(
      'file',
      `process ${pid} is in another network namespace, whose UNIX sockets are not seen`,
    );
  }
  const printed = await runChecked('ss', ['--unix', '--numeric', '--no-header'], { deadline });
  const sockets = printed.split('\n').flatMap((line) => {
    const [, name = '', inode = '', peer = ''] = UNIX_LINE.exec(line) ?? [];
    return inode === '' ? [] : [{ name, inode, peer }];
  });
  const servers = new Set(sockets.filter(({ name }) => name === path).map(({ inode }) => inode));
  return sockets
    .filter(({ peer }) => servers.has(peer))
    .map(({ inode, peer }) => ({ inode, ends: `to ${path} (socket ${peer})` }));
}

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { Deadline } from '../../lib/deadline.ts';
import type { LabNode } from '../lab/client.ts';

/** Why no server of ssh can run in a node; false if one can. */
export const noSsh: string | false = ['dropbear', 'dropbearkey', 'ssh', 'ssh-keygen'].some(
  (program) => spawnSync('sh', ['-c', `command -v ${program}`]).status !== 0,
)
  ? 'dropbear (Debian: dropbear-bin) or ssh is not installed'
  : false;

const HOST_KEY = '/etc/kvmha-test-host-key';
const USER_KEY = '/etc/kvmha-test-user-key';
const KNOWN_HOSTS = '/etc/kvmha-test-known-hosts';

/** Runs a server of ssh on a node, with a host key of its own, where root of another node may log in by its key. */
export class SshServer implements AsyncDisposable {
  readonly #node: LabNode;

  private constructor(node: LabNode) {
    this.#node = node;
  }

  static async start(node: LabNode, client: LabNode): Promise<SshServer> {
    const server = new SshServer(node);
    await client.check(['rm', '-f', USER_KEY]);
    await client.check(['ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-f', USER_KEY]);
    const userKey = await client.check(['cat', `${USER_KEY}.pub`]);
    await node.check(['sh', '-c', 'umask 077; mkdir -p /root/.ssh; cat >>/root/.ssh/authorized_keys'], {
      input: userKey,
    });
    await node.check(['rm', '-f', HOST_KEY]);
    const printed = await node.check(['dropbearkey', '-t', 'ed25519', '-f', HOST_KEY]);
    const [hostKey] = /^ssh-ed25519 \S+/m.exec(printed) ?? [];
    assert.ok(hostKey, printed);
    client.write(KNOWN_HOSTS, `${node.name} ${hostKey}\n`);
    client.write(
      '/etc/ssh/ssh_config.d/kvmha-test.conf',
      `Host ${node.name}\n  IdentityFile ${USER_KEY}\n  IdentitiesOnly yes\n  UserKnownHostsFile ${KNOWN_HOSTS}\n`,
    );
    // It goes into the background by itself, and ends with the node.
    await node.check(['dropbear', '-s', '-E', '-r', HOST_KEY, '-p', '22', '-P', '/run/dropbear.pid']);
    const answers = await Deadline.in(30_000).poll(200, async () => {
      const { exitCode } = await client.exec(['ssh', '-o', 'BatchMode=yes', node.name, 'true']);
      return exitCode === 0 ? true : undefined;
    });
    assert.ok(answers, `${node.name} does not answer by ssh`);
    return server;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#node.check(['sh', '-c', 'kill "$(cat /run/dropbear.pid)"']);
  }
}

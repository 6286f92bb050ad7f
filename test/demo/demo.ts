/**
 * Shows the main job in a cluster of three nodes: the storage fails under a guest; it is made failover-safe, proved so
 * and preserved, while the cluster starts it on another node, without fencing. Beside it the same fault under
 * ocf:heartbeat:VirtualDomain. Each claim is checked, and the first that does not hold ends it with exit code 1.
 * Nothing of it is left, however it ends.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { messageOf } from '../../lib/error.ts';
import { Cluster } from '../cluster/support.ts';
import { installedTree } from '../support/agent.ts';
import { FalseClaim, Screen } from './screen.ts';
import { Story } from './story.ts';

let interrupted = false;

const screen = new Screen({
  // What fails because it was interrupted says nothing of the claims.
  write: (text) => interrupted || process.stdout.write(text),
  isTTY: process.stdout.isTTY === true,
  columns: process.stdout.columns,
  environment: process.env,
});

async function main(): Promise<number> {
  // Everything that must be gone at the end lies here, or in the lab, which ends with this process.
  const directory = mkdtempSync(join(tmpdir(), 'kvmha-demo-'));
  process.env['TMPDIR'] = directory;
  process.on('exit', () => rmSync(directory, { recursive: true, force: true }));
  await using left = new AsyncDisposableStack();
  const { promise: interruption, resolve: end } = Promise.withResolvers<number>();
  for (const [signal, code] of SIGNALS) {
    // For good: where nobody listens any more, the library that runs programs ends this one.
    process.on(signal, () => {
      interrupted = true;
      end(code);
    });
  }
  // Nobody reads any more: as if by SIGPIPE.
  process.stdout.on('error', () => {
    interrupted = true;
    end(141);
  });
  const installing = installedTree();
  const shown = show(installing, left);
  const code = await Promise.race([shown, interruption]);
  // What is under way when it is interrupted fails, because its lab goes away; but nothing may be installed later.
  shown.catch(() => {});
  await installing.catch(() => {});
  return code;
}

/** What a shell says of a program that such a signal ended. */
const SIGNALS = [
  ['SIGHUP', 129],
  ['SIGINT', 130],
  ['SIGTERM', 143],
] as const;

async function show(
  installing: ReturnType<typeof installedTree>,
  left: AsyncDisposableStack,
): Promise<number> {
  screen.title('kvmha: a guest whose storage fails on its node runs elsewhere, and no node is fenced');
  screen.step(
    'A lab: three nodes in namespaces of this machine, with Pacemaker, a fence agent, libvirt, QEMU and the installed ' +
      'agents. The machine itself is left alone.',
  );
  const tree = left.use(await installing);
  const cluster = left.use(await Cluster.up({ install: tree.path }));
  try {
    await Story.tell(screen, cluster);
    screen.title('Everything was as it was said to be. The lab is removed.');
    return 0;
  } catch (error) {
    if (!(error instanceof FalseClaim)) {
      throw error;
    }
    screen.title(`This did NOT hold: ${error.message}. The demonstration ends here, and the lab is removed.`);
    return 1;
  }
}

try {
  process.exitCode = await main();
} catch (error) {
  // With its line breaks: what did not come in time is said with all that the cluster has logged.
  process.stderr.write(`demo: ${error instanceof Error ? error.message : messageOf(error)}\n`);
  process.exitCode = 1;
}
process.exit();

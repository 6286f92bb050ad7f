import type { Command } from 'commander';

/** `kvmha watch`: the watcher, in the foreground. */
export function addWatch(program: Command, exit: (code: number) => void): void {
  program
    .command('watch')
    .summary('Watch the guests of this node, and quiesce what a fault hits')
    .description(
      'Watch the guests of this node, quiesce one that a fault has hit and tell the cluster at once. ' +
        'Runs until it is stopped; ocf:kvmha:KvmWatch runs it as a resource',
    )
    .action(async () => {
      const { watchGuests } = await import('../watch/daemon.ts');
      exit(await watchGuests());
    });
}

import type { Command } from 'commander';
import type { ExitCode } from './exit.ts';
import type { MetricsOptions } from './metrics-measured.ts';

/** Adds `kvmha metrics`; `command` makes a command with the options that all have. */
export function addMetrics(
  command: (name: string, summary: string, description: string, seconds: number) => Command,
  exit: (code: ExitCode) => void,
): void {
  command(
    'metrics',
    'Tell Prometheus of the guests of this node',
    "Prints the states, faults and preserved guests of this node, its watcher and its journal in Prometheus' text " +
      'format, for the textfile collector of the node exporter. To be run every minute or so, as by cron: ' +
      'kvmha metrics --output /var/lib/prometheus/node-exporter/kvmha.prom',
    30,
  )
    .option('-o, --output <file>', 'into a file, which is replaced as a whole')
    .addHelpText('after', '\nExit codes: 0 done; 1 not done, and a file is left as it was; 2 wrong usage.')
    .action(async (options: MetricsOptions) => {
      exit(await (await import('./metrics-measured.ts')).metrics(options));
    });
}

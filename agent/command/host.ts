import { type Command, InvalidArgumentError, Option } from 'commander';

/** Seconds for the record's lock, and for the cluster. */
const PATIENCE = 20;

const SEVERITIES = ['corrected', 'uncorrected', 'fatal'] as const;
const COLOURS = ['green', 'yellow', 'red'] as const;

/** Options of `kvmha host-error`. */
export interface HostErrorOptions {
  readonly severity?: (typeof SEVERITIES)[number];
  readonly component?: string;
  readonly message?: string;
  readonly count: number;
}

/** `kvmha host-health` and `kvmha host-error`: errors of this node's hardware. */
export function addHost(program: Command, exit: (code: number) => void): void {
  program
    .command('host-health')
    .summary("Show or set this node's health")
    .description(
      "Shows this node's health, the node attribute #health-kvmha, and the errors of its hardware that it follows " +
        'from; with COLOUR, sets it. Green ends what errors have led to, and begins to count them anew: what the ' +
        'cluster has moved away may return. It is told to the cluster also in maintenance and with watch.mode: observe.',
    )
    .argument('[colour]', COLOURS.join(', '), readColour)
    .option('--reason <text>', 'why, for the record and for the cluster', 'set by hand')
    .option('--json', 'as JSON')
    .addHelpText(
      'after',
      '\nExit codes: 0 it is green, or was set; 1 it is not green, or the cluster was not told; 2 wrong usage.',
    )
    .action(async (colour: (typeof COLOURS)[number] | undefined, options) => {
      const { hostHealth } = await import('./host-health.ts');
      exit(await hostHealth(colour, options, PATIENCE));
    });
  program
    .command('host-error')
    .summary("Report an error of this node's hardware")
    .description(
      "Reports an error of this node's hardware, which the policy (section host) judges: a trigger of rasdaemon's, " +
        'whose environment variables say all, or any other program that knows of errors, with the options. What ' +
        'the watcher of this node hears of by itself is not counted again.',
    )
    .addOption(new Option('--severity <severity>', 'how bad it is').choices(SEVERITIES))
    .option('--component <name>', 'what is broken: corrected errors are counted for each component')
    .option('--message <text>', 'what is wrong with it')
    .option('--count <number>', 'how many such errors', readCount, 1)
    .addHelpText('after', '\nExit codes: 0 it was judged; 1 it could not be; 2 wrong usage.')
    .action(async (options: HostErrorOptions) => {
      const { hostError } = await import('./host-error.ts');
      exit(await hostError(options, PATIENCE));
    });
}

function readColour(text: string): (typeof COLOURS)[number] {
  const colour = COLOURS.find((each) => each === text);
  if (colour === undefined) {
    throw new InvalidArgumentError(`It is ${COLOURS.join(', ')}.`);
  }
  return colour;
}

function readCount(text: string): number {
  const count = Number(text);
  if (!Number.isInteger(count) || count < 1 || count > 1_000_000) {
    throw new InvalidArgumentError('It is a whole number from 1 to 1000000.');
  }
  return count;
}

import type { Command } from 'commander';
import { DEFAULT_POLICY_PATH } from '../../lib/parameters.ts';
import type { ExitCode } from './exit.ts';
import type { ExplainOptions, JsonOption } from './policy-explained.ts';

/** Adds `kvmha policy` with its commands. */
export function addPolicy(program: Command, exit: (code: ExitCode) => void): void {
  const policy = program
    .command('policy')
    .summary('Check a policy file, or explain what follows from it')
    .description('Check a policy file, or explain what follows from it.');
  policy
    .command('check')
    .summary('Read a policy file, and show what applies')
    .description(
      'Reads a policy file as the agent does, and shows every value that applies and which are not the default.',
    )
    .argument('[file]', 'the policy file', DEFAULT_POLICY_PATH)
    .option('--json', 'as JSON')
    .addHelpText(
      'after',
      '\nExit codes: 0 the file has no errors; 1 it has, or cannot be read; 2 wrong usage.',
    )
    .action(async (file: string, options: JsonOption) => {
      const { checkPolicy } = await import('./policy-explained.ts');
      exit(await checkPolicy(file, options));
    });
  policy
    .command('explain')
    .summary('Tell what an event, a state of a guest, or an error of the host is answered with')
    .description(
      'Tells what is done about EVENT, and which settings decide it. EVENT is an event of QMP, with its data as ' +
        'FIELD=VALUE (flags.action-required=true for what is in flags) or as the JSON that QEMU sends; or a state of ' +
        'a guest as "kvmha status" shows it; or host-error, with kind= (memory, page, pci, processor, storm, other), ' +
        'severity= (informational, corrected, uncorrected, fatal), count=, component= and guest=, for an error of ' +
        'the hardware of a node that had none before.',
    )
    .argument('<event>', 'BLOCK_IO_ERROR, MEMORY_FAILURE, ...; or faulted, out-of-space, ...; or host-error')
    .argument('[field...]', 'the data of the event, or of the error')
    .option('--policy <file>', 'the policy file', DEFAULT_POLICY_PATH)
    .option('--operator-pause <choice>', 'the resource parameter', 'healthy')
    .option('--guest-panic <choice>', 'the resource parameter', 'fence')
    .option('--json', 'as JSON')
    .addHelpText(
      'after',
      '\nExit codes: 0 done; 1 the policy file has errors, or cannot be read; 2 wrong usage.',
    )
    .action(async (event: string, fields: string[], options: ExplainOptions) => {
      const { explainPolicy } = await import('./policy-explained.ts');
      exit(await explainPolicy(event, fields, options));
    });
}

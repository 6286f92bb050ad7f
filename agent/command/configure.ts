import { type Command, Option } from 'commander';
import type { ConfigureOptions } from './configure-report.ts';
import type { ExitCode } from './exit.ts';
import { readSeconds } from './seconds.ts';

/** Adds `kvmha configure`. */
export function addConfigure(program: Command, exit: (code: ExitCode) => void): void {
  program
    .command('configure')
    .summary('Give guests the recommended configuration in the cluster')
    .description(
      'Give guests the recommended configuration in the cluster. GUEST is the XML file of a domain, for which a resource is made, or a resource of ocf:heartbeat:VirtualDomain or ' +
        'ocf:kvmha:KvmGuest, which becomes the recommended one. Shows the commands; with --apply, lets crm_verify and ' +
        'crm_simulate judge a copy of the configuration, shows what the cluster would do, and then changes it. A guest ' +
        'that changes its agent keeps running. Nothing is changed where a guest would be stopped, moved or started twice.',
    )
    .option('-t, --timeout <seconds>', 'give up after this time', readSeconds, 180)
    .argument('[guest...]', 'XML files (with a slash), or resources')
    .option('--all', 'every resource of VirtualDomain and KvmGuest')
    .option('-r, --resource <id>', 'the name of the resource that is made [default: the name of the domain]')
    .addOption(
      new Option('--as <tool>', 'the commands to show: of crmsh, of pcs, or of Pacemaker itself').choices([
        'crm',
        'pcs',
        'cib',
        'fragment',
      ]),
    )
    .option('--apply', 'change the configuration of the cluster')
    .option('--json', 'as JSON: the plans, and with --apply what was done')
    .addHelpText(
      'after',
      '\nExit codes: 0 shown, applied, or nothing was to be done; 1 refused, or not applied; 2 wrong usage.',
    )
    .action(async (guests: string[], options: ConfigureOptions) => {
      exit(await (await import('./configure-report.ts')).configure(guests, options));
    });
}

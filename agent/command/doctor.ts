import type { Command } from 'commander';
import type { DoctorOptions } from './doctor-report.ts';
import { EXIT, type ExitCode } from './exit.ts';

/** Adds `kvmha doctor`; `command` makes a command with the options that all have. */
export function addDoctor(
  command: (name: string, summary: string, description: string, seconds: number) => Command,
  exit: (code: ExitCode) => void,
): void {
  command(
    'doctor',
    'Find what would make a failover fail, or unsafe',
    'Looks at this node, its libvirt, the configuration of the cluster and every guest of it, or one guest, and names ' +
      'each thing that is wrong with its reason and what to do. What cannot be asked is named, too. Changes nothing. ' +
      'To be run on every node: what another one looks like is asked only as far as a migration reaches its libvirt.',
    60,
  )
    .argument('[guest]', 'only this one')
    .option('--json', 'as JSON')
    .addHelpText(
      'after',
      `\nExit codes: ${EXIT.DONE} nothing but notes; ${EXIT.FAILED} warnings; ${EXIT.ERRORS} errors, or it could not be done; ${EXIT.USAGE} wrong usage.`,
    )
    .action(async (guest: string | undefined, options: DoctorOptions) => {
      exit(await (await import('./doctor-report.ts')).doctor(guest, options));
    });
}

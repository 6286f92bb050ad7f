import { Argument, Command, CommanderError, InvalidArgumentError } from 'commander';
import { isKvmhaError, messageOf } from '../../lib/error.ts';
import { version } from '../built-in.ts';
import { print, printError } from '../output.ts';
import { addConfigure } from './configure.ts';
import { addDoctor } from './doctor.ts';
import { EXIT, UsageError } from './exit.ts';
import { addHost } from './host.ts';
import { addMetrics } from './metrics.ts';
import { addPolicy } from './policy.ts';
import { readSeconds } from './seconds.ts';
import { addTimeline } from './timeline.ts';
import { addWatch } from './watch.ts';

/** Options that every command has. */
export interface CommonOptions {
  readonly connect: string;
  /** Seconds. */
  readonly timeout: number;
}

/** Seconds between two looks of `status --watch`. */
const DEFAULT_INTERVAL = 5;

const EXIT_CODES = `
Exit codes: 0 done, or all is well; 1 not done, or something needs attention; 2 wrong usage.`;

/** The operator's command line, and the exit code of what it has done. What a command does is loaded when it is called. */
export function createProgram(): { readonly program: Command; readonly exitCode: () => number } {
  let code: number = EXIT.DONE;
  const program = new Command('kvmha')
    .description(
      'Failover-safe KVM guests for Pacemaker clusters: looks at the guests of this node, and deals with those that ' +
        'are preserved for a post-mortem. GUEST is a name, a uuid, or the name of the cluster resource.',
    )
    .version(version())
    .configureOutput({ writeOut: print, writeErr: printError })
    .addHelpText('after', EXIT_CODES)
    .exitOverride();

  function command(name: string, summary: string, description: string, seconds: number): Command {
    return program
      .command(name)
      .summary(summary)
      .description(`${summary}. ${description}`)
      .option('-c, --connect <uri>', 'connection to the local hypervisor', 'qemu:///system')
      .option('-t, --timeout <seconds>', 'give up after this time', readSeconds, seconds);
  }

  command(
    'status',
    'Show the guests and nodes of the cluster',
    'Lists every guest of the cluster, with its node, and every copy that is preserved on some node, then the ' +
      'nodes with their watcher and health. This node is looked at: every guest that kvmha has records of or QEMU ' +
      'runs for, and every domain that libvirt knows. Of the others is told what Pacemaker knows; a question mark ' +
      'stands for what only they know. Works without libvirt, and without a cluster, then for this node alone.',
    30,
  )
    .argument('[guest]', 'only this one')
    .option('--json', 'as JSON')
    .option(
      '-w, --watch [seconds]',
      'look again and again, until Ctrl-C, with so many seconds in between [default: 5]',
      readInterval,
    )
    .addHelpText(
      'after',
      `\nExit codes: 0 all is well; 1 something needs attention, or nothing is known of GUEST; 2 wrong usage.\n` +
        'With --watch it is that of the last look.',
    )
    .action(async (guest: string | undefined, { watch, ...options }) => {
      const interval = watch === true ? DEFAULT_INTERVAL : watch;
      code = await (await import('./status.ts')).status(guest, { ...options, watch: interval });
    });

  command(
    'proof',
    'Show the proof that a guest is failover-safe, item by item',
    'For a guest whose quiescing was begun: what of the proof holds now, and what was seen. For any other: whether ' +
      'it could be quiesced, and what would be refused. Changes nothing.',
    30,
  )
    .argument('<guest>')
    .option('--json', 'as JSON')
    .addHelpText(
      'after',
      `\nExit codes: 0 the proof is complete, or would be possible; 1 it is not; 2 wrong usage.`,
    )
    .action(async (guest: string, options) => {
      code = await (await import('./proof.ts')).proof(guest, options);
    });

  command(
    'quiesce',
    'Make a guest failover-safe by hand',
    'Stops the guest, takes its images out of QEMU, and proves it, as the agent does after a fault of the host. A ' +
      'guest that was running is stopped, too: it goes on only by a boot, here after "kvmha release", or elsewhere. ' +
      'If it cannot be proved, what was done is undone as far as possible. The cluster, if one manages the guest, ' +
      'is told to keep it away from this node, and starts it on another one at its next monitor.',
    60,
  )
    .argument('<guest>')
    .option('-r, --resource <id>', 'the cluster resource that the guest is, where kvmha does not know it')
    .option('--reason <text>', 'why, for the record and for the cluster', 'quiesced by hand')
    .addHelpText('after', `\nExit codes: 0 it is quiesced-failover-safe; 1 it is not; 2 wrong usage.`)
    .action(async (guest: string, options) => {
      code = await (await import('./quiesce.ts')).quiesce(guest, options);
    });

  command(
    'resume',
    'Let a preserved guest go on where it stopped',
    'After a false alarm: opens its images again, moves its disks back, and resumes it. It is refused unless every ' +
      'image is provably as this QEMU left it, and the cluster runs the guest on no other node, has not since, and is ' +
      'kept from starting it (the resource must be unmanaged, or the cluster in maintenance). Images on block devices ' +
      'and on the network do not tell whether another host has written to them. If a step fails, the guest is made ' +
      'preserved again. Then removes the mark that keeps the guest away from this node, and cleans up the resource.',
    60,
  )
    .argument('<guest>')
    .option('-r, --resource <id>', 'the cluster resource that the guest is, where kvmha does not know it')
    .option(
      '--not-elsewhere',
      'where no cluster can be asked: no other host runs this guest, or has run it since it was quiesced',
    )
    .option('--json', 'as JSON')
    .addHelpText(
      'after',
      `\nExit codes: 0 it runs; 1 it does not, or the cluster could not be told; 2 wrong usage.`,
    )
    .action(async (guest: string, options) => {
      code = await (await import('./resume.ts')).resume(guest, options);
    });

  command(
    'release',
    'End a preserved guest',
    'Ends the QEMU of a guest that is quiesced-failover-safe, or whose quiescing was begun, and verifies its end. ' +
      'Its images, which another node may use, are left as they are. Then removes the records and the mark that ' +
      'keeps the guest away from this node, and cleans up the resource in the cluster. A guest that runs is refused.',
    60,
  )
    .argument('<guest>')
    .option('-r, --resource <id>', 'the cluster resource that the guest is, where kvmha does not know it')
    .option('-f, --force', 'also where libvirt cannot be kept from changing the owner of the images')
    .option(
      '--without-postmortem',
      'also while a post-mortem is being collected, or one that was promised is missing',
    )
    .addHelpText(
      'after',
      `\nExit codes: 0 it is released; 1 it is not, or not known to the cluster as such; 2 wrong usage.`,
    )
    .action(async (guest: string, options) => {
      code = await (await import('./release.ts')).release(guest, options);
    });

  command(
    'postmortem',
    'Collect what can be known of a guest that stands still',
    'Writes its memory, the state of its QEMU and its libvirt domain, logs, its events, its record and its proof into ' +
      'a new folder that root alone can read. manifest.json, written last, lists the files with their SHA-256, as ' +
      'SHA256SUMS does for sha256sum(1). Whether the memory fits is looked at first. Afterwards, older post-mortems are ' +
      'removed as dump.keep of the policy says.',
    24 * 3600,
  )
    .argument('<guest>')
    .option(
      '-o, --output <directory>',
      'the folder to be made [default: one below the dump.directory of the policy]',
    )
    .option(
      '--memory',
      'dump the memory also after a memory error of the host, without the pages that cannot be read',
    )
    .option('--no-memory', 'do not dump the memory')
    .option('--format <format>', 'elf or kdump-zlib [default: dump.format of the policy]', readFormat)
    .option(
      '--tar',
      'pack the folder into one file beside it, of its name and .tar (needs twice the space meanwhile)',
    )
    .option('--policy <file>', 'the policy file')
    .option('--then-release', 'release the guest if everything was collected')
    .addHelpText('after', `\nExit codes: 0 everything was collected; 1 something is missing; 2 wrong usage.`)
    .action(async (guest: string, options) => {
      code = await (await import('./postmortem.ts')).postmortem(guest, options);
    });

  const exit = (result: number) => {
    code = result;
  };
  addConfigure(program, exit);
  addDoctor(command, exit);
  addMetrics(command, exit);
  addHost(program, exit);
  addPolicy(program, exit);
  addTimeline(program, exit);
  addWatch(program, exit);

  program
    .command('completion')
    .summary('Print the completion for a shell')
    .description(
      'Prints what bash needs to complete commands, options and the names of guests. For this shell: ' +
        `source <(kvmha completion bash). For everybody's: write it to /etc/bash_completion.d/kvmha`,
    )
    .addArgument(
      new Argument('<shell>', 'bash; or guests, for their names alone').choices(['bash', 'guests']),
    )
    .addHelpText('after', `\nExit codes: 0 it is printed; 1 the guests are not known; 2 wrong usage.`)
    .action(async (shell: string) => {
      const completion = await import('./completion.ts');
      code = shell === 'guests' ? await completion.printGuestNames() : completion.printCompletion(program);
    });

  return { program, exitCode: () => code };
}

/**
 * Runs the operator's command line.
 *
 * @returns the exit code
 */
export async function runCommand(args: readonly string[]): Promise<number> {
  const { program, exitCode } = createProgram();
  try {
    if (args.length === 0) {
      printError(`${program.helpInformation()}${EXIT_CODES}\n`);
      return EXIT.USAGE;
    }
    await program.parseAsync(args, { from: 'user' });
    return exitCode();
  } catch (error) {
    if (error instanceof CommanderError) {
      return error.exitCode === 0 ? EXIT.DONE : EXIT.USAGE;
    }
    if (error instanceof UsageError || isKvmhaError(error)) {
      printError(`kvmha: ${messageOf(error)}\n`);
      return error instanceof UsageError ? EXIT.USAGE : EXIT.FAILED;
    }
    throw error;
  }
}

function readInterval(text: string): number {
  const seconds = Number(text);
  if (!(seconds >= 1 && seconds <= 86_400)) {
    throw new InvalidArgumentError(
      'It is a number of seconds, at least 1; a guest stands before this option.',
    );
  }
  return seconds;
}

function readFormat(text: string): string {
  if (text !== 'elf' && text !== 'kdump-zlib') {
    throw new InvalidArgumentError('It is elf or kdump-zlib.');
  }
  return text;
}

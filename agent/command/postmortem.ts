import { rmSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { KvmhaError, messageOf } from '../../lib/error.ts';
import { collectPostmortem, type Manifest, partialDump } from '../../lib/guest/postmortem.ts';
import { Journal } from '../../lib/journal.ts';
import { readStat } from '../../lib/linux/process.ts';
import { DEFAULT_POLICY_PATH } from '../../lib/parameters.ts';
import { loadPolicy } from '../../lib/policy.ts';
import { jobState, type PostmortemJob, readJob, writeJob } from '../../lib/record/postmortem-job.ts';
import { print, printError } from '../output.ts';
import { chooseGuest, deadlineOf, withLook } from './chosen.ts';
import { ConsoleLog, plain } from './console.ts';
import { EXIT, type ExitCode } from './exit.ts';
import type { CommonOptions } from './main.ts';
import { endPreserved } from './release.ts';
import { size } from './table.ts';

export interface PostmortemOptions extends CommonOptions {
  readonly output?: string;
  /** Undefined unless --memory or --no-memory was given. */
  readonly memory?: boolean;
  readonly format?: 'elf' | 'kdump-zlib';
  readonly policy?: string;
  readonly thenRelease?: true;
}

/** Milliseconds for the release after a post-mortem. */
const RELEASE = 60_000;

export async function postmortem(word: string, options: PostmortemOptions): Promise<ExitCode> {
  const deadline = deadlineOf(options);
  const { guest } = await chooseGuest(word, options, deadline.within(60_000));
  const { name } = guest;
  const policy = await loadPolicy(options.policy ?? DEFAULT_POLICY_PATH);
  const begun = new Date();
  const journal = new Journal('command', new ConsoleLog());
  const directory =
    options.output === undefined ? folderFor(name, begun, policy.dump.directory) : resolve(options.output);
  const manifest = await withLook(guest, deadline.within(60_000), async (seen) => {
    const { qemu, uuid } = seen;
    const { monitor } = seen.observation;
    if (qemu === undefined || uuid === undefined) {
      throw new KvmhaError(
        'no-domain',
        `${name} has no qemu on this node, so there is nothing to be collected`,
      );
    }
    if (monitor.kind === 'status' && monitor.running) {
      throw new KvmhaError(
        'program-failed',
        `${name} is running, and would stand still while its memory is written: use "virsh dump --live", or ` +
          `"kvmha quiesce ${name}" first`,
      );
    }
    const earlier = readJob(uuid);
    if (earlier !== undefined && jobState(earlier) === 'running') {
      throw new KvmhaError(
        'locked',
        `a post-mortem of ${name} is being collected in ${earlier.directory} by process ${earlier.process.pid}`,
      );
    }
    const job: PostmortemJob = {
      process: { pid: process.pid, startTime: readStat(process.pid)?.startTime ?? 0 },
      begun: begun.toISOString(),
      directory,
      thenRelease: options.thenRelease === true,
    };
    const end = (failure: string | undefined) => {
      const at = new Date().toISOString();
      writeJob(uuid, { ...job, end: failure === undefined ? { at } : { at, failure } });
      const { resource } = guest;
      journal.record({ what: 'done', guest: name, uuid, resource, action: 'postmortem', directory, failure });
    };
    writeJob(uuid, job);
    const ignore = abandonOnSignal(directory, end);
    print(`collecting a post-mortem of ${plain(name)} in ${directory}\n`);
    try {
      const collected = await collectPostmortem(
        guest,
        { ...seen, qemu },
        {
          directory,
          format: options.format ?? policy.dump.format,
          withoutMemory: whyWithoutMemory(options.memory, seen.record?.fault),
          onProgress: (done, total) => printError(`memory: ${size(done)} of ${size(total)}\n`),
        },
        deadline,
      );
      end(
        collected.complete
          ? undefined
          : collected.missing.map(({ name, why }) => `${name}: ${why}`).join('; '),
      );
      return collected;
    } catch (error) {
      end(messageOf(error));
      throw error;
    } finally {
      ignore();
      await journal.settled();
    }
  });
  print(renderManifest(directory, manifest));
  if (!manifest.complete) {
    if (options.thenRelease) {
      printError(`kvmha: ${plain(name)} is not released, because its post-mortem is not complete.\n`);
    }
    return EXIT.FAILED;
  }
  if (options.thenRelease) {
    // The failure stays in the cluster's books: nobody has looked yet at why this node failed.
    const how = { force: false, cleanUp: false, ownJob: true };
    const ended = await endPreserved(guest, how, deadline.within(RELEASE));
    (ended.done ? print : printError)(ended.lines.map((line) => `${plain(line)}.\n`).join(''));
    return ended.done ? EXIT.DONE : EXIT.FAILED;
  }
  return EXIT.DONE;
}

/** A folder of its own for each post-mortem, of a name that sorts by time and has no characters of its own. */
export function folderFor(name: string, moment: Date, parent: string): string {
  const time = moment
    .toISOString()
    .replace(/\.\d+Z$/, 'Z')
    .replaceAll(':', '-');
  return join(parent, `${encodeURIComponent(name)}-${time}`);
}

/** After a memory error of the host, to read the bad page is to end qemu. */
export function whyWithoutMemory(wanted: boolean | undefined, fault: string | undefined): string | undefined {
  if (wanted === false) {
    return 'it was not to be dumped (--no-memory)';
  }
  return wanted === undefined && /memory/i.test(fault ?? '')
    ? `the guest was hit by ${fault}, and reading the bad page would end its qemu; --memory dumps it all the same`
    : undefined;
}

/** Ctrl-C leaves nothing that looks like a dump. libvirt goes on writing into it, to no effect, until it is done. */
function abandonOnSignal(directory: string, end: (failure: string) => void): () => void {
  const abandon = (signal: NodeJS.Signals) => {
    rmSync(partialDump(directory), { force: true });
    end(`it was interrupted by ${signal}`);
    printError(`kvmha: interrupted; what was collected is in ${directory}, without a manifest.\n`);
    process.exit(EXIT.FAILED);
  };
  const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
  for (const signal of signals) {
    process.once(signal, abandon);
  }
  return () => {
    for (const signal of signals) {
      process.off(signal, abandon);
    }
  };
}

/** What was collected, for a terminal. */
export function renderManifest(directory: string, { files, missing, complete }: Manifest): string {
  const lines = [
    ...files.map(({ name, bytes }) => `  ${name}  ${size(bytes)}`),
    ...missing.map(({ name, why }) => `  missing: ${plain(`${name}: ${why}`)}`),
    complete
      ? `The post-mortem in ${directory} is complete; manifest.json lists its files.`
      : `The post-mortem in ${directory} is NOT complete.`,
  ];
  return `${lines.join('\n')}\n`;
}

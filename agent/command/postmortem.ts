import { existsSync, rmSync } from 'node:fs';
import { resolve } from 'node:path';
import { isatty } from 'node:tty';
import { Deadline } from '../../lib/deadline.ts';
import { isKvmhaError, KvmhaError, messageOf } from '../../lib/error.ts';
import type { Guest } from '../../lib/guest/guest.ts';
import type { Look } from '../../lib/guest/look.ts';
import { lackOfSpace, memorySize, partialDump } from '../../lib/guest/memory-dump.ts';
import { collectPostmortem, type Manifest } from '../../lib/guest/postmortem.ts';
import { archive, archiveOf, partialArchive } from '../../lib/guest/postmortem-archive.ts';
import { folderFor, removeSurplus } from '../../lib/guest/postmortem-retention.ts';
import { Journal } from '../../lib/journal.ts';
import { readStat } from '../../lib/linux/process.ts';
import { DEFAULT_POLICY_PATH } from '../../lib/parameters.ts';
import { loadPolicy, type Policy } from '../../lib/policy.ts';
import { lockFile } from '../../lib/record/lock.ts';
import { jobLock, jobState, type PostmortemJob, readJob, writeJob } from '../../lib/record/postmortem-job.ts';
import { print, printError } from '../output.ts';
import { chooseGuest, deadlineOf, withLook } from './chosen.ts';
import { ConsoleLog, plain } from './console.ts';
import { EXIT, type ExitCode } from './exit.ts';
import type { CommonOptions } from './main.ts';
import { Progress } from './progress.ts';
import { endPreserved } from './release.ts';
import { size } from './table.ts';

export interface PostmortemOptions extends CommonOptions {
  readonly output?: string;
  /** Undefined unless --memory or --no-memory was given. */
  readonly memory?: boolean;
  readonly format?: 'elf' | 'kdump-zlib';
  readonly tar?: true;
  readonly policy?: string;
  readonly thenRelease?: true;
}

/** Milliseconds for the release after a post-mortem. */
const RELEASE = 60_000;

export async function postmortem(word: string, options: PostmortemOptions): Promise<ExitCode> {
  const deadline = deadlineOf(options);
  const { guest } = await chooseGuest(word, options, deadline.within(60_000));
  const policy = await loadPolicy(options.policy ?? DEFAULT_POLICY_PATH);
  const begun = new Date();
  const directory =
    options.output === undefined
      ? folderFor(guest.name, begun, policy.dump.directory)
      : resolve(options.output.replace(/\.tar$/, ''));
  const journal = new Journal('command', new ConsoleLog());
  try {
    const { manifest, path } = await collect(
      guest,
      begun,
      directory,
      { ...options, policy },
      journal,
      deadline,
    );
    print(renderManifest(path, manifest));
    if (!manifest.complete) {
      if (options.thenRelease) {
        printError(`kvmha: ${plain(guest.name)} is not released, because its post-mortem is not complete.\n`);
      }
      return EXIT.FAILED;
    }
    tidy(guest, policy.dump, journal);
  } finally {
    await journal.settled();
  }
  if (options.thenRelease) {
    // The failure stays in the cluster's books: nobody has looked yet at why this node failed.
    const how = { force: false, cleanUp: false, postmortem: 'own' } as const;
    const ended = await endPreserved(guest, how, deadline.within(RELEASE));
    (ended.done ? print : printError)(ended.lines.map((line) => `${plain(line)}.\n`).join(''));
    return ended.done ? EXIT.DONE : EXIT.FAILED;
  }
  return EXIT.DONE;
}

/** Collects it, and records that it is being done and how it ended. */
async function collect(
  guest: Guest,
  begun: Date,
  directory: string,
  options: Omit<PostmortemOptions, 'policy'> & { readonly policy: Policy },
  journal: Journal,
  deadline: Deadline,
): Promise<{ readonly manifest: Manifest; readonly path: string }> {
  const { name, resource } = guest;
  return withLook(guest, deadline.within(60_000), async (seen) => {
    const { qemu, uuid } = seen;
    const { monitor, libvirt } = seen.observation;
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
    const job = await takeJob(name, uuid, {
      process: { pid: process.pid, startTime: readStat(process.pid)?.startTime ?? 0 },
      begun: begun.toISOString(),
      directory,
      thenRelease: options.thenRelease === true,
    });
    const end = (path: string, failure: string | undefined) => {
      const at = new Date().toISOString();
      writeJob(uuid, { ...job, directory: path, end: failure === undefined ? { at } : { at, failure } });
      journal.record({
        what: 'done',
        guest: name,
        uuid,
        resource,
        action: 'postmortem',
        directory: path,
        failure,
      });
    };
    const progress = new Progress(isatty(2));
    const ignore = abandonOnSignal(directory, (failure) => {
      progress.end();
      end(directory, failure);
    });
    try {
      const failure = memoryFailure(seen);
      const withoutMemory = whyWithoutMemory(options.memory, failure);
      const copies = options.tar ? 2 : 1;
      if (options.tar && existsSync(archiveOf(directory))) {
        throw new KvmhaError('file', `${archiveOf(directory)} cannot be made: it is there already`);
      }
      if (withoutMemory === undefined && libvirt.kind === 'state') {
        await assertSpace(guest, uuid, directory, copies, deadline);
      }
      print(`collecting a post-mortem of ${plain(name)} in ${directory}\n`);
      const manifest = await collectPostmortem(
        guest,
        { ...seen, qemu },
        {
          directory,
          format: options.format ?? options.policy.dump.format,
          withoutMemory,
          pastQemu: failure !== undefined,
          onProgress: (done, total) => progress.show(done, total),
        },
        deadline,
      );
      progress.end();
      const path = options.tar ? await archive(directory, deadline) : directory;
      const failures = manifest.missing.map((each) => `${each.name}: ${each.why}`);
      end(path, manifest.complete ? undefined : failures.join('; '));
      return { manifest, path };
    } catch (error) {
      end(directory, messageOf(error));
      throw error;
    } finally {
      progress.end();
      ignore();
    }
  });
}

/**
 * Writes down that a post-mortem is being collected.
 *
 * @throws KvmhaError `locked` if one is already
 */
async function takeJob(name: string, uuid: string, job: PostmortemJob): Promise<PostmortemJob> {
  const lock = await lockFile(jobLock(uuid), `a post-mortem of ${name} is being begun`, Deadline.in(10_000));
  try {
    const earlier = readJob(uuid);
    if (earlier !== undefined && jobState(earlier) === 'running') {
      throw new KvmhaError(
        'locked',
        `a post-mortem of ${name} is being collected in ${earlier.directory} by process ${earlier.process?.pid}`,
      );
    }
    const taken: PostmortemJob = { ...job, promised: earlier?.promised === true };
    writeJob(uuid, taken);
    return taken;
  } finally {
    lock.release();
  }
}

/** @throws KvmhaError `file` when there is no room for the memory: nothing is collected then */
async function assertSpace(
  guest: Guest,
  uuid: string,
  directory: string,
  copies: number,
  deadline: Deadline,
): Promise<void> {
  const memory = await memorySize(guest, uuid, deadline);
  const lack =
    memory === undefined
      ? 'libvirt does not tell how much memory the guest has'
      : lackOfSpace(directory, memory, copies);
  if (lack !== undefined) {
    throw new KvmhaError(
      'file',
      `no post-mortem of ${guest.name} was begun: ${lack}. Make room, name a folder on another file system with ` +
        `--output, or collect all but the memory with --no-memory`,
    );
  }
}

/** Removes older post-mortems as the policy says. That it fails is no failure of this one. */
function tidy({ name, uuid, resource }: Guest, { directory, keep }: Policy['dump'], journal: Journal): void {
  try {
    const removed = removeSurplus(directory, { number: keep.number, bytes: keep.gibibytes * 1024 ** 3 });
    if (removed.length > 0) {
      print(`Removed, as the policy's dump.keep says: ${removed.map(plain).join(', ')}\n`);
      journal.record({ what: 'done', guest: name, uuid, resource, action: 'remove-postmortems', removed });
    }
  } catch (error) {
    if (!isKvmhaError(error)) {
      throw error;
    }
    printError(`kvmha: older post-mortems could not be removed: ${plain(messageOf(error))}\n`);
  }
}

/** The memory error of the host that is on record for a guest, in words. */
function memoryFailure({ record, observation }: Look): string | undefined {
  const known = [record?.fault, observation.heldFault, observation.survivedError];
  return known.find((fault) => /memory/i.test(fault ?? ''));
}

/**
 * Why the memory is not dumped. After a memory error of the host it has to be asked for: where memory has failed once,
 * the kernel may come, while it copies, upon another bad page that nobody has found yet, and cannot go on then.
 */
export function whyWithoutMemory(
  wanted: boolean | undefined,
  failure: string | undefined,
): string | undefined {
  if (wanted === false) {
    return 'it was not to be dumped (--no-memory)';
  }
  return wanted === undefined && failure !== undefined
    ? `the guest was hit by ${failure}, and to read another bad page that nobody has found yet can take the node down; ` +
        '--memory dumps it all the same, without the pages that are known to be bad'
    : undefined;
}

/** Ctrl-C leaves nothing that looks like a dump. libvirt goes on writing into it, to no effect, until it is done. */
function abandonOnSignal(directory: string, end: (failure: string) => void): () => void {
  const abandon = (signal: NodeJS.Signals) => {
    rmSync(partialDump(directory), { force: true });
    rmSync(partialArchive(directory), { force: true });
    end(`it was interrupted by ${signal}`);
    printError(`kvmha: interrupted; what was collected is in ${directory}.\n`);
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

/** What was collected, for a terminal. @param path of the folder or the archive */
export function renderManifest(path: string, { files, missing, unreadable, complete }: Manifest): string {
  const lines = [
    ...files.map(({ name, bytes }) => `  ${name}  ${size(bytes)}`),
    ...unreadable.map(
      ({ address, bytes }) => `  not in the memory: ${size(bytes)} at ${address}, which cannot be read`,
    ),
    ...missing.map(({ name, why }) => `  missing: ${plain(`${name}: ${why}`)}`),
    complete
      ? `The post-mortem in ${path} is complete; manifest.json lists its files.`
      : `The post-mortem in ${path} is NOT complete.`,
  ];
  return `${lines.join('\n')}\n`;
}

import type { Deadline } from '../deadline.ts';
import { isKvmhaError, KvmhaError, messageOf } from '../error.ts';
import { serverName } from '../linux/connections.ts';
import { type FileStamp, fileSystemsOf, stampFiles } from '../linux/file-stamp.ts';
import type { FileIdentity } from '../linux/open-files.ts';
import { writeOomScore } from '../linux/process.ts';
import { isObject, type Json } from '../qemu/qmp.ts';
import {
  type QuiesceRecord,
  type RecordedMedium,
  readRecord,
  removeRecord,
  writeRecord,
} from '../record/record.ts';
import { run } from '../run.ts';
import { FILE_SYSTEMS_THAT_TELL } from './allow-list.ts';
import { blockNodes } from './inspection.ts';
import { guestRanSince } from './observe.ts';
import { isOf, type QuiesceTarget, quiesce } from './sequence.ts';
import { giveBack, nothingMoved } from './undo.ts';

/** The steps of a resume in their order. Until `resume` the guest stands still. */
export const RESUME_STEPS = [
  'look',
  'record',
  'open-images',
  'compare',
  'give-back',
  'last-look',
  'resume',
  'forget',
] as const;
export type ResumeStep = (typeof RESUME_STEPS)[number];

export type ResumeOutcome =
  /** `runstate`: what QEMU says of it right afterwards. It may have stopped again, at the same error. */
  | { readonly kind: 'resumed'; readonly runstate: string }
  /** Nothing was changed; each reason in words for people. */
  | { readonly kind: 'refused'; readonly reasons: readonly string[] }
  /** A step failed. `preserved`: the guest was made quiesced-failover-safe again, and is proved to be. */
  | {
      readonly kind: 'failed';
      readonly step: ResumeStep;
      readonly reason: string;
      readonly preserved: boolean;
      /** Why it is not preserved. */
      readonly left?: string;
    };

/** Milliseconds kept for preserving the guest again when a step fails, where the deadline allows it. */
const PRESERVE_RESERVE = 10_000;

/**
 * Lets a preserved guest go on where it stopped: opens its images again as they were opened, moves its devices back, and
 * resumes it. Only where every image is provably as this qemu left it: a guest that ran elsewhere meanwhile, also if it
 * does no more, must never go on from its old memory.
 *
 * Interrupted at any step, it leaves a guest that stands still, that nobody calls safe, and that `quiesce` makes
 * preserved again; or one that runs.
 *
 * @param elsewhere why the guest may run, or have run, elsewhere; asked at the beginning and at the last moment
 * @throws KvmhaError only where not even the state of the guest could be read; nothing was changed then
 */
export async function resume(
  target: QuiesceTarget,
  elsewhere: () => Promise<string | undefined>,
  deadline: Deadline,
  onStep: (step: ResumeStep) => void = () => {},
): Promise<ResumeOutcome> {
  const record = readRecord(target.uuid);
  if (record === undefined || !isOf(record, target)) {
    return refused(['nothing is recorded of how this qemu was quiesced']);
  }
  const working = deadline.reserving(Math.min(PRESERVE_RESERVE, deadline.remaining() / 2));
  let step: ResumeStep = 'look';
  const enter = (next: ResumeStep) => {
    step = next;
    onStep(next);
  };
  enter('look');
  if (record.resuming && (await goesOn(record, target, working))) {
    removeRecord(record.uuid);
    return { kind: 'resumed', runstate: await runstate(target, working) };
  }
  const reasons = [...(await obstacles(record, target, working)), ...list(await elsewhere())];
  if (reasons.length > 0) {
    return refused(reasons);
  }
  try {
    enter('record');
    const resuming: QuiesceRecord = { ...record, wasPreserved: true, resuming: true };
    writeRecord(resuming);
    enter('open-images');
    await openImages(resuming, target, working);
    enter('compare');
    await demandUntouched(resuming, working);
    enter('give-back');
    await giveBack(target.monitor, resuming, working);
    // QEMU itself may have written to an image that it opened for writing, but no more from here on.
    const opened = await stampsOf(resuming, working);
    enter('last-look');
    await lastLook(resuming, opened, target, elsewhere, working);
    enter('resume');
    // QEMU takes the locks on the images now, and refuses where another qemu holds them.
    await target.monitor.execute('cont', {}, working);
  } catch (error) {
    return { kind: 'failed', step, reason: messageOf(error), ...(await preserve(target, deadline)) };
  }
  enter('forget');
  removeRecord(record.uuid);
  writeOomScore(record.qemu.pid, record.oomScore ?? 0);
  return { kind: 'resumed', runstate: await runstate(target, deadline) };
}

/** Whether an earlier attempt did all but to forget the record. */
async function goesOn(record: QuiesceRecord, target: QuiesceTarget, deadline: Deadline): Promise<boolean> {
  return (await runstate(target, deadline)) === 'running' && nothingMoved(record, target.monitor, deadline);
}

/** Makes the guest preserved again, as whoever finds a resume that was interrupted does. */
async function preserve(
  target: QuiesceTarget,
  deadline: Deadline,
): Promise<{ preserved: boolean; left?: string }> {
  try {
    const outcome = await quiesce(target, deadline);
    switch (outcome.kind) {
      case 'proved':
        return { preserved: true };
      case 'refused':
        return { preserved: false, left: outcome.reasons.join('; ') };
      case 'failed':
        return { preserved: false, left: `${outcome.step} failed: ${outcome.reason}` };
    }
  } catch (error) {
    if (isKvmhaError(error)) {
      return { preserved: false, left: messageOf(error) };
    }
    throw error;
  }
}

/** What keeps the guest from being resumed, as far as QEMU and the storage tell. */
async function obstacles(
  record: QuiesceRecord,
  target: QuiesceTarget,
  deadline: Deadline,
): Promise<string[]> {
  const { monitor } = target;
  const ran = await guestRanSince(record, monitor, deadline);
  return [
    ...list(unfitRunstate(await runstate(target, deadline))),
    ...list(ran === undefined ? undefined : `it has run since it was quiesced: ${ran}`),
    ...record.media.flatMap((medium) => list(unknownOptions(medium))),
    ...(await changes(record, deadline)),
    ...(await locked(record, target, deadline)),
  ];
}

/**
 * Why an image cannot be taken back: another qemu has it. QEMU finds that out itself when the guest is resumed, which is
 * late: where the other one shares what it writes (an export, a shareable disk), the guest cannot be preserved again
 * (seen in 7.2 and 10.0: blk_root_activate leaves a permission behind, and bdrv_inactivate_all fails). So it is tried
 * before, where there are QEMU's tools for it.
 */
async function locked(record: QuiesceRecord, target: QuiesceTarget, deadline: Deadline): Promise<string[]> {
  const present = new Set((await blockNodes(target.monitor, deadline)).map(({ name }) => name));
  const media = record.media.filter(
    ({ readOnly, nodes }) => !readOnly && !nodes.some((name) => present.has(name)),
  );
  const tried = media.map(async (medium) => {
    const [name = ''] = seenByQemu(medium, record);
    // Of a raw image only who opens it for writing wants a lock; of another format opening it for writing may write.
    const isRaw = medium.nodeOptions?.[0]?.['driver'] === 'raw';
    const [program, ...words] = isRaw
      ? ['qemu-io', '-f', 'raw', '-c', 'quit', name]
      : ['qemu-img', 'info', '--', name];
    try {
      const { stderr } = await run(program ?? '', words, { deadline });
      const said = /Failed to get .*lock/.exec(stderr)?.[0];
      return list(said === undefined ? undefined : `${medium.files[0]} is in use by another qemu: ${said}`);
    } catch (error) {
      if (isKvmhaError(error, 'program-missing')) {
        return [];
      }
      throw error;
    }
  });
  return (await Promise.all(tried)).flat();
}

/** Why a guest in this runstate (QAPI `RunState`) cannot go on where it stopped. */
function unfitRunstate(status: string): string | undefined {
  switch (status) {
    case 'paused':
    case 'io-error':
    case 'watchdog':
      return undefined;
    case 'internal-error':
      return 'QEMU says internal-error, from which it resumes no guest';
    case 'guest-panicked':
      return "QEMU says guest-panicked: the guest's own kernel has given up";
    case 'prelaunch':
      return 'QEMU says prelaunch: the guest was reset, and what it had in memory is gone';
    default:
      return `QEMU says ${status}, and not that the guest stands still`;
  }
}

/** A file's name alone does not say with which options it was opened. */
function unknownOptions({ nodes, nodeOptions, files, qdev }: RecordedMedium): string | undefined {
  const known = nodeOptions?.length === nodes.length && !nodeOptions.includes(null);
  return known
    ? undefined
    : `the options with which QEMU had ${files.join(', ') || 'the medium'} of device ${qdev} open are not known`;
}

/** Why not every image is certain to be as this qemu left it. */
async function changes(record: QuiesceRecord, deadline: Deadline): Promise<string[]> {
  const [server] = record.media.flatMap((medium) => medium.servers ?? []);
  if (server !== undefined) {
    return [
      `a disk of it is on the server ${serverName(server)}, which does not tell whether another host has written to it`,
    ];
  }
  const paths = record.media.flatMap(({ files }) => files);
  const left = record.media.flatMap((medium) => medium.left ?? []);
  if (left.length !== paths.length) {
    return [
      'how its images were left is not recorded, so nothing shows that no other host has written to them',
    ];
  }
  const names = record.media.flatMap((medium) => seenByQemu(medium, record));
  try {
    const [fileSystems, now] = await Promise.all([
      fileSystemsOf(names, deadline),
      stampFiles(names, deadline),
    ]);
    const images = record.media.flatMap((medium) => medium.images);
    return paths.flatMap((path, index) =>
      list(
        differs(images[index], left[index])
          ? `${path} was replaced while it was let go`
          : changed(path, left[index], now[index], fileSystems[index] ?? 0),
      ),
    );
  } catch (error) {
    if (isKvmhaError(error)) {
      return [`whether its images are as they were left cannot be seen: ${messageOf(error)}`];
    }
    throw error;
  }
}

/** The image that qemu had open, and the file of its name when it was let go. */
function differs(image: FileIdentity | undefined, left: FileStamp | undefined): boolean {
  return image === undefined || image.dev !== left?.dev || image.ino !== left.ino;
}

/**
 * Why an image is not certain to be as it was left; undefined when it is.
 *
 * @param fileSystem statfs(2) type of the file system that it is on
 */
export function changed(
  path: string,
  left: FileStamp | undefined,
  now: FileStamp | undefined,
  fileSystem: number,
): string | undefined {
  if (left === undefined || now === undefined) {
    return `${path}: it is not known how it was left`;
  }
  if (left.kind === 'block-device' || now.kind === 'block-device') {
    return `${path} is a block device, which does not tell whether another host has written to it`;
  }
  if (left.kind !== 'file' || now.kind !== 'file') {
    return `${path} is not a file`;
  }
  if (!FILE_SYSTEMS_THAT_TELL.has(fileSystem)) {
    return (
      `${path} is on a file system (type 0x${fileSystem.toString(16)}) of which nobody has shown that it tells whether ` +
      'another host has written to it'
    );
  }
  if (/\.0+$/.test(left.modified) && /\.0+$/.test(left.changed)) {
    return `${path} is on storage that keeps times in whole seconds, so that a change within one does not show`;
  }
  const differences = [
    left.dev === now.dev && left.ino === now.ino ? undefined : 'it is another file now',
    left.size === now.size ? undefined : `it had ${left.size} bytes and has ${now.size}`,
    left.modified === now.modified ? undefined : `it was written to at ${moment(now.modified)}`,
    left.changed === now.changed
      ? undefined
      : `it, or its owner or another attribute, was changed at ${moment(now.changed)}`,
  ].filter((difference) => difference !== undefined);
  return differences.length === 0
    ? undefined
    : `${path} is not as this qemu left it, so another host may have run the guest: ${differences.join('; ')}`;
}

function moment(seconds: string): string {
  return new Date(Number(seconds) * 1000).toISOString();
}

/** By names in the mount namespace of qemu. */
function seenByQemu({ files }: RecordedMedium, { qemu }: QuiesceRecord): string[] {
  return files.map((file) => `/proc/${qemu.pid}/root${file}`);
}

/** @throws KvmhaError */
function stampsOf(record: QuiesceRecord, deadline: Deadline): Promise<FileStamp[]> {
  return stampFiles(
    record.media.flatMap((medium) => seenByQemu(medium, record)),
    deadline,
  );
}

async function demandUntouched(record: QuiesceRecord, deadline: Deadline): Promise<void> {
  const found = await changes(record, deadline);
  if (found.length > 0) {
    throw new KvmhaError('malformed', found.join('; '));
  }
}

/** Opens what is not open yet: first read-only, so that QEMU writes nothing before they have been compared. */
async function openImages(
  record: QuiesceRecord,
  { monitor }: QuiesceTarget,
  deadline: Deadline,
): Promise<void> {
  const present = new Set((await blockNodes(monitor, deadline)).map(({ name }) => name));
  for (const { nodes, nodeOptions, options } of record.media) {
    for (const [index, name] of [...nodes.entries()].reverse()) {
      const own = nodeOptions?.[index];
      if (own === undefined || own === null) {
        throw new KvmhaError('malformed', `the options of block node ${name} are not known`);
      }
      if (!present.has(name)) {
        const readOnly = index === 0 && options !== undefined ? { 'read-only': true } : {};
        await monitor.execute('blockdev-add', { ...own, ...readOnly }, deadline);
      }
    }
  }
}

/** Everything once more, when nothing is left to be done but to resume the guest. */
async function lastLook(
  record: QuiesceRecord,
  opened: readonly FileStamp[],
  target: QuiesceTarget,
  elsewhere: () => Promise<string | undefined>,
  deadline: Deadline,
): Promise<void> {
  const why = await elsewhere();
  if (why !== undefined) {
    throw new KvmhaError('malformed', why);
  }
  const status = await runstate(target, deadline);
  const unfit = unfitRunstate(status) ?? (await guestRanSince(record, target.monitor, deadline));
  if (unfit !== undefined) {
    throw new KvmhaError('malformed', unfit);
  }
  if (JSON.stringify(await stampsOf(record, deadline)) !== JSON.stringify(opened)) {
    throw new KvmhaError('malformed', 'its images were changed at this very moment');
  }
}

async function runstate({ monitor }: QuiesceTarget, deadline: Deadline): Promise<string> {
  const status: Json = await monitor.execute('query-status', {}, deadline);
  return isObject(status) ? String(status['status']) : '';
}

function list(reason: string | undefined): string[] {
  return reason === undefined ? [] : [reason];
}

function refused(reasons: readonly string[]): ResumeOutcome {
  return { kind: 'refused', reasons };
}

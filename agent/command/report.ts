import type { Deadline } from '../../lib/deadline.ts';
import { isKvmhaError } from '../../lib/error.ts';
import type { Guest } from '../../lib/guest/guest.ts';
import { allocatedBytes, folderBytes } from '../../lib/linux/disk-usage.ts';
import { memoryOf, startedAt } from '../../lib/linux/process.ts';
import { isComplete, missingItems, type Proof, type ProofItem } from '../../lib/quiesce/proof.ts';
import { type JobState, jobState, readJob } from '../../lib/record/postmortem-job.ts';
import { type QuiesceRecord, readRecord } from '../../lib/record/record.ts';
import { type Classification, classify, type GuestState } from '../../lib/state/classify.ts';
import { withLook } from './chosen.ts';

/** Milliseconds in which the storage tells how much it keeps. */
const DISK_PATIENCE = 2000;

/** One guest as `kvmha status` shows it, and as its JSON. */
export interface GuestReport {
  readonly name: string;
  readonly uuid: string | null;
  readonly resource: string | null;
  readonly state: GuestState;
  /** What was seen. */
  readonly reason: string;
  readonly fault: string | null;
  /** ISO 8601: for a quiesced guest when its quiescing began, else when its qemu was started. */
  readonly since: string | null;
  readonly qemu: { readonly pid: number; readonly memory: number } | null;
  readonly proof: {
    readonly complete: boolean;
    readonly missing: readonly { readonly item: ProofItem; readonly seen: string }[];
  } | null;
  readonly postmortem: {
    readonly state: JobState;
    readonly directory: string;
    readonly why: string | null;
  } | null;
  /**
   * Bytes that a preserved guest keeps on the storage: its images, which another node may use by now, and its
   * post-mortem. Null where there is none of them, and where the storage did not tell in time.
   */
  readonly disk: { readonly images: number | null; readonly postmortem: number | null } | null;
  /** What an operator should know or do; null when there is nothing. */
  readonly attention: string | null;
}

/** How many guests are looked at at a time: each look starts a few programs. */
const AT_A_TIME = 8;

/** What was seen of a guest. */
export interface Report {
  readonly report: GuestReport;
  /** What the report's attention follows from. */
  readonly facts: Facts;
}

/** Looks at guests. */
export async function reportOnAll(guests: readonly Guest[], deadline: Deadline): Promise<Report[]> {
  const reports: Report[] = [];
  for (let index = 0; index < guests.length; index += AT_A_TIME) {
    const next = guests.slice(index, index + AT_A_TIME);
    reports.push(...(await Promise.all(next.map((guest) => reportOn(guest, deadline)))));
  }
  return reports;
}

/**
 * The report on a guest whose resource, as this node remembers it, is none of kvmha's any more: the cluster runs the
 * guest by another agent, or not at all.
 *
 * @param followed the record by which the watcher goes on acting for the resource, if it does
 */
export function withoutResource({ report, facts }: Report, followed: string | undefined): GuestReport {
  const attention = attentionTo({ ...facts, guest: { name: report.name, resource: undefined } });
  const watched =
    followed === undefined
      ? undefined
      : `no resource of kvmha's runs it any more, but the watcher still quiesces it after a fault: "rm ${followed}" ` +
        'on this node ends that';
  const all = [attention, watched].filter((each) => each !== undefined);
  return { ...report, resource: null, attention: all.length === 0 ? null : all.join('. ') };
}

/** Looks at a guest. */
function reportOn(guest: Guest, deadline: Deadline): Promise<Report> {
  return withLook(guest, deadline, async (seen) => {
    const classification = classify(seen.observation);
    const { qemu } = seen;
    const record = seen.record ?? leftRecord(seen.uuid);
    const job = seen.uuid === undefined ? undefined : readJob(seen.uuid);
    const facts: Facts = {
      guest,
      classification,
      record,
      proof: seen.observation.proof,
      quiesceBegun: seen.observation.quiesceBegun,
      pid: qemu?.pid,
    };
    const report: GuestReport = {
      name: guest.name,
      uuid: seen.uuid ?? null,
      resource: record?.resource ?? guest.resource ?? null,
      state: classification.state,
      reason: classification.reason,
      fault: record?.fault ?? classification.fault ?? null,
      since: record?.begun ?? (qemu === undefined ? null : startedAt(qemu).toISOString()),
      qemu: qemu === undefined ? null : { pid: qemu.pid, memory: memoryOf(qemu.pid) ?? 0 },
      proof: proofReport(facts),
      postmortem:
        job === undefined
          ? null
          : { state: jobState(job), directory: job.directory, why: job.end?.failure ?? null },
      disk: record === undefined ? null : await diskOf(record, job?.directory || undefined, deadline),
      attention: attentionTo(facts) ?? null,
    };
    return { report, facts };
  });
}

/** Storage that has failed, which is where guests are preserved, may not answer at all. */
async function diskOf(
  { media }: QuiesceRecord,
  directory: string | undefined,
  deadline: Deadline,
): Promise<GuestReport['disk']> {
  const paths = media.flatMap(({ images }) => images.map(({ path }) => path));
  const patience = deadline.within(DISK_PATIENCE);
  const [images, postmortem] = await Promise.all([
    allocatedBytes([...new Set(paths)], patience),
    directory === undefined ? undefined : folderBytes(directory, patience),
  ]);
  return { images: images ?? null, postmortem: postmortem ?? null };
}

/** The record of a qemu that is gone: the guest was preserved, and something ended it. */
export function leftRecord(uuid: string | undefined): QuiesceRecord | undefined {
  try {
    return uuid === undefined ? undefined : readRecord(uuid);
  } catch (error) {
    if (isKvmhaError(error)) {
      return undefined; // knownGuests says that it cannot be read
    }
    throw error;
  }
}

/** What the attention that a guest needs depends on. */
export interface Facts {
  readonly guest: Pick<Guest, 'name' | 'resource'>;
  readonly classification: Classification;
  readonly record: Pick<QuiesceRecord, 'qemu' | 'wasPreserved'> | undefined;
  readonly proof: Proof | undefined;
  readonly quiesceBegun: boolean;
  readonly pid: number | undefined;
}

function proofReport({ proof, quiesceBegun }: Facts): GuestReport['proof'] {
  if (!quiesceBegun && proof === undefined) {
    return null;
  }
  const missing = missingItems(proof).map((item) => ({ item, seen: proof?.[item]?.seen ?? 'not seen' }));
  return { complete: isComplete(proof), missing };
}

/** Such as a guest of ocf:heartbeat:VirtualDomain, which takes whatever is paused for healthy. */
const NOT_RUN_BY_KVMHA = 'No resource of kvmha runs it here, so that nothing follows by itself';

/** What an operator should know or do about a guest. */
export function attentionTo({
  guest,
  classification,
  record,
  proof,
  quiesceBegun,
  pid,
}: Facts): string | undefined {
  const { name, resource } = guest;
  const { state, reason, fault } = classification;
  const monitor = resource === undefined ? undefined : `The next monitor of ${resource}`;
  switch (state) {
    case 'quiesced-failover-safe':
      return (
        `the whole proof holds, so it may run elsewhere. Its qemu, process ${pid}, is kept for a post-mortem: ` +
        `"kvmha postmortem ${name}" collects it, "kvmha release ${name}" ends it, and after a false alarm "kvmha resume ` +
        `${name}" lets it go on here`
      );
    case 'faulted':
      if (record?.wasPreserved) {
        return (
          `it was being resumed, and stands still: ${missing(proof)}. "kvmha resume ${name}" goes on with it, ` +
          `"kvmha quiesce ${name}" makes it preserved again, "kvmha release ${name}" ends it`
        );
      }
      return quiesceBegun
        ? `its quiescing was begun, and is not proved: ${missing(proof)}. "kvmha quiesce ${name}" goes on with it, ` +
            `"kvmha release ${name}" ends the guest`
        : `${reason}. ${monitor === undefined ? NOT_RUN_BY_KVMHA : `${monitor} quiesces it`}; by hand ` +
            `"kvmha quiesce ${name}" does`;
    case 'degraded':
      return `it runs, but ${fault ?? reason}. Look at the node's storage and log, and migrate the guest away`;
    case 'out-of-space':
      return `its storage is full. Make room, then "virsh resume ${name}"`;
    case 'crashed':
      return (
        `${reason}. ${monitor === undefined ? NOT_RUN_BY_KVMHA : `${monitor} has it restarted`}; ` +
        `"kvmha postmortem ${name}" collects it before`
      );
    case 'post-copy':
      return `${reason}. It lives on two nodes: let the migration end, or end it on the side that is to be given up`;
    case 'unknown':
      return `${reason}. ${pid === undefined ? 'Look at libvirt' : `Look at process ${pid} and at libvirt`} on this node`;
    case 'shut-off-process-left':
      return `${reason}. ${monitor === undefined ? NOT_RUN_BY_KVMHA : `${monitor}, or a stop, ends what is left of it`}`;
    case 'shut-off':
      return record === undefined
        ? undefined
        : `it was preserved, and its qemu, process ${record.qemu.pid}, has ended. "kvmha release ${name}" removes ` +
            'its record and lets it run here again';
    case 'running':
    case 'transient':
    case 'paused-by-operator':
    case 'incoming':
    case 'migrated-away':
    case 'suspended':
      return undefined;
  }
}

function missing(proof: Proof | undefined): string {
  if (proof === undefined) {
    return 'the proof could not be looked at';
  }
  return missingItems(proof)
    .map((item) => `${item} (${proof[item]?.seen ?? 'not seen'})`)
    .join(', ');
}

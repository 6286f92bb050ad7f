import { readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import type { Deadline } from '../deadline.ts';
import { isKvmhaError, messageOf } from '../error.ts';
import { libvirtDaemon } from '../libvirt/daemon.ts';
import { memoryOf } from '../linux/process.ts';
import type { Log } from '../log.ts';
import { isComplete } from '../quiesce/proof.ts';
import { SENTINEL_PREFIX } from '../quiesce/sequence.ts';
import { type QuiesceRecord, readRecord } from '../record/record.ts';
import type { Classification } from '../state/classify.ts';
import { endProcesses, removeRemains, syncImages, writableImages } from './fence.ts';
import type { Guest } from './guest.ts';
import { type ImageShadow, shadowImages } from './image-shadow.ts';
import { type Look, libvirtFolderOf } from './look.ts';

export interface ReleaseOptions {
  /** Also where libvirt cannot be kept from giving the images another owner when the qemu ends. */
  readonly force: boolean;
}

export type ReleaseOutcome =
  | {
      readonly kind: 'released';
      /** The qemu that was ended; undefined when it was gone already. */
      readonly pid: number | undefined;
      /** Bytes of memory that it held. */
      readonly memory: number;
      /** What an operator must know beside it. */
      readonly remarks: readonly string[];
    }
  /** Nothing was changed. */
  | { readonly kind: 'refused'; readonly why: string };

/** Where libvirt keeps what it must know of running domains when its daemon is started anew. */
const LIBVIRT_STATUS = '/run/libvirt/qemu';

/** Milliseconds that libvirt may take to notice that a qemu has been killed. */
const NOTICE = 5000;

/**
 * Why a guest may not be released: only one that was quiesced, or whose quiescing was begun, is anybody's to end
 * but the cluster's.
 *
 * @returns undefined if it may
 */
export function releaseRefusal(
  guest: Pick<Guest, 'name' | 'resource'>,
  { state, reason }: Classification,
  { observation }: Pick<Look, 'observation'>,
): string | undefined {
  const { monitor, quiesceBegun } = observation;
  if (monitor.kind === 'status' && monitor.running) {
    return `${guest.name} is running, and release ends preserved guests only. ${howToStop(guest)}`;
  }
  if (state === 'quiesced-failover-safe' || state === 'shut-off' || quiesceBegun) {
    return undefined;
  }
  return `${guest.name} is ${state}, not preserved (${reason}). ${howToStop(guest)}`;
}

function howToStop({ name, resource }: Pick<Guest, 'name' | 'resource'>): string {
  return resource === undefined
    ? `Stop it with "virsh shutdown ${name}", or end it with "virsh destroy ${name}"`
    : `Stop it through the cluster: "crm resource stop ${resource}" or "pcs resource disable ${resource}"`;
}

/**
 * Ends a preserved guest, and forgets it. Its images may be in use on another node: they are neither synced nor left
 * to libvirt to change. The caller holds the domain's lock, looked under it, and found no `releaseRefusal`.
 *
 * @throws KvmhaError when its end could not be verified; it is then still preserved, or half ended
 */
export async function release(
  guest: Guest,
  seen: Look,
  { force }: ReleaseOptions,
  deadline: Deadline,
  log: Log,
): Promise<ReleaseOutcome> {
  const { qemu, uuid } = seen;
  const { libvirt, proof } = seen.observation;
  const remarks: string[] = [];
  const images = writableImages(guest, seen);
  if (qemu !== undefined && uuid !== undefined) {
    const exposure = await shadowOrExposure(
      guest,
      seen,
      images.map(({ path }) => path),
      deadline,
    );
    if (typeof exposure === 'string' && !force) {
      return { kind: 'refused', why: exposure };
    }
    if (typeof exposure === 'string') {
      remarks.push(exposure);
    }
    const memory = memoryOf(qemu.pid) ?? 0;
    const folder = libvirtFolderOf(qemu);
    try {
      await endProcesses(guest, seen, deadline, log);
      await letLibvirtFinish(guest, uuid, libvirt.kind === 'silent', deadline);
    } finally {
      await (typeof exposure === 'string' ? undefined : exposure.lift());
    }
    // What a complete proof says is flushed needs no sync, and on storage that hangs by now it would never end.
    if (!isComplete(proof)) {
      await syncImages(guest, images, deadline, log);
    }
    removeSentinels(folder, seen.record);
    removeRemains(guest, uuid);
    return { kind: 'released', pid: qemu.pid, memory, remarks };
  }
  // What is left of it: its end must be verified all the same.
  await endProcesses(guest, seen, deadline, log);
  removeSentinels(undefined, uuid === undefined ? undefined : readableRecord(uuid));
  removeRemains(guest, uuid);
  return { kind: 'released', pid: undefined, memory: 0, remarks };
}

/** Hides the images from libvirt; a text says why they cannot be, and what follows from that. */
async function shadowOrExposure(
  { name }: Guest,
  { uuid, observation }: Look,
  paths: readonly string[],
  deadline: Deadline,
): Promise<ImageShadow | string> {
  const consequence = `gives the images of ${name} (${paths.join(', ')}) back to root, also if a guest on another node uses them`;
  const daemon = libvirtDaemon();
  if (observation.libvirt.kind === 'silent' && daemon !== undefined) {
    return (
      `libvirt does not answer (${observation.libvirt.why}), and its daemon, process ${daemon.pid}, ${consequence}, ` +
      'when it goes on after the qemu has ended. Restart the daemon first'
    );
  }
  try {
    return await shadowImages(uuid ?? '', paths, deadline.within(10_000));
  } catch (error) {
    if (isKvmhaError(error)) {
      return `${messageOf(error)}. When the qemu has ended, libvirt ${consequence}`;
    }
    throw error;
  }
}

/**
 * Until libvirt has cleaned up behind a qemu that it did not end itself. A daemon that is dead would do it when it is
 * started the next time: it forgets the domain with the file in which it remembers it (measured).
 */
async function letLibvirtFinish(
  guest: Guest,
  uuid: string,
  silent: boolean,
  deadline: Deadline,
): Promise<void> {
  if (silent) {
    for (const suffix of ['xml', 'pid']) {
      rmSync(join(LIBVIRT_STATUS, `${guest.name}.${suffix}`), { force: true });
    }
    return;
  }
  const patience = deadline.within(NOTICE);
  await patience.poll(100, async () => {
    const view = await guest.virsh.look(uuid, patience);
    return view.kind !== 'state' || view.state === 'shut off' ? true : undefined;
  });
}

/** A quiesce that stopped half-way leaves the sentinels' files. */
function removeSentinels(folder: string | undefined, record: QuiesceRecord | undefined): void {
  const recorded = (record?.media ?? []).map(({ sentinel }) => sentinel.path);
  const found =
    folder === undefined ? [] : filesIn(folder).filter((file) => file.startsWith(SENTINEL_PREFIX));
  for (const path of [...recorded, ...found.map((file) => join(folder ?? '', file))]) {
    rmSync(path, { force: true });
  }
}

function filesIn(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return []; // libvirt has removed it.
  }
}

function readableRecord(uuid: string): QuiesceRecord | undefined {
  try {
    return readRecord(uuid);
  } catch (error) {
    if (isKvmhaError(error)) {
      return undefined; // It is removed, whatever it says.
    }
    throw error;
  }
}

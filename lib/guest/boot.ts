import { existsSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Deadline } from '../deadline.ts';
import { isKvmhaError, KvmhaError, messageOf } from '../error.ts';
import { prepareDomainXml, readDomainXml } from '../libvirt/domain-xml.ts';
import type { Log } from '../log.ts';
import { findQemuProcesses } from '../qemu/qemu-process.ts';
import { noteFirstConnections } from '../quiesce/network-disk.ts';
import { makeDomainDirectory, uuidForName } from '../record/directory.ts';
import { removePendingStart, writePendingStart } from '../record/pending-start.ts';
import { runChecked } from '../run.ts';
import { readTextFile } from '../text-file.ts';
import type { Guest } from './guest.ts';
import { liftLeftShadows } from './image-shadow.ts';
import { makeSocketDirectories, socketsOf } from './sockets.ts';

export interface BootOptions {
  /** Path of the domain XML. */
  readonly config: string;
  /** Folder of the state that a stop saved, if the guest is to go on from it. */
  readonly snapshot: string | undefined;
  /** Image on which the guest's own is made (copy on write), if it has such. */
  readonly backingfile: string | undefined;
  /** Make that image anew at each start. */
  readonly stateless: boolean;
  /** Folders copied into the image before the start. */
  readonly copyindirs: readonly string[];
  /** Start the storage pools and networks that the domain XML names. */
  readonly startResources: boolean;
  /** Set the error policies that the domain XML leaves open. */
  readonly setErrorPolicy: boolean;
}

/** libvirt keeps something of the domain that must be dealt with by an operator first. */
export class LocalObstacle extends KvmhaError {}

/** Milliseconds by which the clocks of two file servers may differ. */
const CLOCK_SKEW = 60_000;

/** More than any domain XML needs, in bytes. */
const MAX_XML = 1024 * 1024;

/**
 * Starts a guest that is known not to run: from its saved state where there is one, else from its XML, with our
 * QMP sockets and error policies added. Returns when libvirt has started it.
 *
 * @throws LocalObstacle for a managed save; KvmhaError of libvirt, of the file system or `malformed` XML
 */
export async function boot(guest: Guest, options: BootOptions, deadline: Deadline, log: Log): Promise<void> {
  const defined = await clearDefinition(guest, deadline, log);
  const uuid = guest.uuid ?? defined ?? uuidForName(guest.name);
  // It would boot from an empty disk.
  await liftLeftShadows(uuid, deadline);
  makeSocketDirectories();
  const saved = options.snapshot === undefined ? undefined : savedStatePath(options.snapshot, guest.name);
  if (saved !== undefined && existsSync(saved)) {
    await refuseOldState(guest, saved, options.config);
    log.info(`${guest.name}: restoring it from ${saved}`);
    await startByLibvirt(guest, uuid, ['restore', saved], options.config, deadline, log);
    rmSync(saved, { force: true });
    return;
  }
  if (options.startResources) {
    await startResources(guest.virsh, options.config, deadline, log);
  }
  if (options.backingfile !== undefined) {
    await makeImage(guest, options, options.backingfile, deadline, log);
  }
  const path = await preparedXml(guest, options, uuid);
  try {
    log.info(`${guest.name}: starting it from ${options.config}`);
    await startByLibvirt(guest, uuid, ['create', path], options.config, deadline, log);
  } finally {
    rmSync(path, { force: true });
  }
}

/**
 * A state that a node has kept to itself while the guest ran on another sets the memory back behind the disks, and so
 * destroys their file systems.
 *
 * @throws LocalObstacle when an image was written to after the state
 */
async function refuseOldState(guest: Guest, saved: string, config: string): Promise<void> {
  const limit = statSync(saved).mtimeMs + CLOCK_SKEW;
  const { disks } = await readDomainXml(config);
  const newer = disks
    .flatMap(({ readonly, source }) => (readonly || source.file === undefined ? [] : [source.file]))
    .find((path) => (statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0) > limit);
  if (newer !== undefined) {
    throw new LocalObstacle(
      'program-failed',
      `${newer} was written to after the state of ${guest.name} was saved to ${saved}, which would set its memory back ` +
        'behind its disks: remove the saved state',
    );
  }
}

/** Runs the virsh command that starts the domain. When it is killed or cut off, the start may go on without us. */
async function startByLibvirt(
  guest: Guest,
  uuid: string,
  words: readonly string[],
  config: string,
  deadline: Deadline,
  log: Log,
): Promise<void> {
  const { disks } = await readDomainXml(config);
  const isOnNetwork = disks.some(({ source }) => source.protocol === 'nbd');
  writePendingStart(guest, { uuid });
  try {
    await guest.virsh.command(isOnNetwork ? [...words, '--paused'] : words, deadline);
    if (isOnNetwork) {
      await noteConnections(guest, uuid, deadline, log);
      await guest.virsh.command(['resume', uuid], deadline);
    }
  } catch (error) {
    if (!isKvmhaError(error, 'deadline', 'unreachable')) {
      removePendingStart(guest);
    }
    throw error;
  }
  removePendingStart(guest);
}

/** That they cannot be noted keeps the guest from being proved safe later, not from running. */
async function noteConnections(guest: Guest, uuid: string, deadline: Deadline, log: Log): Promise<void> {
  try {
    const [qemu] = findQemuProcesses({ name: guest.name, uuid });
    if (qemu === undefined) {
      throw new KvmhaError('file', 'its qemu process was not found');
    }
    await noteFirstConnections(qemu, deadline);
  } catch (error) {
    if (!isKvmhaError(error)) {
      throw error;
    }
    log.warn(
      `${guest.name}: it cannot be proved failover-safe, for its connection to its disks is not known: ${messageOf(error)}`,
    );
  }
}

/** Where a stop with the parameter `snapshot` saves a guest's state, and a start looks for it. */
export function savedStatePath(folder: string, name: string): string {
  return join(folder, `${name}.state`);
}

/**
 * Starts the storage pools and networks that a domain XML names, where they are not active.
 *
 * @throws KvmhaError when one cannot be started
 */
export async function startResources(
  virsh: Guest['virsh'],
  config: string,
  deadline: Deadline,
  log: Log,
): Promise<void> {
  const { text } = await readTextFile(config, MAX_XML);
  const named = (attribute: string) =>
    new Set(
      [...text.matchAll(new RegExp(`\\s${attribute}=['"]([^'"]+)['"]`, 'g'))].map((match) => match[1] ?? ''),
    );
  for (const [kind, names] of [
    ['pool', named('pool')],
    ['net', named('network')],
  ] as const) {
    const active = (await virsh.command([`${kind}-list`, '--name'], deadline))
      .split('\n')
      .map((name) => name.trim());
    for (const name of names) {
      const action = active.includes(name) ? (kind === 'pool' ? 'refresh' : undefined) : 'start';
      if (action !== undefined) {
        log.info(`virsh ${kind}-${action} ${name}`);
        await virsh.command(
          [`${kind}-${action}`, `--${kind === 'pool' ? 'pool' : 'network'}=${name}`],
          deadline,
        );
      }
    }
  }
}

/**
 * What libvirt itself would start the domain from. A persistent definition stays the operator's: `create` runs
 * beside it, and undefining it is how VirtualDomain came to delete configuration files.
 *
 * @returns its uuid, where there is one: libvirt runs another domain of that name only under the same uuid
 */
async function clearDefinition(guest: Guest, deadline: Deadline, log: Log): Promise<string | undefined> {
  const uuid = guest.uuid ?? (await guest.virsh.uuidOf(guest.name, deadline));
  if (uuid === undefined) {
    return undefined;
  }
  let facts: ReadonlyMap<string, string>;
  try {
    facts = await guest.virsh.information(uuid, deadline);
  } catch (error) {
    if (isKvmhaError(error, 'no-domain')) {
      return undefined;
    }
    throw error;
  }
  if (facts.get('Managed save') === 'yes') {
    throw new LocalObstacle(
      'program-failed',
      `libvirt keeps a managed save of ${guest.name} here, and starting it later would set its memory back while ` +
        `its disks have gone on: remove it with "virsh managedsave-remove ${guest.name}"`,
    );
  }
  if (facts.get('Autostart') === 'enable') {
    log.warn(`${guest.name}: libvirt would start it by itself at boot; disabling autostart`);
    await guest.virsh.command(['autostart', '--disable', uuid], deadline);
  }
  if (facts.get('Persistent') === 'yes') {
    log.warn(
      `${guest.name}: libvirt has a persistent definition of it here, so that it can be started past the cluster; ` +
        `remove it with "virsh undefine ${guest.name}" once ${guest.name}'s configuration is saved elsewhere`,
    );
  }
  return uuid;
}

/** The XML for `virsh create`, in a file: it may hold passwords, so root alone can read it. */
async function preparedXml(guest: Guest, options: BootOptions, uuid: string): Promise<string> {
  const { text } = await readTextFile(options.config, MAX_XML);
  const sockets = socketsOf(guest.name);
  const prepared = await prepareDomainXml(text, {
    agentSocket: sockets.agent,
    watcherSocket: sockets.watcher,
    setErrorPolicy: options.setErrorPolicy,
    uuid,
  });
  const path = join(makeDomainDirectory(uuid), 'start.xml');
  try {
    rmSync(path, { force: true });
    writeFileSync(path, prepared, { mode: 0o600, flag: 'wx' });
  } catch (cause) {
    throw new KvmhaError('file', `${path} cannot be written: ${messageOf(cause)}`, { cause });
  }
  return path;
}

/** The copy-on-write image beside the XML: its path up to the first dot, and `.qcow2`, as VirtualDomain names it. */
async function makeImage(
  guest: Guest,
  options: BootOptions,
  backingfile: string,
  deadline: Deadline,
  log: Log,
): Promise<void> {
  const image = `${options.config.replace(/\..*$/, '')}.qcow2`;
  if (!options.stateless && existsSync(image)) {
    return;
  }
  log.info(`${guest.name}: creating ${image} on ${backingfile}`);
  const facts: unknown = JSON.parse(
    await runChecked('qemu-img', ['info', '--output=json', '--', backingfile], { deadline }),
  );
  const format = (facts as { format?: unknown } | null)?.format;
  if (typeof format !== 'string') {
    throw new KvmhaError('malformed', `qemu-img does not tell the format of ${backingfile}`);
  }
  await runChecked(
    'qemu-img',
    ['create', '-q', '-f', 'qcow2', '-b', backingfile, '-F', format, '--', image],
    {
      deadline,
    },
  );
  if (options.copyindirs.length > 0) {
    await runChecked('virt-copy-in', ['-a', image, ...options.copyindirs, '/'], { deadline });
  }
}

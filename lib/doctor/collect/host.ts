import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import type { Deadline } from '../../deadline.ts';
import { isKvmhaError, messageOf } from '../../error.ts';
import { isRunning } from '../../linux/process.ts';
import { askStatus } from '../../watch/status.ts';
import { type HostFacts, known, unknown } from '../facts.ts';

/** Programs that keep the clock (proc(5), comm: at most 15 characters). */
const CLOCK_KEEPERS = ['chronyd', 'ntpd', 'ntpsec', 'systemd-timesyn', 'openntpd', 'ptp4l', 'phc2sys'];

/** Where libvirt-guests finds what it does: its own defaults first, then what the distribution and operators say. */
const LIBVIRT_GUESTS = [
  '/usr/lib/libvirt/libvirt-guests.sh',
  '/usr/libexec/libvirt-guests.sh',
  '/etc/default/libvirt-guests',
  '/etc/sysconfig/libvirt-guests',
];

const QEMU_CONF = '/etc/libvirt/qemu.conf';
/** Its owner is the user that libvirt runs qemu as, where qemu.conf does not say. */
const QEMU_DIRECTORY = '/var/lib/libvirt/qemu';

/** The module parameter nfs.recover_lost_locks (Linux, admin-guide/kernel-parameters.txt). */
const RECOVER_LOST_LOCKS = '/sys/module/nfs/parameters/recover_lost_locks';

/** Milliseconds in which the watcher must answer. */
const PATIENCE = 3000;

/** Looks at this host; what cannot be read counts as not there. */
export async function collectHost(deadline: Deadline): Promise<HostFacts> {
  const conf = settingsOf(readText(QEMU_CONF));
  return {
    clockIsKept: isRunning(CLOCK_KEEPERS),
    hasKvm: existsSync('/dev/kvm'),
    libvirtGuests: libvirtGuests(),
    watcher: await watcher(deadline.within(PATIENCE)),
    qemuUser: qemuUser(conf),
    dynamicOwnership: (conf.get('dynamic_ownership') ?? '1') !== '0',
    recoversLostLocks: readText(RECOVER_LOST_LOCKS).trim() === 'Y',
    lockManager: conf.get('lock_manager'),
  };
}

async function watcher(deadline: Deadline): Promise<HostFacts['watcher']> {
  try {
    await askStatus(deadline);
    return known('answers');
  } catch (error) {
    if (isKvmhaError(error, 'unreachable')) {
      return known('none');
    }
    if (isKvmhaError(error)) {
      return unknown(messageOf(error));
    }
    throw error;
  }
}

function libvirtGuests(): HostFacts['libvirtGuests'] {
  const settings = new Map(LIBVIRT_GUESTS.flatMap((path) => [...settingsOf(readText(path))]));
  return {
    enabled: wantedUnits().includes('libvirt-guests.service'),
    onBoot: settings.get('ON_BOOT') ?? 'start',
    onShutdown: settings.get('ON_SHUTDOWN') ?? 'suspend',
  };
}

/** The units that systemd starts with a target, by the links that `systemctl enable` makes. */
function wantedUnits(): string[] {
  const directory = '/etc/systemd/system';
  return listDirectory(directory)
    .filter((name) => name.endsWith('.wants'))
    .flatMap((name) => listDirectory(`${directory}/${name}`));
}

/** Lines `NAME=VALUE` of a shell's or libvirt's configuration; the last of a name counts. */
export function settingsOf(text: string): Map<string, string> {
  return new Map(
    [...text.matchAll(/^[ \t]*(\w+)[ \t]*=[ \t]*(.*?)[ \t]*$/gm)].map(([, name = '', value = '']) => [
      name,
      value.replace(/^(["'])(.*)\1.*$/, '$2'),
    ]),
  );
}

function qemuUser(conf: ReadonlyMap<string, string>): HostFacts['qemuUser'] {
  const users = recordsOf(readText('/etc/passwd'));
  const groups = recordsOf(readText('/etc/group'));
  const owner = statSync(QEMU_DIRECTORY, { throwIfNoEntry: false });
  const wanted = conf.get('user')?.replace(/^\+/, '') ?? String(owner?.uid ?? 0);
  const user = users.find(([name, , uid]) => name === wanted || uid === wanted);
  const name = user?.[0] ?? wanted;
  const wantedGroup =
    conf.get('group')?.replace(/^\+/, '') ?? (conf.has('user') ? user?.[3] : String(owner?.gid ?? 0));
  const group = groups.find(([each, , gid]) => each === wantedGroup || gid === wantedGroup);
  const further = groups.filter(([, , , members]) => members?.split(',').includes(name));
  const gids = [group?.[2], user?.[3], ...further.map(([, , gid]) => gid)];
  return {
    name,
    uid: Number(user?.[2] ?? wanted),
    groups: [...new Set(gids.flatMap((gid) => (gid === undefined ? [] : [Number(gid)])))],
  };
}

function recordsOf(text: string): string[][] {
  return text.split('\n').map((line) => line.split(':'));
}

function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

function listDirectory(path: string): string[] {
  try {
    return readdirSync(path);
  } catch {
    return [];
  }
}

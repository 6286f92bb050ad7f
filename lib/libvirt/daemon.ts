import { readFileSync } from 'node:fs';
import { type ProcessIdentity, readStat } from '../linux/process.ts';

/** The daemons that run QEMU domains, each with the file in which it leaves its pid. */
const DAEMONS = [
  ['virtqemud', '/run/virtqemud.pid'],
  ['libvirtd', '/run/libvirtd.pid'],
] as const;

/**
 * The daemon of libvirt on this host, found without asking it. When libvirt does not answer, this tells a daemon
 * that hangs, and may go on at any moment with what it knows, from one that is not there.
 */
export function libvirtDaemon(): ProcessIdentity | undefined {
  for (const [name, file] of DAEMONS) {
    const pid = Number(read(file) ?? 0);
    const stat = Number.isSafeInteger(pid) && pid > 0 ? readStat(pid) : undefined;
    if (stat !== undefined && !/^[ZX]/.test(stat.state) && read(`/proc/${pid}/comm`)?.trim() === name) {
      return { pid, startTime: stat.startTime };
    }
  }
  return undefined;
}

function read(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined; // Not there, or gone with its process.
  }
}

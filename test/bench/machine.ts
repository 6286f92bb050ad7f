import { cpus, loadavg } from 'node:os';
import type { LabNode } from '../lab/client.ts';

/** On what is measured, in words: the machine with its load, and the versions of what kvmha works with. */
export async function machine(node: LabNode): Promise<string> {
  const version = async (...command: string[]) =>
    /\d+(?:\.\d+)+/.exec(await node.check(command))?.[0] ?? 'of unknown version';
  const [qemu, libvirt, pacemaker] = [
    await version('qemu-system-x86_64', '--version'),
    await version('virsh', '--version'),
    await version('crm_mon', '--version'),
  ];
  return (
    `one machine with ${cpus().length} processors (${cpus()[0]?.model.trim()}) and a load of ${loadavg()[2]?.toFixed(1)}, guests emulated (TCG), ` +
    `QEMU ${qemu}, libvirt ${libvirt}, Pacemaker ${pacemaker}`
  );
}

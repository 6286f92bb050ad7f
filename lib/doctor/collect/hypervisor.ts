import type { Deadline } from '../../deadline.ts';
import { isKvmhaError, KvmhaError, messageOf } from '../../error.ts';
import { Virsh } from '../../libvirt/virsh.ts';
import { type Hypervisor, type Known, known, unknown } from '../facts.ts';

/** Asks a libvirt, this node's or another one's, about its host. */
export async function askHypervisor(uri: string, deadline: Deadline): Promise<Known<Hypervisor>> {
  const virsh = new Virsh(uri);
  try {
    const capabilities = await virsh.command(['capabilities'], deadline);
    const versions = await virsh.command(['version', '--daemon'], deadline);
    return known(parseHypervisor(capabilities, versions));
  } catch (error) {
    if (isKvmhaError(error)) {
      return unknown(messageOf(error));
    }
    throw error;
  }
}

/**
 * What `virsh capabilities` and `virsh version --daemon` say.
 *
 * @throws KvmhaError `protocol` when the capabilities have no host
 */
export function parseHypervisor(capabilities: string, versions: string): Hypervisor {
  // Text: the document is large, and libvirt writes each element on a line of its own.
  const host = /<host>.*?<\/host>/s.exec(capabilities)?.[0];
  const uuid = /<uuid>([^<]*)<\/uuid>/.exec(host ?? '')?.[1];
  if (host === undefined || uuid === undefined) {
    throw new KvmhaError('protocol', 'virsh capabilities tells of no host');
  }
  const cpu = /<cpu>.*?<\/cpu>/s.exec(host)?.[0] ?? '';
  const model = /<model>([^<]*)<\/model>/.exec(cpu)?.[1] ?? 'unknown';
  const vendor = /<vendor>([^<]*)<\/vendor>/.exec(cpu)?.[1] ?? '';
  const features = [...cpu.matchAll(/<feature name='([^']*)'/g)].map((match) => match[1] ?? '');
  return {
    uuid: uuid.toLowerCase(),
    libvirtVersion: /^Running against daemon: (\S+)/m.exec(versions)?.[1],
    qemuVersion: /^Running hypervisor: QEMU (\S+)/m.exec(versions)?.[1],
    cpu: [vendor, model, ...features.sort()].join(' ').trim(),
    machineAliases: new Map(
      [...capabilities.matchAll(/<machine canonical='([^']*)'[^>]*>([^<]*)<\/machine>/g)].map(
        ([, canonical = '', alias = '']) => [alias, canonical],
      ),
    ),
    confinement: [...host.matchAll(/<secmodel>\s*<model>([^<]*)<\/model>/g)].flatMap(([, name]) =>
      name === undefined || name === 'dac' || name === 'none' ? [] : [name],
    ),
  };
}

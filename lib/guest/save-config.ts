import { chownSync, realpathSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import type { Deadline } from '../deadline.ts';
import { isKvmhaError, messageOf } from '../error.ts';
import { parseDomainXml, withoutAdditions } from '../libvirt/domain-xml.ts';
import type { Log } from '../log.ts';
import { runChecked } from '../run.ts';
import { readTextFile } from '../text-file.ts';
import type { Guest } from './guest.ts';

/** More than any domain XML needs, in bytes. */
const MAX_XML = 1024 * 1024;

/**
 * Saves the running guest's configuration to its file, without what a start adds to it, where it has changed; with
 * `sync` it is then sent to the other nodes by csync2. That this fails fails no action: the file stays as it was.
 */
export async function saveConfig(
  guest: Guest,
  uuid: string,
  config: string,
  sync: boolean,
  deadline: Deadline,
  log: Log,
): Promise<void> {
  try {
    const dumped = await guest.virsh.command(['dumpxml', '--inactive', '--security-info', uuid], deadline);
    const { text: present } = await readTextFile(config, MAX_XML);
    const text = await withoutAdditions(dumped, present);
    if (text === present) {
      return;
    }
    await parseDomainXml(text, 'the configuration that libvirt gave');
    replaceFile(config, text);
    log.info(`${guest.name}: saved its configuration to ${config}`);
    if (sync) {
      await runChecked('csync2', ['-x', config], { deadline });
    }
  } catch (error) {
    if (!isKvmhaError(error) && !(error instanceof Error && 'errno' in error)) {
      throw error;
    }
    log.warn(`${guest.name}: its configuration was not saved to ${config}: ${messageOf(error)}`);
  }
}

/** Whole or not at all, and with the owner and mode it had. */
function replaceFile(path: string, text: string): void {
  const target = realpathSync(path);
  const { mode, uid, gid } = statSync(target);
  const draft = `${target}.kvmha`;
  try {
    rmSync(draft, { force: true });
    writeFileSync(draft, text, { mode: mode & 0o777, flag: 'wx', flush: true });
    chownSync(draft, uid, gid);
    renameSync(draft, target);
  } catch (error) {
    rmSync(draft, { force: true });
    throw error;
  }
}

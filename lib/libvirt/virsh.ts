import type { Deadline } from '../deadline.ts';
import { isKvmhaError, KvmhaError, messageOf } from '../error.ts';
import { isObject, type Json, type Monitor, QmpError } from '../qemu/qmp.ts';
import { type Output, run } from '../run.ts';
import type { LibvirtView } from '../state/observation.ts';

/** What libvirt is doing with a domain beside running it. */
export type DomainJob = 'none' | 'incoming-migration' | 'outgoing-migration' | 'other';

/**
 * libvirt, through virsh: for what changes domains, and where a guest's own monitor does not answer.
 *
 * Domains are named by their uuid wherever that is known. virsh takes a name that is a number for a domain's id,
 * and would so act on another guest.
 */
export class Virsh {
  readonly uri: string;

  /** @param uri of the connection, as `virsh --connect` takes it */
  constructor(uri: string) {
    this.uri = uri;
  }

  /**
   * Runs one virsh command and returns its output.
   *
   * @throws KvmhaError `unreachable` when the daemon refuses, `no-domain` when it does not know the domain,
   *   `program-failed` for every other failure, `deadline` when virsh hung and was killed, `program-missing`
   */
  async command(words: readonly string[], deadline: Deadline, input?: string): Promise<string> {
    const output = await run('virsh', ['--connect', this.uri, '--quiet', ...words], {
      deadline,
      what: `virsh ${words[0] ?? ''}`,
      ...(input === undefined ? {} : { input }),
    });
    if (output.exitCode !== 0) {
      throw failureOf(words, output);
    }
    return output.stdout;
  }

  /** Every domain that libvirt knows, active or not. */
  async domains(deadline: Deadline): Promise<{ readonly name: string; readonly uuid: string }[]> {
    return parseDomains(await this.command(['list', '--all', '--uuid', '--name'], deadline));
  }

  /**
   * The uuid of the domain of exactly this name.
   *
   * @returns undefined when libvirt has none of that name
   */
  async uuidOf(name: string, deadline: Deadline): Promise<string | undefined> {
    return (await this.domains(deadline)).find((domain) => domain.name === name)?.uuid;
  }

  /** What libvirt says of a domain; that it says nothing is a view, too. */
  async look(uuid: string, deadline: Deadline): Promise<LibvirtView> {
    try {
      return parseState(await this.command(['domstate', '--reason', uuid], deadline));
    } catch (error) {
      if (isKvmhaError(error, 'no-domain')) {
        return { kind: 'no-domain' };
      }
      if (isKvmhaError(error)) {
        return { kind: 'silent', why: messageOf(error) };
      }
      throw error;
    }
  }

  /** The job (migration, save, dump) that libvirt has on the domain, by `virsh domjobinfo`. */
  async job(uuid: string, deadline: Deadline): Promise<DomainJob> {
    let text: string;
    try {
      text = await this.command(['domjobinfo', uuid], deadline);
    } catch (error) {
      // qemuDomainGetJobStatsInternal in src/qemu/qemu_driver.c: that is how it tells of the target's side.
      if (isKvmhaError(error, 'program-failed') && /available only on the source host/.test(error.message)) {
        return 'incoming-migration';
      }
      throw error;
    }
    return parseJob(text);
  }

  /** The facts of `virsh dominfo`, by the names it prints. */
  async information(uuid: string, deadline: Deadline): Promise<ReadonlyMap<string, string>> {
    return parseInformation(await this.command(['dominfo', uuid], deadline));
  }
}

/** What `virsh list --uuid --name` prints: a uuid, one blank, and the name, which can begin or end with blanks. */
export function parseDomains(text: string): { readonly name: string; readonly uuid: string }[] {
  return text.split('\n').flatMap((line) => {
    const [, uuid, name] = /^([0-9a-f-]{36}) (.+)$/.exec(line) ?? [];
    return uuid === undefined || name === undefined ? [] : [{ uuid, name }];
  });
}

/** What `virsh domstate --reason` prints: "paused (I/O error)". What has another form is a state that nobody knows. */
export function parseState(text: string): Extract<LibvirtView, { kind: 'state' }> {
  const said = text.trim();
  const [, state = said, reason = ''] = /^([^(\n]*?)(?: \((.*)\))?$/.exec(said) ?? [];
  return { kind: 'state', state: state.slice(0, MAX_WORDS), reason: reason.slice(0, MAX_WORDS) };
}

/** What `virsh domjobinfo` prints. */
export function parseJob(text: string): DomainJob {
  if (/^Job type:\s*None\s*$/m.test(text)) {
    return 'none';
  }
  return /^Operation:\s*Outgoing migration\s*$/m.test(text) ? 'outgoing-migration' : 'other';
}

/** What `virsh dominfo` prints, a fact on each line. */
export function parseInformation(text: string): ReadonlyMap<string, string> {
  return new Map(
    text.split('\n').flatMap((line): [string, string][] => {
      const [, name, value] = /^([^:]+):\s*(.*)$/.exec(line) ?? [];
      return name === undefined || value === undefined ? [] : [[name, value]];
    }),
  );
}

/** A guest's QMP through libvirt's own monitor, for guests that were started without one of ours. */
export class LibvirtMonitor implements Monitor {
  readonly #virsh: Virsh;
  readonly #uuid: string;

  constructor(virsh: Virsh, uuid: string) {
    this.#virsh = virsh;
    this.#uuid = uuid;
  }

  async execute(command: string, args: { readonly [key: string]: Json }, deadline: Deadline): Promise<Json> {
    const request = JSON.stringify({ execute: command, arguments: args });
    const text = await this.#virsh.command(['qemu-monitor-command', this.#uuid, request], deadline);
    let reply: Json;
    try {
      reply = JSON.parse(text) as Json;
    } catch (cause) {
      throw new KvmhaError('protocol', `${command}: libvirt passed on something that is not JSON`, { cause });
    }
    const error = isObject(reply) ? reply['error'] : undefined;
    if (isObject(error)) {
      throw QmpError.from(command, error);
    }
    if (!isObject(reply) || reply['return'] === undefined) {
      throw new KvmhaError('protocol', `${command}: the reply has neither return nor error`);
    }
    return reply['return'];
  }

  close(): void {
    // Every command is a connection of its own.
  }
}

/** More of its words than anybody reads: of XML that it does not accept, virsh shows the line. */
const MAX_WORDS = 600;

/** virsh exits 1 for every failure and says the kind in words only (C locale). */
function failureOf(words: readonly string[], output: Output): KvmhaError {
  const said = output.stderr
    .replace(/^error: /gm, '')
    .replace(/\s+/g, ' ')
    .trim()
    .slice(0, MAX_WORDS);
  const message = `virsh ${words[0] ?? ''}: ${said === '' ? `exited ${output.exitCode}` : said}`;
  if (
    /failed to connect to the hypervisor|Failed to connect socket|Cannot recv data|End of file while|Disconnected from|client socket is closed/i.test(
      said,
    )
  ) {
    return new KvmhaError('unreachable', message);
  }
  if (/failed to get domain|Domain not found|no domain with matching/i.test(said)) {
    return new KvmhaError('no-domain', message);
  }
  return new KvmhaError('program-failed', message);
}

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { Deadline } from '../../lib/deadline.ts';
import type { Output } from '../../lib/run.ts';
import { runChecked } from '../../lib/run.ts';
import { type Domain, domainXml } from '../guest/domain.ts';
import type { LabNode } from '../lab/client.ts';

const PROJECT = resolve(import.meta.dirname, '../..');

/** Where Pacemaker finds the agent. */
export const AGENT = '/usr/lib/ocf/resource.d/kvmha/KvmGuest';

/** Milliseconds in which an action must answer, where nothing else is said. */
const TIMEOUT = '60000';

/** A tree with the installed agent, for `Lab.up({ install })`; to be disposed of. */
export async function installedTree(): Promise<{ path: string } & AsyncDisposable> {
  const path = mkdtempSync(join(tmpdir(), 'kvmha-install-'));
  await runChecked('make', ['-C', PROJECT, '--no-print-directory', 'install', `DESTDIR=${path}`], {
    deadline: Deadline.in(120_000),
  });
  return {
    path,
    async [Symbol.asyncDispose]() {
      rmSync(path, { recursive: true, force: true });
    },
  };
}

export interface Answer extends Output {
  /** What the cluster would show: the text of the last `ocf-exit-reason:` line. */
  readonly reason: string | undefined;
}

/** What an action is called with. */
export interface Call {
  /** Parameters beside `config`. */
  readonly parameters?: Readonly<Record<string, string>>;
  /** Meta attributes (OCF_RESKEY_CRM_meta_...), as in `timeout: '20000'`. */
  readonly meta?: Readonly<Record<string, string>>;
  /** Further variables. */
  readonly env?: Readonly<Record<string, string>>;
  /** A program that runs the agent, with its arguments before those of the agent, as strace(1) does. */
  readonly under?: readonly string[];
}

/** A guest of one name as a resource, called as Pacemaker calls the agent, on any node of a lab. */
export class Resource {
  readonly domain: Domain;
  readonly config: string;
  readonly parameters: Readonly<Record<string, string>>;

  /** @param domain whose XML lies in the directory that all nodes share */
  constructor(domain: Domain, parameters: Readonly<Record<string, string>> = {}) {
    this.domain = domain;
    this.config = `/shared/${domain.name}.xml`;
    this.parameters = parameters;
  }

  /** Writes the domain's XML. */
  configure(node: LabNode): void {
    node.write(this.config, domainXml(this.domain));
  }

  /** Calls the agent. A monitor is a recurring one unless `meta.interval` says 0. */
  async call(node: LabNode, action: string, call: Call = {}): Promise<Answer> {
    const output = await node.exec([...(call.under ?? []), AGENT, action], {
      env: this.environment(action, call),
      // An action that has not answered by then has failed: so Pacemaker ends it.
      timeout: Number(call.meta?.['timeout'] ?? TIMEOUT),
    });
    const reasons = [...output.stderr.matchAll(/^ocf-exit-reason:(.*)$/gm)];
    return { ...output, reason: reasons.at(-1)?.[1] };
  }

  /** The environment in which `call` calls the agent. */
  environment(action: string, call: Call = {}): Record<string, string> {
    const parameters = { config: this.config, ...this.parameters, ...call.parameters };
    const meta = { timeout: TIMEOUT, ...(action === 'monitor' ? { interval: '10000' } : {}), ...call.meta };
    return {
      OCF_ROOT: '/usr/lib/ocf',
      OCF_RA_VERSION_MAJOR: '1',
      OCF_RESOURCE_INSTANCE: this.domain.name,
      __OCF_ACTION: action,
      HA_LOGFILE: '/var/log/agent.log',
      ...prefixed('OCF_RESKEY_', parameters),
      ...prefixed('OCF_RESKEY_CRM_meta_', meta),
      ...call.env,
    };
  }

  /** A probe: a monitor with interval 0. */
  probe(node: LabNode, call: Call = {}): Promise<Answer> {
    return this.call(node, 'monitor', { ...call, meta: { ...call.meta, interval: '0' } });
  }

  /** What libvirt says of the domain: "paused (I/O error)", or "" when it does not know it. */
  async state(node: LabNode): Promise<string> {
    const { stdout } = await node.exec(['virsh', 'domstate', '--reason', this.domain.name]);
    return stdout.trim();
  }

  /** The pid of the domain's qemu as the node sees it. */
  async pid(node: LabNode): Promise<number | undefined> {
    const { stdout } = await node.exec(['pgrep', '-f', `guest=${this.domain.name},`]);
    return stdout.trim() === '' ? undefined : Number(stdout.trim().split('\n')[0]);
  }
}

function prefixed(prefix: string, values: Readonly<Record<string, string>>): Record<string, string> {
  return Object.fromEntries(Object.entries(values).map(([name, value]) => [`${prefix}${name}`, value]));
}

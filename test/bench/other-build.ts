import { copyFileSync } from 'node:fs';
import { InvalidArgumentError, Option } from 'commander';
import type { LabNode } from '../lab/client.ts';
import { AGENT } from '../support/agent.ts';

/** A build of the agent. */
export interface Build {
  readonly who: string;
  /** The agent in the node. */
  readonly agent: string;
}

/** Another build than build/kvmha, as an option names it. */
export interface OtherBuild {
  readonly name: string;
  readonly binary: string;
}

/** The option by which a benchmark is told to measure another build, too. */
export function alsoOption(): Option {
  return new Option(
    '--also <name=binary>',
    'another build of kvmha, to be compared with build/kvmha',
  ).argParser((text): OtherBuild => {
    const [, name, binary] = /^([^=]+)=(.+)$/.exec(text) ?? [];
    if (name === undefined || binary === undefined) {
      throw new InvalidArgumentError('It is NAME=BINARY.');
    }
    return { name, binary };
  });
}

/** Brings another build into a node, in which build/kvmha is installed. @returns all there are */
export async function buildsIn(node: LabNode, other: OtherBuild | undefined): Promise<Build[]> {
  const installed = { who: 'KvmGuest', agent: AGENT };
  if (other === undefined) {
    return [installed];
  }
  const directory = '/root/other';
  await node.check(['mkdir', '-p', directory]);
  copyFileSync(other.binary, node.path(`${directory}/KvmGuest`));
  return [installed, { who: `KvmGuest, ${other.name}`, agent: `${directory}/KvmGuest` }];
}

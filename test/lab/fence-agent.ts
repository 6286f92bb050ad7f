import { appendFileSync, readFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { parseArgs } from 'node:util';
import { Deadline } from '../../lib/deadline.ts';
import { messageOf } from '../../lib/error.ts';
import { askPower } from './power-protocol.ts';

/**
 * The nodes' fence agent, installed as /usr/sbin/fence_kvmha_lab: it asks the lab's power switch, and writes each
 * call and its end with the time into /shared/fence.log. Pacemaker hands parameters over as lines on standard input; people and
 * tools may use options instead.
 */
const SOCKET = '/run/lab/power.sock';
const LOG = '/shared/fence.log';
const TIMEOUT = 40_000;

const METADATA = `\
<?xml version="1.0" ?>
<resource-agent name="fence_kvmha_lab" shortdesc="Power switch of the kvmha test lab">
  <longdesc>Switches the nodes of a kvmha test lab. Of no use anywhere else.</longdesc>
  <vendor-url/>
  <parameters>
    <parameter name="action" unique="0" required="1">
      <getopt mixed="-o, --action=[action]"/>
      <content type="string" default="reboot"/>
      <shortdesc lang="en">Fencing action</shortdesc>
    </parameter>
    <parameter name="plug" unique="0" required="1" obsoletes="port">
      <getopt mixed="-n, --plug=[name]"/>
      <content type="string"/>
      <shortdesc lang="en">Name of the node</shortdesc>
    </parameter>
    <parameter name="port" unique="0" required="1" deprecated="1">
      <getopt mixed="-n, --plug=[name]"/>
      <content type="string"/>
      <shortdesc lang="en">Name of the node</shortdesc>
    </parameter>
  </parameters>
  <actions>
    <action name="on" automatic="0"/>
    <action name="off"/>
    <action name="reboot"/>
    <action name="status"/>
    <action name="list"/>
    <action name="monitor"/>
    <action name="metadata"/>
    <action name="validate-all"/>
  </actions>
</resource-agent>
`;

/** @returns the exit code; status answers 2 for a node that is off, as fence agents do */
async function fence(action: string, plug: string): Promise<number> {
  const deadline = Deadline.in(TIMEOUT);
  switch (action) {
    case 'metadata':
      process.stdout.write(METADATA);
      return 0;
    case 'validate-all':
      return 0;
    case 'monitor':
      await askPower(SOCKET, 'list', deadline);
      return 0;
    case 'list': {
      const names = await askPower(SOCKET, 'list', deadline);
      process.stdout.write(names.replace(/(\S+) ?/g, '$1,\n'));
      return 0;
    }
    case 'status':
      return (await askPower(SOCKET, `status ${plug}`, deadline)).startsWith('on') ? 0 : 2;
    case 'on':
    case 'off':
    case 'reboot':
      await askPower(SOCKET, `${action} ${plug}`, deadline);
      return 0;
    default:
      throw new Error(`unknown action ${action}`);
  }
}

/** Options as the documented ones of fence agents, or `name=value` lines. */
function parameters(args: string[]): Readonly<Record<string, string | undefined>> {
  if (args.length > 0) {
    const options = {
      action: { type: 'string', short: 'o' },
      plug: { type: 'string', short: 'n' },
    } as const;
    return parseArgs({ args, options }).values;
  }
  const pairs = readFileSync(0, 'utf8')
    .split('\n')
    .map((line) => /^([^=]+)=(.*)$/.exec(line))
    .filter((match) => match !== null);
  return Object.fromEntries(pairs.map(([, name, value]) => [name, value]));
}

function tell(text: string): void {
  try {
    appendFileSync(LOG, `${new Date().toISOString()} ${hostname()} ${text}\n`);
  } catch {
    // Fencing matters more than its log.
  }
}

const given = parameters(process.argv.slice(2));
const action = given['action'] ?? given['option'] ?? 'reboot';
const plug = given['plug'] ?? given['port'] ?? given['nodename'] ?? '';
const what = `${action} ${plug}`.trim();
tell(what);
try {
  process.exitCode = await fence(action, plug);
} catch (error) {
  console.error(messageOf(error));
  process.exitCode = 1;
}
tell(`${what} exits ${process.exitCode}`);

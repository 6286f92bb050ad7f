/**
 * Measures how long a guest does not write after a fault, what is fenced and who is rebooted: under KvmGuest with its
 * monitor alone, KvmGuest with the watcher, and VirtualDomain, in one cluster of three nodes.
 * node test/bench/failover.ts --help
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { Command } from 'commander';
import { Cluster } from '../cluster/support.ts';
import { block } from '../support/documentation.ts';
import { plot } from './failover/plot.ts';
import {
  AGENTS,
  type AgentName,
  FAULTS,
  type FaultName,
  measure,
  type Outcome,
  setWatcher,
} from './failover/run.ts';
import { markdown, summarize } from './failover/summary.ts';
import { machine } from './machine.ts';
import { someOf, toCount } from './options.ts';
import { runProgram } from './program.ts';

interface Options {
  readonly runs: number;
  readonly faults: readonly FaultName[];
  readonly agents: readonly AgentName[];
  readonly from?: string;
  readonly json?: string;
  readonly svg?: string;
}

/** What is kept of a measurement. */
interface Measurement {
  /** On what it was measured. */
  readonly on: string;
  readonly date: string;
  readonly outcomes: readonly Outcome[];
}

/** Every run is a fault of its own, and none must be held because there were others before. */
const POLICY = 'quiesce:\n  storm: { guests: 1000, seconds: 1 }\n';

async function measureAll({ runs, faults, agents }: Options): Promise<Measurement> {
  await using cluster = await Cluster.up();
  // The first node is the one that is lost.
  cluster.observer = cluster.node(2);
  for (const node of cluster.lab.nodes) {
    node.write('/etc/kvmha/policy.yaml', POLICY);
  }
  await cluster.configure('rsc_defaults resource-stickiness=1000\n');
  await cluster.sh(block('README.md', 'crm configure primitive kvm-watch'));
  const outcomes: Outcome[] = [];
  for (const agent of agents) {
    await setWatcher(cluster, AGENTS[agent].watcher);
    for (const fault of faults) {
      for (let run = 0; run < runs; run += 1) {
        const name = `${agent}-${fault}-${run + 1}`;
        const outcome = await measure(cluster, { agent, fault, name, phase: (run + 0.5) / runs });
        console.error(`${name}: ${JSON.stringify(outcome)}`);
        outcomes.push(outcome);
      }
    }
  }
  return {
    on: `three nodes on ${await machine(cluster.node(1))}`,
    date: new Date().toISOString().slice(0, 10),
    outcomes,
  };
}

const program = new Command('failover')
  .description('Measures how long a guest does not write after a fault, in a lab on this machine (as root).')
  .option(
    '--runs <number>',
    'how often each fault comes, at moments spread over the monitor interval',
    toCount,
    3,
  )
  .addOption(someOf('--faults <names>', 'which faults', Object.keys(FAULTS) as FaultName[]))
  .addOption(someOf('--agents <names>', 'under what', Object.keys(AGENTS) as AgentName[]))
  .option('--from <file>', 'show what was measured before and kept with --json, and measure nothing')
  .option('--json <file>', 'keep what was measured')
  .option('--svg <file>', 'draw it')
  .action(async (options: Options) => {
    const measured: Measurement =
      options.from === undefined ? await measureAll(options) : JSON.parse(readFileSync(options.from, 'utf8'));
    const { on, date, outcomes } = measured;
    const summaries = summarize(outcomes);
    console.log(`Measured on ${date}: ${on}\n\n${markdown(summaries)}`);
    if (options.json !== undefined) {
      writeFileSync(options.json, `${JSON.stringify(measured, null, 2)}\n`);
    }
    if (options.svg !== undefined) {
      writeFileSync(options.svg, plot(summaries, `Measured on ${date}: ${on}`));
    }
  });

await runProgram(program);

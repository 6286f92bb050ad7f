import { hostname } from 'node:os';
import { Deadline } from '../../lib/deadline.ts';
import { isKvmhaError, messageOf } from '../../lib/error.ts';
import type { Health, HostHealth } from '../../lib/host/health.ts';
import { HealthKeeper, isTold, readHostHealth } from '../../lib/host/keeper.ts';
import { Journal } from '../../lib/journal.ts';
import { print } from '../output.ts';
import { demandRoot } from './chosen.ts';
import { ConsoleLog, plain } from './console.ts';
import { EXIT, type ExitCode } from './exit.ts';
import { moment } from './table.ts';

/** @param patience seconds */
export async function hostHealth(
  colour: Health | undefined,
  { reason, json }: { readonly reason: string; readonly json?: true },
  patience: number,
): Promise<ExitCode> {
  demandRoot();
  const state = colour === undefined ? readHostHealth() : await set(colour, reason, patience);
  if (json) {
    const { health, since, why, byOperator, told, untold, totals, missed, recent } = state;
    const report = { node: hostname(), health, since, why, byOperator, told, untold, totals, missed, recent };
    print(`${JSON.stringify(report, null, 2)}\n`);
  } else {
    print(renderHealth(state));
  }
  const isWell = colour === undefined ? state.health === 'green' : isTold(state);
  return isWell ? EXIT.DONE : EXIT.FAILED;
}

async function set(health: Health, reason: string, patience: number): Promise<HostHealth> {
  const log = new ConsoleLog();
  const journal = new Journal('command', log);
  try {
    return await new HealthKeeper(log, journal).declare(health, reason, Deadline.in(patience * 1000));
  } finally {
    await journal.settled();
  }
}

/** This node's health for people. */
export function renderHealth(state: HostHealth): string {
  const { since, recent, totals, missed } = state;
  const counts = Object.entries(totals).filter(([, count]) => count > 0);
  const lines = [
    healthInWords(state) ??
      `health of ${hostname()}: green${since === null ? '' : ` since ${moment(since)}`}`,
    `errors since boot: ${counts.map(([severity, count]) => `${count} ${severity}`).join(', ') || 'none'}` +
      (missed === 0 ? '' : `, and at least ${missed} that came too fast`),
    ...recent.map(({ time, words }) => `  ${moment(time)}  ${words}`),
  ];
  return lines.map((line) => `${line.startsWith('  ') ? `  ${plain(line)}` : plain(line)}\n`).join('');
}

/** What an operator must know of this node's health, for a list of what is wrong. */
export function hostProblems(): string[] {
  try {
    const words = healthInWords(readHostHealth());
    return words === undefined ? [] : [words];
  } catch (error) {
    if (!isKvmhaError(error)) {
      throw error;
    }
    return [`this node's health is not known: ${messageOf(error)}`];
  }
}

/** What an operator must know of this node's health; undefined when it is green, and the cluster knows. */
function healthInWords(state: HostHealth): string | undefined {
  const { health, since, why, untold } = state;
  if (health === 'green' && isTold(state)) {
    return undefined;
  }
  const cause = why === null || health === 'green' ? '' : `: ${why}`;
  const secret = isTold(state)
    ? ''
    : `; the cluster was not told${untold === null ? '' : `, ${untold}`}, and is as soon as it can be`;
  const next = health === 'green' ? '' : '. When it is mended: "kvmha host-health green"';
  return `health of ${hostname()}: ${health} since ${moment(since ?? '')}${cause}${secret}${next}`;
}

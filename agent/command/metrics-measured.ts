import { isKvmhaError } from '../../lib/error.ts';
import { knownGuests } from '../../lib/guest/known-guests.ts';
import { readHostHealth } from '../../lib/host/keeper.ts';
import { localJournal } from '../../lib/timeline/sources.ts';
import { version } from '../built-in.ts';
import { print } from '../output.ts';
import { deadlineOf, demandRoot } from './chosen.ts';
import { EXIT, type ExitCode } from './exit.ts';
import { exposition } from './exposition.ts';
import type { CommonOptions } from './main.ts';
import { familiesOf, type Measured } from './metrics-families.ts';
import { reportOnAll } from './report.ts';
import { watcherHere } from './watcher-here.ts';
import { writeWhole } from './whole-file.ts';

export interface MetricsOptions extends CommonOptions {
  readonly output?: string;
}

/** `kvmha metrics`: what this node is like, for Prometheus. */
export async function metrics(options: MetricsOptions): Promise<ExitCode> {
  demandRoot();
  const deadline = deadlineOf(options);
  const [known, watcher, journal] = await Promise.all([
    knownGuests(options.connect, deadline),
    watcherHere(deadline),
    journalHere(),
  ]);
  const text = exposition(
    familiesOf({
      version: version(),
      libvirtAnswers: known.libvirtSilent === undefined,
      problems: known.problems.length,
      guests: (await reportOnAll(known.guests, deadline)).map(({ report }) => report),
      watcher,
      host: hostHere(),
      journal,
    }),
  );
  if (options.output === undefined) {
    print(text);
  } else {
    // The node exporter, a user of its own, reads whatever is called *.prom in its folder, but not the draft.
    writeWhole(options.output, text, 0o644);
  }
  return EXIT.DONE;
}

function hostHere(): Measured['host'] {
  try {
    return readHostHealth();
  } catch (error) {
    if (isKvmhaError(error)) {
      return undefined;
    }
    throw error;
  }
}

async function journalHere(): Promise<Measured['journal']> {
  try {
    const sources = await localJournal('');
    return {
      lines: sources.flatMap(({ lines }) => lines),
      malformed: sources.reduce((sum, { malformed }) => sum + malformed.length, 0),
      readable: true,
    };
  } catch (error) {
    if (isKvmhaError(error)) {
      return { lines: [], malformed: 0, readable: false };
    }
    throw error;
  }
}

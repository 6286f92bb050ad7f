import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type JournalLine, merged, parseJournal } from '../../../lib/timeline/journal-lines.ts';

/** The folder of the journals that two nodes of a lab wrote when a guest, \`db\`, failed over from node2 to node1. */
export const RECORDED = join(import.meta.dirname, 'recorded');

/** Their lines, in the order of time. */
export function recordedLines(): JournalLine[] {
  const lines = ['node1', 'node2'].flatMap(
    (node) => parseJournal(readFileSync(join(RECORDED, `${node}.jsonl`), 'utf8'), node).lines,
  );
  return merged(lines, { since: undefined, guests: [] });
}

/** A line of a journal (lib/journal.ts), as far as every line has it. */
export interface JournalLine {
  /** ISO 8601: when it happened, by the clock of its node; that is earlier than when it was written. */
  readonly time: string;
  readonly node: string;
  /** Which part of kvmha wrote it: `agent`, `watcher`, `command`. */
  readonly by: string;
  readonly what: string;
  readonly guest: string | null;
  readonly uuid: string | null;
  readonly resource: string | null;
  /** All that the line says. */
  readonly entry: Readonly<Record<string, unknown>>;
}

/** A line that is none: counted from 1, and what is wrong with it. */
export interface Malformed {
  readonly line: number;
  readonly why: string;
}

/**
 * Reads the text of a journal. Empty lines are left out; what is no line of a journal is named, and is no failure: a
 * node that is fenced while it writes leaves half a line.
 *
 * @param node whose journal it is, for lines that do not say it themselves
 */
export function parseJournal(
  text: string,
  node: string,
): { readonly lines: JournalLine[]; readonly malformed: Malformed[] } {
  const lines: JournalLine[] = [];
  const malformed: Malformed[] = [];
  for (const [index, content] of text.split('\n').entries()) {
    if (content.trim() === '') {
      continue;
    }
    const line = readLine(content, node);
    if (typeof line === 'string') {
      malformed.push({ line: index + 1, why: line });
    } else {
      lines.push(line);
    }
  }
  return { lines, malformed };
}

/** @returns what is wrong where it is no line of a journal */
function readLine(content: string, node: string): JournalLine | string {
  let value: unknown;
  try {
    value = JSON.parse(content);
  } catch {
    return 'it is not JSON';
  }
  return typeof value === 'object' && value !== null && !Array.isArray(value)
    ? journalLine(value as Record<string, unknown>, node)
    : 'it is no JSON object';
}

/** The line that an entry is; what is wrong with it where it is none. */
export function journalLine(entry: Readonly<Record<string, unknown>>, node: string): JournalLine | string {
  const said = (name: string) => (typeof entry[name] === 'string' ? entry[name] : undefined);
  const time = timeOf(said('at')) ?? timeOf(said('time'));
  const what = said('what');
  if (time === undefined) {
    return 'it has no time';
  }
  if (what === undefined) {
    return 'it does not say what happened';
  }
  return {
    time,
    node: said('node') ?? node,
    by: said('by') ?? 'unknown',
    what,
    guest: said('guest') ?? null,
    uuid: said('uuid') ?? null,
    resource: said('resource') ?? null,
    entry,
  };
}

function timeOf(text: string | undefined): string | undefined {
  const milliseconds = text === undefined ? Number.NaN : Date.parse(text);
  return Number.isNaN(milliseconds) ? undefined : new Date(milliseconds).toISOString();
}

/** What is to be told of all that happened. */
export interface Choice {
  /** ISO 8601; undefined for everything. */
  readonly since: string | undefined;
  /** Names, uuids or resources; empty for everything, what happened to the hosts included. */
  readonly guests: readonly string[];
}

/**
 * The chosen lines of several journals in the order of time; what happened at one moment stays in its order. A line
 * that is there twice, because a journal was given twice, counts once.
 */
export function merged(lines: readonly JournalLine[], { since, guests }: Choice): JournalLine[] {
  // Only some lines name the resource, and others only the name.
  const names = new Set(
    lines
      .filter(({ guest, uuid, resource }) =>
        guests.some(
          (each) => each === guest || each === resource || each.toLowerCase() === uuid?.toLowerCase(),
        ),
      )
      .map(({ guest }) => guest),
  );
  const known = new Set<string>();
  return lines
    .filter(({ node, entry }) => {
      const key = JSON.stringify([node, entry]);
      return known.size < known.add(key).size;
    })
    .filter(
      ({ time, guest }) =>
        (since === undefined || time >= since) && (guests.length === 0 || names.has(guest)),
    )
    .sort((one, other) => (one.time < other.time ? -1 : one.time > other.time ? 1 : 0));
}

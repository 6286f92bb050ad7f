import { readdir, readFile, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import type { Deadline } from '../deadline.ts';
import { errnoOf, isKvmhaError, KvmhaError, messageOf } from '../error.ts';
import { JOURNAL } from '../journal.ts';
import { run } from '../run.ts';
import { type JournalLine, journalLine, type Malformed, parseJournal } from './journal-lines.ts';

/** What one journal told. */
export interface Source {
  /** Its path, or of which node it was fetched. */
  readonly name: string;
  readonly node: string;
  readonly lines: readonly JournalLine[];
  readonly malformed: readonly Malformed[];
}

/** More than a journal grows to, by far: what is larger is none. */
const MAX_BYTES = 256 * 1024 * 1024;

/** A journal and what was rotated away. */
const JOURNAL_FILE = /^events\.jsonl(\.\d+)?$/;

/**
 * The journal of this node and what was rotated away.
 *
 * @param node this node's name
 * @throws KvmhaError `file` when it cannot be read; there may be none yet
 */
export async function localJournal(node: string, path = JOURNAL): Promise<Source[]> {
  return readFolder(dirname(path), node);
}

/**
 * A journal that was copied from some node: a file, or a folder that holds one, or a folder for each of several nodes.
 * The node is what stands before an equals sign, else the name of the folder that holds an `events.jsonl`, else that of
 * the file without its ending.
 *
 * @throws KvmhaError `file` when it is not there or cannot be read, `malformed` when it is too large or no file
 */
export async function copiedJournal(word: string): Promise<Source[]> {
  const [, named, path = word] = /^([^=/]+)=(.+)$/.exec(word) ?? [];
  if (!(await statOf(path)).isDirectory()) {
    const node =
      named ??
      (JOURNAL_FILE.test(basename(path)) ? folderName(path) : basename(path).replace(/\.jsonl.*$/, ''));
    return [await readSource(path, node)];
  }
  const sources = await readFolder(path, named ?? (basename(path) || path));
  if (sources.length > 0) {
    return sources;
  }
  const folders = (await entriesOf(path)).filter((entry) => entry.isDirectory());
  const below = await Promise.all(folders.map(({ name }) => readFolder(join(path, name), name)));
  if (below.flat().length === 0) {
    throw new KvmhaError('file', `${path} holds no events.jsonl, nor does a folder in it`);
  }
  return below.flat();
}

function folderName(path: string): string {
  return basename(dirname(path)) || dirname(path);
}

async function readFolder(folder: string, node: string): Promise<Source[]> {
  const names = (await entriesOf(folder)).map(({ name }) => name).filter((name) => JOURNAL_FILE.test(name));
  return Promise.all(names.sort().map((name) => readSource(join(folder, name), node)));
}

async function entriesOf(folder: string) {
  try {
    return await readdir(folder, { withFileTypes: true });
  } catch (cause) {
    if (errnoOf(cause) === 'ENOENT') {
      return [];
    }
    throw new KvmhaError('file', `${folder} cannot be read: ${messageOf(cause)}`, { cause });
  }
}

async function statOf(path: string) {
  try {
    return await stat(path);
  } catch (cause) {
    throw new KvmhaError('file', `${path} cannot be read: ${errnoOf(cause) ?? messageOf(cause)}`, { cause });
  }
}

async function readSource(path: string, node: string): Promise<Source> {
  const { size } = await statOf(path);
  if (size > MAX_BYTES) {
    throw new KvmhaError('malformed', `${path} has more than ${MAX_BYTES} bytes: it is no journal`);
  }
  try {
    return { name: path, node, ...parseJournal(await readFile(path, 'utf8'), node) };
  } catch (cause) {
    throw new KvmhaError('file', `${path} cannot be read: ${errnoOf(cause) ?? messageOf(cause)}`, { cause });
  }
}

/**
 * What the journal of another node tells, fetched by ssh, which must need no password.
 *
 * @param since ISO 8601
 * @throws KvmhaError when the node cannot be reached, or what it says is not understood
 */
export async function fetchedJournal(
  node: string,
  since: string | undefined,
  deadline: Deadline,
): Promise<Source[]> {
  const options = ['-o', 'BatchMode=yes', '-o', 'ConnectTimeout=5', '-T', '--', node];
  const command = [
    'kvmha',
    'timeline',
    '--local',
    '--json',
    ...(since === undefined ? [] : [`--since=${since}`]),
  ];
  const { exitCode, stdout, stderr } = await run('ssh', [...options, ...command], {
    deadline,
    what: `ssh ${node}`,
  });
  if (exitCode !== 0) {
    const words = stderr.replace(/\s+/g, ' ').trim() || 'it said nothing';
    throw new KvmhaError('unreachable', `ssh ${node} exited ${exitCode}: ${words}`);
  }
  return readTimeline(stdout, node);
}

/** What `kvmha timeline --json` printed on a node. @throws KvmhaError `protocol` */
export function readTimeline(text: string, node: string): Source[] {
  try {
    const { sources, events } = JSON.parse(text);
    const lines = events.map((event: { entry: Record<string, unknown> }) => journalLine(event.entry, node));
    const malformed: Malformed[] = sources.flatMap((source: Source) => source.malformed);
    if (lines.some((line: unknown) => typeof line === 'string')) {
      throw new KvmhaError('protocol', 'there is an event without a time');
    }
    return [{ name: `the journal of ${node}`, node, lines, malformed }];
  } catch (cause) {
    const why = isKvmhaError(cause) ? messageOf(cause) : 'that is not what kvmha timeline prints';
    throw new KvmhaError('protocol', `${node}: ${why}`, { cause });
  }
}

import type { Deadline } from '../deadline.ts';
import { ask, type NoAnswer, type Ordered, order } from './ask.ts';
import { configuredId } from './resource-id.ts';

/** More would not be read in crm_mon. */
const MAX_FAULT_LENGTH = 200;

/**
 * The transient node attribute that is 1 on a node with a preserved copy of the guest; location constraints name
 * it. All instances of a clone share it, as a constraint is on the clone as a whole.
 */
export function preservedAttribute(resource: string): string {
  return `kvmha-preserved-${configuredId(resource)}`;
}

/** The transient node attribute that says, in crm_mon -A, which fault the preserved copy has. */
export function faultAttribute(resource: string): string {
  return `kvmha-fault-${configuredId(resource)}`;
}

/** How a mark was set or removed; `remark` says what went wrong with the words for people. */
export type Marked = { readonly kind: 'done'; readonly remark?: string } | Exclude<Ordered, { kind: 'done' }>;

/** Milliseconds between two looks at whether a mark has arrived. */
const ARRIVAL_PAUSE = 50;
/** Milliseconds in which a mark has arrived unless attrd's own election goes on. */
const ARRIVAL_PATIENCE = 8000;

/**
 * Marks this node to keep a preserved copy of the guest: it is the constraint on this mark that keeps the healthy
 * one away. The mark is gone when the node, or its cluster software, stops; a probe that finds a preserved guest
 * sets it again. Measured: 15 to 30 ms for each of two calls, and it is in the CIB less than 60 ms later.
 *
 * Where the node's name is given, it returns only when the mark is in the CIB. The caller's answer gets there later,
 * then, and the scheduler never acts on the answer without the mark: a probe of a node that has just joined is
 * followed at once by the migration of the healthy guest to it, if it prefers that node.
 *
 * @param fault why, for people
 * @param node this node's name in the cluster; attrd knows it but on Pacemaker Remote nodes
 */
export async function markPreserved(
  resource: string,
  fault: string,
  deadline: Deadline,
  node?: string | undefined,
): Promise<Marked> {
  const words = `--update=${attributeText(fault)}`;
  const marked = await both(await update(preservedAttribute(resource), '--update=1', deadline, node), () =>
    update(faultAttribute(resource), words, deadline, node),
  );
  if (marked.kind !== 'done' || node === undefined) {
    return marked;
  }
  const patience = deadline.within(Math.min(ARRIVAL_PATIENCE, deadline.remaining() / 2));
  const arrived = await patience.poll(
    ARRIVAL_PAUSE,
    async () => (await isInCib(resource, node, patience)) || undefined,
  );
  return arrived === true
    ? marked
    : { kind: 'done', remark: 'the mark was set, but has not been seen in the CIB' };
}

/** Whether the scheduler would see the mark. attrd knows of it earlier. */
async function isInCib(resource: string, node: string, deadline: Deadline): Promise<boolean> {
  // Neither name can hold a quote: both are XML ids or node names of corosync.
  const mark = `//node_state[@uname='${node}']//nvpair[@name='${preservedAttribute(resource)}' and @value='1']`;
  const answer = await ask('cibadmin', ['--query', '--local', `--xpath=${mark}`], deadline);
  return answer.kind === 'answer' && answer.exitCode === 0;
}

/** Removes the mark that `markPreserved` sets. Removing one that is not there is no failure. */
export async function clearPreserved(
  resource: string,
  deadline: Deadline,
  node?: string | undefined,
): Promise<Marked> {
  return both(await update(preservedAttribute(resource), '--delete', deadline, node), () =>
    update(faultAttribute(resource), '--delete', deadline, node),
  );
}

/** Only the mark decides on placement: that the words beside it failed must not look as if it had. */
async function both(mark: Ordered, words: () => Promise<Ordered>): Promise<Marked> {
  if (mark.kind !== 'done') {
    return mark;
  }
  const outcome = await words();
  return outcome.kind === 'done' ? outcome : { kind: 'done', remark: outcome.why };
}

function update(
  attribute: string,
  command: string,
  deadline: Deadline,
  node: string | undefined,
): Promise<Ordered> {
  const where = node === undefined ? [] : [`--node=${node}`];
  return order('attrd_updater', [`--name=${attribute}`, command, ...where], deadline);
}

/**
 * Asks whether `node` is marked. A mark is seen a few milliseconds after it was set.
 *
 * @param node its name in the cluster
 */
export async function isMarked(
  resource: string,
  node: string,
  deadline: Deadline,
): Promise<
  { readonly kind: 'marked' } | { readonly kind: 'not-marked' } | Exclude<AttributeValue, { kind: 'value' }>
> {
  const answer = await queryAttribute(preservedAttribute(resource), node, deadline);
  return answer.kind === 'value' ? { kind: answer.value === '1' ? 'marked' : 'not-marked' } : answer;
}

export type AttributeValue =
  /** Undefined where the node does not have it. */
  | { readonly kind: 'value'; readonly value: string | undefined }
  | { readonly kind: 'failed'; readonly why: string }
  | NoAnswer;

/** The value of a transient attribute of `node`, as attrd has it: crm_mon hides those whose name begins with #. */
export async function queryAttribute(
  name: string,
  node: string,
  deadline: Deadline,
): Promise<AttributeValue> {
  const answer = await ask('attrd_updater', [`--name=${name}`, '--query', `--node=${node}`], deadline);
  if (answer.kind !== 'answer') {
    return answer;
  }
  if (answer.exitCode !== 0) {
    // Its exit code for that differs between versions, and is that of other failures, too.
    return /attribute does not exist|No such device/i.test(answer.said)
      ? { kind: 'value', value: undefined }
      : { kind: 'failed', why: `attrd_updater exited ${answer.exitCode}: ${answer.said}` };
  }
  const line = answer.stdout.split('\n').find((each) => each.includes(` host="${node}"`));
  return { kind: 'value', value: / value="([^"]*)"/.exec(line ?? '')?.[1] };
}

/**
 * Text fit for an attribute: printable ASCII on one line of at most 200 characters. attrd_updater refuses anything
 * else in the C locale, and crm_mon would print a terminal's control sequences as they are.
 */
export function attributeText(words: string): string {
  const line = words
    .replace(/\s+/g, ' ')
    .trim()
    .replace(/[^\x20-\x7e]/gu, '?');
  const text = line.length <= MAX_FAULT_LENGTH ? line : `${line.slice(0, MAX_FAULT_LENGTH - 3)}...`;
  return text === '' ? 'unknown' : text;
}

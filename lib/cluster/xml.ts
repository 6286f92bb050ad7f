import type { Element, Node } from '@xmldom/xmldom';
import { KvmhaError, messageOf } from '../error.ts';

/**
 * Reads the output of one of Pacemaker's programs with `--output-as=xml`
 * (https://github.com/ClusterLabs/pacemaker/tree/main/xml/api).
 *
 * @throws KvmhaError `malformed` when it is not XML with the root element `<pacemaker-result>`
 */
export async function parseResult(text: string): Promise<Element> {
  return parseAnswer(text, 'pacemaker-result');
}

/**
 * Reads what one of Pacemaker's programs printed.
 *
 * @param name of the root element
 * @throws KvmhaError `malformed` when it is not XML with that root element
 */
export async function parseAnswer(text: string, name: string): Promise<Element> {
  const root = await parseXml(text);
  if (root.tagName !== name) {
    throw new KvmhaError('malformed', `Pacemaker's answer is <${root.tagName}>, not <${name}>`);
  }
  return root;
}

/** Reads XML that one of Pacemaker's programs printed. @throws KvmhaError `malformed` */
export async function parseXml(text: string): Promise<Element> {
  // Loaded on first use: the cluster is asked only when something has happened to a guest.
  const { DOMParser } = await import('@xmldom/xmldom');
  const parser = new DOMParser({
    onError: (_level: string, message: string) => {
      throw new Error(message);
    },
  });
  let root: Element | null;
  try {
    root = parser.parseFromString(text, 'text/xml').documentElement;
  } catch (cause) {
    throw new KvmhaError('malformed', `Pacemaker's answer is not XML: ${messageOf(cause)}`, { cause });
  }
  if (root === null) {
    throw new KvmhaError('malformed', "Pacemaker's answer is not XML: it has no element");
  }
  return root;
}

/** The elements in `parent` that are called `name`; with a path (`nodes/node`), step by step. */
export function select(parent: Element, path: string): Element[] {
  return path
    .split('/')
    .reduce<Element[]>(
      (found, name) => found.flatMap((each) => elements(each).filter(({ tagName }) => tagName === name)),
      [parent],
    );
}

/** The elements in `parent`, in order. */
export function elements(parent: Element): Element[] {
  const found: Element[] = [];
  for (let node: Node | null = parent.firstChild; node !== null; node = node.nextSibling) {
    if (node.nodeType === node.ELEMENT_NODE) {
      found.push(node as Element);
    }
  }
  return found;
}

/** An attribute's text; undefined where there is none. */
export function text(element: Element | undefined, name: string): string | undefined {
  return element?.getAttribute(name) ?? undefined;
}

/** Whether an attribute is there and `true`. */
export function isTrue(element: Element | undefined, name: string): boolean {
  return element?.getAttribute(name) === 'true';
}

import { isAbsolute } from 'node:path';
import type { Document, Element, Node } from '@xmldom/xmldom';
import { KvmhaError, messageOf } from '../error.ts';
import { readTextFile } from '../text-file.ts';

/** What the domain XML (https://libvirt.org/formatdomain.html) says of a guest, as far as kvmha cares. */
export interface DomainXml {
  readonly name: string;
  /** In lower case with hyphens. Without one, libvirt makes up another at each start. */
  readonly uuid: string | undefined;
  readonly type: 'kvm' | 'qemu';
  readonly emulator: string | undefined;
  readonly disks: readonly DiskXml[];
  readonly on_crash: string | undefined;
  readonly on_reboot: string | undefined;
  /** The values of `<qemu:arg>`. */
  readonly qemuArguments: readonly string[];
}

/** A `<disk>`; an attribute that is not there is undefined. */
export interface DiskXml {
  /** libvirt takes a missing `device` for `disk`. */
  readonly device: string;
  readonly type: string | undefined;
  readonly source: {
    readonly file: string | undefined;
    readonly dev: string | undefined;
    readonly protocol: string | undefined;
    readonly name: string | undefined;
    readonly pool: string | undefined;
    readonly volume: string | undefined;
  };
  readonly driver: {
    readonly name: string | undefined;
    readonly type: string | undefined;
    readonly cache: string | undefined;
    readonly error_policy: string | undefined;
    readonly rerror_policy: string | undefined;
  };
  readonly readonly: boolean;
  readonly shareable: boolean;
  readonly target: { readonly dev: string | undefined; readonly bus: string | undefined };
}

export interface Additions {
  /** Absolute path of the UNIX socket on which QEMU is to offer a QMP monitor to the agent. */
  readonly agentSocket: string;
  /** The same for the watcher: a QMP monitor serves one client at a time. */
  readonly watcherSocket: string;
  /** Whether to set the error policies of disks that leave them open. */
  readonly setErrorPolicy: boolean;
  /** The UUID for a domain whose XML has none. */
  readonly uuid?: string;
}

/** More than any domain XML needs. */
const MAX_BYTES = 1024 * 1024;

const QEMU_NAMESPACE = 'http://libvirt.org/schemas/domain/qemu/1.0';
const XMLNS_NAMESPACE = 'http://www.w3.org/2000/xmlns/';

/** sun_path of unix(7) holds 108 bytes with the NUL at its end. */
const MAX_SOCKET_PATH_BYTES = 107;

/**
 * The buses whose QEMU device has error policies. vhost-user disks, floppies, CD drives and passed-through
 * devices are left alone: QEMU or libvirt refuses the setting, or it has no use there.
 */
const BUSES_WITH_ERROR_POLICY: readonly (string | undefined)[] = [
  undefined,
  'virtio',
  'scsi',
  'sata',
  'ide',
  'usb',
];

/**
 * Reads the domain XML file at `path`, UTF-8 and at most 1 MiB.
 *
 * @throws KvmhaError `file` when it cannot be read, `malformed` as `parseDomainXml` does
 */
export async function readDomainXml(path: string): Promise<DomainXml> {
  const { text } = await readTextFile(path, MAX_BYTES);
  return parseDomainXml(text, path);
}

/**
 * @param origin where the text is from, for the error's message
 * @throws KvmhaError `malformed` when the text is not well-formed, has a document type declaration (kvmha
 *   resolves no entities), or is not the XML of exactly one named domain of type kvm or qemu
 */
export async function parseDomainXml(text: string, origin: string): Promise<DomainXml> {
  return describeDomain(await parseDomain(text, origin));
}

/**
 * The element `<domain>` of a domain XML that `parseDomainXml` accepts.
 *
 * @throws KvmhaError as `parseDomainXml`
 */
export async function parseDomain(text: string, origin: string): Promise<Element> {
  return converting(origin, async () => {
    const domain = domainOf(await parse(text));
    describeDomain(domain);
    return domain;
  });
}

/**
 * The domain XML for `virsh create`: the operator's, and in addition
 *  - two QMP monitors, one for the agent and one for the watcher;
 *  - `error_policy='stop'` and `rerror_policy='stop'` on each disk that leaves them open, if wanted. Without a
 *    read policy, libvirt applies error_policy to reads as well, so that where only that one is set nothing
 *    is open;
 *  - the UUID, if there is none.
 * Additions of an earlier call are replaced.
 *
 * @throws KvmhaError `malformed` as `parseDomainXml` does, or when a socket's path is unusable
 */
export async function prepareDomainXml(text: string, additions: Additions): Promise<string> {
  return converting('domain XML', async () => {
    const monitors = [
      ...monitorArguments('agent', additions.agentSocket),
      ...monitorArguments('watcher', additions.watcherSocket),
    ];
    const document = await parse(text);
    const domain = domainOf(document);
    const { uuid } = describeDomain(domain);
    if (uuid === undefined && additions.uuid !== undefined) {
      addUuid(document, domain, additions.uuid);
    }
    if (additions.setErrorPolicy) {
      for (const disk of disksOf(domain)) {
        setErrorPolicy(document, disk);
      }
    }
    removeMonitors(domain);
    addArguments(document, domain, monitors);
    return serialize(document);
  });
}

/**
 * The inverse of `prepareDomainXml` for saving a running guest's configuration: `text` without the QMP
 * monitors, and without error policies of `stop` on disks (matched by their target) for which the operator's
 * present file leaves them open. Where nothing has to be removed, `text` is returned as it is.
 *
 * @param operatorText the present content of the operator's file; undefined if there is none
 * @throws KvmhaError `malformed` as `parseDomainXml` does, for either text
 */
export async function withoutAdditions(text: string, operatorText: string | undefined): Promise<string> {
  return converting('domain XML', async () => {
    const document = await parse(text);
    const domain = domainOf(document);
    let changed = removeMonitors(domain);
    const operatorDrivers = new Map<string | undefined, DiskXml['driver']>();
    if (operatorText !== undefined) {
      for (const disk of disksOf(domainOf(await parse(operatorText)))) {
        const { driver, target } = describeDisk(disk);
        operatorDrivers.set(target.dev, driver);
      }
    }
    for (const disk of disksOf(domain)) {
      const { driver, target } = describeDisk(disk);
      const operators = operatorDrivers.get(target.dev);
      if (operators !== undefined && operators.error_policy === undefined && driver.error_policy === 'stop') {
        child(disk, 'driver')?.removeAttribute('error_policy');
        changed = true;
        if (operators.rerror_policy === undefined && driver.rerror_policy === 'stop') {
          child(disk, 'driver')?.removeAttribute('rerror_policy');
        }
      }
    }
    return changed ? serialize(document) : text;
  });
}

/** Runs `work`; what it throws, a stack overflow on absurdly deep XML included, leaves as a KvmhaError. */
async function converting<T>(origin: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw new KvmhaError('malformed', `${origin}: ${messageOf(error)}`, { cause: error });
  }
}

/** @throws Error that says what is not well-formed or not accepted */
async function parse(text: string): Promise<Document> {
  // Before parsing: the parser is lenient where libvirt's is not, and what is refused here costs nothing.
  const declaration = /^<\?xml\s[^>]*?encoding\s*=\s*["']([^"']*)["']/.exec(text);
  if (declaration !== null && !/^utf-?8$/i.test(declaration[1] ?? '')) {
    throw new Error(`the encoding ${JSON.stringify(declaration[1])} is not UTF-8`);
  }
  if (/[^\t\n\r\x20-\uFFFD]/.test(text.replace(/[\uD800-\uDBFF][\uDC00-\uDFFF]/g, ''))) {
    throw new Error('it has a character that XML does not allow');
  }
  const markup = withoutProse(text);
  if (/<!/.test(markup)) {
    throw new Error('a document type declaration is not accepted');
  }
  if (/&(?!(?:amp|lt|gt|quot|apos|#[0-9]+|#x[0-9A-Fa-f]+);)/.test(markup)) {
    throw new Error('an ampersand starts no entity that XML predefines');
  }
  // Loaded on first use: a monitor that finds the domain's name in its cache must not pay for the library.
  const { DOMParser } = await import('@xmldom/xmldom');
  const parser = new DOMParser({
    onError: (_level: string, message: string) => {
      throw new Error(message);
    },
  });
  return parser.parseFromString(text, 'text/xml');
}

/** `text` without comments, CDATA sections and processing instructions. */
function withoutProse(text: string): string {
  let markup = '';
  let from = 0;
  for (const { index, 0: opening } of text.matchAll(/<!--|<!\[CDATA\[|<\?/g)) {
    if (index >= from) {
      const closing = { '<!--': '-->', '<![CDATA[': ']]>' }[opening] ?? '?>';
      const end = text.indexOf(closing, index + opening.length);
      if (end < 0) {
        throw new Error(`${opening} is not followed by ${closing}`);
      }
      markup += text.slice(from, index);
      from = end + closing.length;
    }
  }
  return markup + text.slice(from);
}

async function serialize(document: Document): Promise<string> {
  const { XMLSerializer } = await import('@xmldom/xmldom');
  return new XMLSerializer().serializeToString(document);
}

function domainOf(document: Document): Element {
  const root = document.documentElement;
  if (document.doctype !== null) {
    throw new Error('a document type declaration is not accepted');
  }
  if (root === null || !isNamed(root, 'domain')) {
    throw new Error('the root element is not <domain>');
  }
  return root;
}

/** @throws Error for what is not the XML of one named domain of type kvm or qemu */
export function describeDomain(domain: Element): DomainXml {
  const type = attribute(domain, 'type');
  if (type !== 'kvm' && type !== 'qemu') {
    throw new Error(`the domain's type is ${JSON.stringify(type ?? '')}, not kvm or qemu`);
  }
  return {
    name: nameOf(domain),
    uuid: uuidOf(domain),
    type,
    emulator: children(domain, 'devices').flatMap((devices) => childText(devices, 'emulator') ?? [])[0],
    disks: disksOf(domain).map(describeDisk),
    on_crash: childText(domain, 'on_crash'),
    on_reboot: childText(domain, 'on_reboot'),
    qemuArguments: qemuArgumentsOf(domain).map((argument) => attribute(argument, 'value') ?? ''),
  };
}

/** libvirt refuses a newline and, for QEMU, a slash (virDomainDefPostParse); control characters we refuse, and surrogates. */
function nameOf(domain: Element): string {
  const names = children(domain, 'name');
  const name = names[0]?.textContent ?? '';
  if (names.length > 1) {
    throw new Error('the domain has more than one <name>');
  }
  if (name.trim() === '') {
    throw new Error('the domain has no <name>');
  }
  if (/[/\p{Cc}]/u.test(name) || !name.isWellFormed()) {
    throw new Error(
      `the domain's name has a slash, a control character or half a character: ${JSON.stringify(name)}`,
    );
  }
  return name;
}

/** libvirt ignores hyphens and blanks in a UUID and prints it in the canonical form (virUUIDParse). */
function uuidOf(domain: Element): string | undefined {
  const uuids = children(domain, 'uuid');
  const [uuid] = uuids;
  if (uuid === undefined) {
    return undefined;
  }
  const digits = (uuid.textContent ?? '').replace(/[\s-]/g, '').toLowerCase();
  if (uuids.length > 1 || !/^[0-9a-f]{32}$/.test(digits)) {
    throw new Error('the domain has more than one <uuid>, or one that is no UUID');
  }
  return digits.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
}

function disksOf(domain: Element): Element[] {
  return children(domain, 'devices').flatMap((devices) => children(devices, 'disk'));
}

function describeDisk(disk: Element): DiskXml {
  const source = child(disk, 'source');
  const driver = child(disk, 'driver');
  const target = child(disk, 'target');
  return {
    device: attribute(disk, 'device') ?? 'disk',
    type: attribute(disk, 'type'),
    source: {
      file: attribute(source, 'file'),
      dev: attribute(source, 'dev'),
      protocol: attribute(source, 'protocol'),
      name: attribute(source, 'name'),
      pool: attribute(source, 'pool'),
      volume: attribute(source, 'volume'),
    },
    driver: {
      name: attribute(driver, 'name'),
      type: attribute(driver, 'type'),
      cache: attribute(driver, 'cache'),
      error_policy: attribute(driver, 'error_policy'),
      rerror_policy: attribute(driver, 'rerror_policy'),
    },
    readonly: child(disk, 'readonly') !== undefined,
    shareable: child(disk, 'shareable') !== undefined,
    target: { dev: attribute(target, 'dev'), bus: attribute(target, 'bus') },
  };
}

function setErrorPolicy(document: Document, disk: Element): void {
  const { device, type, driver, target } = describeDisk(disk);
  if (
    device !== 'disk' ||
    type === 'vhostuser' ||
    type === 'vhostvdpa' ||
    !BUSES_WITH_ERROR_POLICY.includes(target.bus) ||
    driver.error_policy !== undefined
  ) {
    return;
  }
  let element = child(disk, 'driver');
  if (element === undefined) {
    // What libvirt assumes where there is no driver element; like there, a missing type means raw.
    element = document.createElement('driver');
    element.setAttribute('name', 'qemu');
    disk.insertBefore(element, disk.firstChild);
  }
  element.setAttribute('error_policy', 'stop');
  if (driver.rerror_policy === undefined) {
    element.setAttribute('rerror_policy', 'stop');
  }
}

function addUuid(document: Document, domain: Element, uuid: string): void {
  const element = document.createElement('uuid');
  element.appendChild(document.createTextNode(uuid));
  domain.insertBefore(element, child(domain, 'name')?.nextSibling ?? null);
}

/** QEMU's option parser takes a comma in a value only if it is doubled. */
function monitorArguments(client: 'agent' | 'watcher', socket: string): string[] {
  if (!isAbsolute(socket) || /\p{Cc}/u.test(socket) || Buffer.byteLength(socket) > MAX_SOCKET_PATH_BYTES) {
    throw new Error(
      `${JSON.stringify(socket)} is no absolute path of at most ${MAX_SOCKET_PATH_BYTES} bytes for a socket`,
    );
  }
  const path = socket.replaceAll(',', ',,');
  return [
    '-chardev',
    `socket,id=charkvmha${client},path=${path},server=on,wait=off`,
    '-mon',
    `chardev=charkvmha${client},id=kvmha${client},mode=control`,
  ];
}

function qemuCommandlinesOf(domain: Element): Element[] {
  return children(domain, 'commandline', QEMU_NAMESPACE);
}

function qemuArgumentsOf(domain: Element): Element[] {
  return qemuCommandlinesOf(domain).flatMap((commandline) => children(commandline, 'arg', QEMU_NAMESPACE));
}

/** Adds `<qemu:arg>`s behind those that are there: the schema wants `<qemu:env>` to follow them all. */
function addArguments(document: Document, domain: Element, values: readonly string[]): void {
  let commandline = qemuCommandlinesOf(domain)[0];
  if (commandline === undefined) {
    commandline = document.createElementNS(QEMU_NAMESPACE, `${prefixFor(domain)}:commandline`);
    domain.appendChild(commandline);
  }
  const prefix = commandline.prefix === null ? '' : `${commandline.prefix}:`;
  const next = children(commandline, 'arg', QEMU_NAMESPACE).at(-1)?.nextSibling ?? commandline.firstChild;
  for (const value of values) {
    const argument = document.createElementNS(QEMU_NAMESPACE, `${prefix}arg`);
    argument.setAttribute('value', value);
    commandline.insertBefore(argument, next);
  }
}

/** The prefix that the domain's root element binds to QEMU's namespace; binds one if there is none. */
function prefixFor(domain: Element): string {
  const bound = domain.lookupPrefix(QEMU_NAMESPACE);
  if (bound !== null && bound !== '') {
    return bound;
  }
  let prefix = 'qemu';
  while (domain.lookupNamespaceURI(prefix) !== null) {
    prefix += '_';
  }
  domain.setAttributeNS(XMLNS_NAMESPACE, `xmlns:${prefix}`, QEMU_NAMESPACE);
  return prefix;
}

/** Removes our monitors, and what only they needed. */
function removeMonitors(domain: Element): boolean {
  let removed = false;
  const ours = {
    '-chardev': /^socket,id=charkvmha(?:agent|watcher),/,
    '-mon': /^chardev=charkvmha(?:agent|watcher),/,
  };
  for (const commandline of qemuCommandlinesOf(domain)) {
    const list = children(commandline, 'arg', QEMU_NAMESPACE);
    for (const [option, value] of Object.entries(ours)) {
      for (const [index, argument] of list.entries()) {
        const following = list[index + 1];
        if (
          attribute(argument, 'value') === option &&
          following !== undefined &&
          value.test(attribute(following, 'value') ?? '')
        ) {
          remove(argument);
          remove(following);
          removed = true;
        }
      }
    }
    if (removed && elements(commandline).length === 0) {
      remove(commandline);
    }
  }
  if (removed && domain.getElementsByTagNameNS(QEMU_NAMESPACE, '*').length === 0) {
    for (const { name, value } of Array.from(domain.attributes)) {
      if (name.startsWith('xmlns:') && value === QEMU_NAMESPACE) {
        domain.removeAttribute(name);
      }
    }
  }
  return removed;
}

/** Removes an element, and its line where it is alone on it. */
function remove(element: Element): void {
  if (isBlank(element.previousSibling) && isBlank(element.nextSibling)) {
    element.previousSibling?.parentNode?.removeChild(element.previousSibling);
  }
  element.parentNode?.removeChild(element);
}

function isBlank(node: Node | null): boolean {
  return node !== null && node.nodeType === node.TEXT_NODE && (node.nodeValue ?? '').trim() === '';
}

function isElement(node: Node): node is Element {
  return node.nodeType === node.ELEMENT_NODE;
}

function isNamed(element: Element, name: string, namespace: string | null = null): boolean {
  return element.localName === name && (element.namespaceURI || null) === namespace;
}

function elements(parent: Element): Element[] {
  const found: Element[] = [];
  for (let node: Node | null = parent.firstChild; node !== null; node = node.nextSibling) {
    if (isElement(node)) {
      found.push(node);
    }
  }
  return found;
}

function children(parent: Element, name: string, namespace: string | null = null): Element[] {
  return elements(parent).filter((element) => isNamed(element, name, namespace));
}

function child(parent: Element, name: string): Element | undefined {
  return children(parent, name)[0];
}

function childText(parent: Element, name: string): string | undefined {
  return child(parent, name)?.textContent ?? undefined;
}

function attribute(element: Element | undefined, name: string): string | undefined {
  return element?.getAttribute(name) ?? undefined;
}

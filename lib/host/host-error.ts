/** How bad an error of the hardware was, in the order of badness. */
export type Severity =
  /** Nothing was wrong. */
  | 'informational'
  /** The hardware has put it right. */
  | 'corrected'
  /** Something was lost, and the node goes on. */
  | 'uncorrected'
  /** The hardware, or the kernel, could not go on with what it did. */
  | 'fatal';

/** One error of the host, or several that are alike. */
export interface HostError {
  readonly kind: /** A memory controller's. */
    | 'memory'
    /** A page of memory that the kernel has taken out of use. */
    | 'page'
    /** A PCI Express device's. */
    | 'pci'
    | 'processor'
    /** As many guests as may be were quiesced within a short time, so that something is wrong with the node. */
    | 'storm'
    | 'other';
  readonly severity: Severity;
  /** Who told of it: `ras:mc_event`, `edac counters`, `rasdaemon`. */
  readonly source: string;
  /** How many. */
  readonly count: number;
  /** What is broken, where corrected errors are counted: `mc0 DIMM_A1`, `0000:3b:00.0`. */
  readonly component: string;
  /** For people, without count, severity and component. */
  readonly message: string;
  /** Physical address of the memory. */
  readonly address?: bigint | undefined;
  /** The NUMA node that the address, or the device, belongs to. */
  readonly numaNode?: number | undefined;
  /** More of where it is, as the source names it: `layers`, `syndrome`, `page type`. */
  readonly detail?: Readonly<Record<string, string | number>> | undefined;
  /** The guest whose memory it is, where that is known: QEMU has told of it at the same time. */
  readonly guest?: string | undefined;
}

/** Bits of a physical address within a page. Larger pages are dealt with by the kernel in units of these. */
const PAGE_SHIFT = 12n;

/** The page of the error's address; undefined where none is known. 0 is what drivers say that know none. */
export function pageOf({ address }: Pick<HostError, 'address'>): bigint | undefined {
  return address === undefined || address === 0n ? undefined : address >> PAGE_SHIFT;
}

/** The physical address of a page frame number. */
export function addressOfPage(frame: bigint): bigint {
  return frame << PAGE_SHIFT;
}

/** An error in words for people, on one line. */
export function describeError(error: HostError): string {
  const { kind, severity, count, component, message, address, numaNode, guest } = error;
  if (kind === 'storm') {
    return message;
  }
  const where = [
    ...(address === undefined ? [] : [`address 0x${address.toString(16)}`]),
    ...(numaNode === undefined ? [] : [`NUMA node ${numaNode}`]),
    ...(guest === undefined ? [] : [`in the memory of ${guest}`]),
  ];
  const many = count === 1 ? `${severity} error` : `${count} ${severity} errors`;
  const what = message === '' ? many : `${many}, ${message}`;
  return `${component}: ${what}${where.length === 0 ? '' : ` (${where.join(', ')})`}`;
}

/** What the journal keeps of an error. */
export function errorForJournal(error: HostError): Record<string, unknown> {
  const { address, ...rest } = error;
  return { ...rest, ...(address === undefined ? {} : { address: `0x${address.toString(16)}` }) };
}

import { addressOfPage, type HostError, type Severity } from './host-error.ts';
import type { TraceFormat, Value } from './trace-format.ts';

/**
 * The events of the kernel's trace that tell of errors of the hardware, as SYSTEM/EVENT below tracefs' `events`
 * (include/ras/ras_event.h; memory_failure_event has a system of its own since Linux 6.19).
 */
export const RAS_EVENTS: readonly string[] = [
  'ras/mc_event',
  'ras/aer_event',
  'ras/memory_failure_event',
  'memory_failure/memory_failure_event',
  'ras/non_standard_event',
  'ras/arm_event',
  'ras/extlog_mem_event',
];

/** enum hw_event_mc_err_type (include/linux/edac.h). */
const MC_SEVERITIES: readonly Severity[] = [
  'corrected',
  'uncorrected',
  // Deferred: the data is lost and marked, and nobody has used it yet.
  'uncorrected',
  'fatal',
  'informational',
];

/** AER_NONFATAL, AER_FATAL, AER_CORRECTABLE (include/linux/aer.h). */
const AER_SEVERITIES: readonly Severity[] = ['uncorrected', 'fatal', 'corrected'];

/** GHES_SEV_NO, CORRECTED, RECOVERABLE, PANIC (include/acpi/ghes.h). */
const GHES_SEVERITIES: readonly Severity[] = ['informational', 'corrected', 'uncorrected', 'fatal'];

/** CPER_SEV_RECOVERABLE, FATAL, CORRECTED, INFORMATIONAL (include/linux/cper.h). */
const CPER_SEVERITIES: readonly Severity[] = ['uncorrected', 'fatal', 'corrected', 'informational'];

/** enum mf_result (include/linux/mm.h), for a print format without them. */
const PAGE_RESULTS: readonly string[] = ['Ignored', 'Failed', 'Delayed', 'Recovered'];

/** A memory controller reports at most this many errors at once (a 16 bit field); what is 0 is one. */
const MAX_COUNT = 65_535;

/**
 * What an event of the trace tells.
 *
 * A severity that is not known is taken for `uncorrected`: the event exists to tell of errors.
 *
 * @param values its fields, as `decode` gives them
 * @returns undefined for an event that is none of RAS_EVENTS
 */
export function errorOfEvent(
  format: Pick<TraceFormat, 'name' | 'words'>,
  values: ReadonlyMap<string, Value>,
): HostError | undefined {
  const event = new Event(format, values);
  switch (format.name) {
    case 'mc_event':
      return memoryController(event);
    case 'aer_event':
      return pciDevice(event);
    case 'memory_failure_event':
      return lostPage(event);
    case 'non_standard_event':
      return firmware(event);
    case 'arm_event':
      return processor(event);
    case 'extlog_mem_event':
      return extendedLog(event);
    default:
      return undefined;
  }
}

function memoryController(event: Event): HostError {
  const controller = `mc${event.number('mc_index') ?? '?'}`;
  const label = event.text('label');
  const address = event.unsigned('address');
  const layers = ['top_layer', 'middle_layer', 'lower_layer'].map((name) => event.number(name) ?? -1);
  return {
    kind: 'memory',
    severity: event.severity('error_type', MC_SEVERITIES),
    source: 'ras:mc_event',
    count: Math.min(MAX_COUNT, Math.max(1, event.number('error_count') ?? 1)),
    component: label === '' ? controller : `${controller} ${label}`,
    message: event.text('msg'),
    address: address === 0n ? undefined : address,
    detail: {
      layers: layers.join(':'),
      syndrome: hex(event.unsigned('syndrome') ?? 0n),
      ...present('driver', event.text('driver_detail')),
    },
  };
}

function pciDevice(event: Event): HostError {
  const severity = event.severity('severity', AER_SEVERITIES);
  const status = event.number('status') ?? 0;
  // The print format names the bits of corrected errors first, then the others.
  const names = event.words.get(severity === 'corrected' ? 'status' : 'status#2');
  const bits = [...(names ?? [])].filter(([bit]) => (status & bit) !== 0).map(([, name]) => name);
  return {
    kind: 'pci',
    severity,
    source: 'ras:aer_event',
    count: 1,
    component: pciAddress(event.text('dev_name')),
    message: bits.length > 0 ? bits.join(', ') : `status ${hex(BigInt(status))}`,
    detail: { status: hex(BigInt(status)) },
  };
}

function lostPage(event: Event): HostError {
  const frame = event.unsigned('pfn');
  const type = event.number('type') ?? -1;
  const result = event.number('result') ?? -1;
  const page = event.words.get('type')?.get(type) ?? `page of type ${type}`;
  const outcome = event.words.get('result')?.get(result) ?? PAGE_RESULTS[result] ?? `result ${result}`;
  return {
    kind: 'page',
    severity: 'uncorrected',
    source: 'ras:memory_failure_event',
    count: 1,
    component: 'memory',
    message: `a page was lost: ${page}, ${outcome}`,
    address: frame === undefined ? undefined : addressOfPage(frame),
    detail: { page, outcome },
  };
}

function firmware(event: Event): HostError {
  const section = uuid(event.bytes('sec_type'));
  const unit = event.text('fru_text');
  return {
    kind: 'other',
    severity: event.severity('sev', GHES_SEVERITIES),
    source: 'ras:non_standard_event',
    count: 1,
    component: unit === '' ? `firmware ${section}` : unit,
    message: `told by the firmware, section ${section}`,
    detail: { section, unit: uuid(event.bytes('fru_id')) },
  };
}

function processor(event: Event): HostError {
  const cpu = event.number('cpu');
  return {
    kind: 'processor',
    severity: event.severity('sev', GHES_SEVERITIES),
    source: 'ras:arm_event',
    count: 1,
    // An error that is on no CPU in particular is told with -1.
    component: cpu === undefined || cpu < 0 ? 'a processor' : `cpu ${cpu}`,
    message: 'told by the processor',
    detail: { mpidr: hex(event.unsigned('mpidr') ?? 0n), midr: hex(event.unsigned('midr') ?? 0n) },
  };
}

const NO_ADDRESS = 0xffff_ffff_ffff_ffffn;

function extendedLog(event: Event): HostError {
  const address = event.unsigned('pa');
  const unit = event.text('fru_text');
  return {
    kind: 'memory',
    severity: event.severity('sev', CPER_SEVERITIES),
    source: 'ras:extlog_mem_event',
    count: 1,
    component: unit === '' ? 'memory' : unit,
    message: `told by the firmware, error type ${event.number('etype') ?? '?'}`,
    address: address === NO_ADDRESS ? undefined : address,
  };
}

/** A PCI address in one form, with its domain: what reports leave out is domain 0. */
export function pciAddress(name: string): string {
  return /^[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$/i.test(name) ? `0000:${name}` : name || 'a PCI device';
}

/** Reads an event's fields; what is not there, or not of its type, is undefined or empty. */
class Event {
  readonly words: TraceFormat['words'];
  readonly #values: ReadonlyMap<string, Value>;

  constructor({ words }: Pick<TraceFormat, 'words'>, values: ReadonlyMap<string, Value>) {
    this.words = words;
    this.#values = values;
  }

  number(name: string): number | undefined {
    const value = this.#values.get(name);
    return typeof value === 'bigint' ? Number(value) : undefined;
  }

  /** Addresses are `long` in some formats. */
  unsigned(name: string): bigint | undefined {
    const value = this.#values.get(name);
    return typeof value === 'bigint' ? BigInt.asUintN(64, value) : undefined;
  }

  text(name: string): string {
    const value = this.#values.get(name);
    return typeof value === 'string' ? cleaned(value) : '';
  }

  bytes(name: string): Buffer | undefined {
    const value = this.#values.get(name);
    return Buffer.isBuffer(value) ? value : undefined;
  }

  severity(name: string, severities: readonly Severity[]): Severity {
    return severities[this.number(name) ?? -1] ?? 'uncorrected';
  }
}

/** More of a label or a message says nothing more to people. */
const MAX_TEXT = 200;

/** Text of the firmware's, on one line. */
export function cleaned(text: string): string {
  return text
    .replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\s]+/gu, ' ')
    .trim()
    .slice(0, MAX_TEXT);
}

function present(name: string, text: string): Record<string, string> {
  return text === '' ? {} : { [name]: text };
}

function hex(value: bigint): string {
  return `0x${value.toString(16)}`;
}

/** A GUID as the UEFI specification stores it: its first three parts are little endian. */
function uuid(bytes: Buffer | undefined): string {
  if (bytes?.length !== 16) {
    return 'unknown';
  }
  const swapped = Buffer.from(bytes);
  swapped.subarray(0, 4).reverse();
  swapped.subarray(4, 6).reverse();
  swapped.subarray(6, 8).reverse();
  return swapped.toString('hex').replace(/(.{8})(.{4})(.{4})(.{4})(.{12})/, '$1-$2-$3-$4-$5');
}

import { addressOfPage, type HostError, type Severity } from './host-error.ts';
import { cleaned, pciAddress } from './ras-event.ts';

/**
 * The error of which rasdaemon tells a trigger, in the environment variables that it sets for it (MC_CE_TRIGGER,
 * MC_UE_TRIGGER, AER_CE_TRIGGER, AER_UE_TRIGGER, AER_FATAL_TRIGGER, MEM_FAIL_TRIGGER, MCE_DE_TRIGGER, MCE_UE_TRIGGER in
 * /etc/sysconfig/rasdaemon; the variables are those of its contrib/*_trigger and trigger.c).
 *
 * @returns the name of the trace event it is about, and the error; undefined where the variables are none of these
 */
export function errorOfTrigger(
  variables: Readonly<Record<string, string | undefined>>,
): { readonly event: string; readonly error: HostError } | undefined {
  const text = (name: string) => cleaned(variables[name] ?? '');
  if (text('PFN') !== '' && text('PAGE_TYPE') !== '') {
    return { event: 'memory_failure_event', error: lostPage(text) };
  }
  if (text('MC_INDEX') !== '' && text('TYPE') !== '') {
    return { event: 'mc_event', error: memoryController(text) };
  }
  if (text('BANK') !== '' && text('MCGSTATUS') !== '') {
    return { event: 'mce_record', error: machineCheck(text) };
  }
  // rasdaemon 0.8.1 and later: ERROR_TYPE, DEV_NAME and MSG; in between: TYPE, NAME and MESSAGE.
  const device = text('DEV_NAME') || text('NAME');
  const type = text('ERROR_TYPE') || text('TYPE');
  if (device !== '' && type !== '') {
    const message = text('MSG') || text('MESSAGE');
    return { event: 'aer_event', error: pciDevice(device, type, message) };
  }
  return undefined;
}

type Text = (name: string) => string;

function lostPage(text: Text): HostError {
  const frame = number(text('PFN'));
  const page = text('PAGE_TYPE');
  const outcome = text('ACTION_RESULT');
  return {
    kind: 'page',
    severity: 'uncorrected',
    source: 'rasdaemon',
    count: 1,
    component: 'memory',
    message: `a page was lost: ${page}, ${outcome}`,
    address: frame === undefined ? undefined : addressOfPage(frame),
    detail: { page, outcome },
  };
}

function memoryController(text: Text): HostError {
  const label = text('LABEL');
  const controller = `mc${text('MC_INDEX')}`;
  // Printed as %llx, without 0x.
  const address = number(text('ADDRESS').replace(/^(?:0x)?/, '0x'));
  return {
    kind: 'memory',
    severity: severityOf(text('TYPE')),
    source: 'rasdaemon',
    count: Math.max(1, Number(number(text('COUNT')) ?? 1n)),
    component: label === '' ? controller : `${controller} ${label}`,
    message: text('MESSAGE'),
    address: address === 0n ? undefined : address,
    detail: {
      layers: ['TOP_LAYER', 'MIDDLE_LAYER', 'LOWER_LAYER'].map(text).join(':'),
      syndrome: text('SYNDROME'),
    },
  };
}

/** rasdaemon has a trigger for deferred errors and one for uncorrected ones, and none for corrected ones. */
function machineCheck(text: Text): HostError {
  const cpu = text('CPU');
  return {
    kind: 'processor',
    severity: 'uncorrected',
    source: 'rasdaemon',
    count: 1,
    component: cpu === '' ? 'a processor' : `cpu ${cpu}`,
    message: text('ERROR_MSG') || text('BANK_NAME') || `machine check in bank ${text('BANK')}`,
    detail: { bank: text('BANK'), status: text('STATUS') },
  };
}

function pciDevice(device: string, type: string, message: string): HostError {
  return {
    kind: 'pci',
    severity: severityOf(type),
    source: 'rasdaemon',
    count: 1,
    component: pciAddress(device),
    message,
  };
}

/** "Corrected", "Uncorrected", "Fatal", "Uncorrected (Fatal)", "Uncorrected (Non-Fatal)", "Deferred", "Info". */
function severityOf(type: string): Severity {
  if (/^corrected/i.test(type)) {
    return 'corrected';
  }
  if (/^info/i.test(type)) {
    return 'informational';
  }
  return /(?<!non-)fatal/i.test(type) ? 'fatal' : 'uncorrected';
}

/** A number as C prints it, decimal or with 0x. */
function number(text: string): bigint | undefined {
  return /^(0x[0-9a-f]{1,16}|\d{1,19})$/i.test(text) ? BigInt(text) : undefined;
}

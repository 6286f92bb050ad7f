import { KvmhaError } from '../error.ts';
import { isObject, type Json } from './qmp.ts';

/** An option of QEMU's command line: `-NAME VALUE`; `value` is undefined for flags. */
export interface Option {
  readonly name: string;
  readonly value: string | undefined;
}

type JsonObject = { readonly [key: string]: Json };

/** The parts of a qemu command line that say whose guest it is and what it was given. */
export interface CommandLine {
  /** `-name guest=`, libvirt's domain name. */
  readonly name: string | undefined;
  readonly uuid: string | undefined;
  readonly options: readonly Option[];
  /** The options of every `-blockdev`, as they were given. */
  readonly blockdevs: readonly JsonObject[];
}

/** Options of QEMU that take no value (qemu-options.hx), as far as libvirt or people use them. */
const FLAGS = new Set([
  'S',
  'nodefaults',
  'no-user-config',
  'no-shutdown',
  'no-reboot',
  'no-acpi',
  'no-hpet',
  'no-fd-bootchk',
  'enable-kvm',
  'nographic',
  'daemonize',
  'snapshot',
  'usb',
  'full-screen',
  'win2k-hack',
  'preconfig',
  'singlestep',
  'only-migratable',
  'enable-sync-profile',
]);

/**
 * Reads a qemu process's arguments.
 *
 * @throws KvmhaError `malformed` when a `-blockdev` is not JSON (libvirt before 6.0, or started by hand)
 */
export function parseCommandLine(argv: readonly string[]): CommandLine {
  const options = parseOptions(argv);
  return {
    name: guestName(options),
    uuid: valueGiven(options, 'uuid'),
    options,
    blockdevs: options.filter((option) => option.name === 'blockdev').map(parseBlockdev),
  };
}

/** The name and uuid alone, of any process's arguments: cheap, and never an error. */
export function guestOf(argv: readonly string[]): { name: string | undefined; uuid: string | undefined } {
  const options = parseOptions(argv);
  return { name: guestName(options), uuid: valueGiven(options, 'uuid') };
}

function parseOptions(argv: readonly string[]): Option[] {
  const options: Option[] = [];
  for (let index = 1; index < argv.length; index++) {
    const word = argv[index] ?? '';
    if (!word.startsWith('-')) {
      continue;
    }
    const name = word.replace(/^--?/, '');
    if (FLAGS.has(name)) {
      options.push({ name, value: undefined });
    } else {
      index++;
      options.push({ name, value: argv[index] });
    }
  }
  return options;
}

function valueGiven(options: readonly Option[], name: string): string | undefined {
  return options.find((option) => option.name === name)?.value;
}

/** `-name guest=NAME,...`, `-name NAME,...`; QEMU doubles a comma that belongs to the name. */
function guestName(options: readonly Option[]): string | undefined {
  const value = valueGiven(options, 'name');
  if (value === undefined) {
    return undefined;
  }
  return value
    .slice(0, firstSeparator(value))
    .replace(/^guest=/, '')
    .replaceAll(',,', ',');
}

/** Where the first comma stands that is not one half of a doubled one. */
function firstSeparator(value: string): number {
  for (let index = 0; index < value.length; index++) {
    if (value[index] === ',') {
      if (value[index + 1] !== ',') {
        return index;
      }
      index++;
    }
  }
  return value.length;
}

function parseBlockdev(option: Option): JsonObject {
  let value: Json;
  try {
    value = JSON.parse(option.value ?? '') as Json;
  } catch (cause) {
    throw new KvmhaError('malformed', `-blockdev ${option.value ?? ''} is not JSON`, { cause });
  }
  if (!isObject(value)) {
    throw new KvmhaError('malformed', `-blockdev ${option.value ?? ''} is not a JSON object`);
  }
  return value;
}

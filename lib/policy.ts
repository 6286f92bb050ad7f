import { isAbsolute } from 'node:path';
import type { Node } from 'yaml';
import { errnoOf, KvmhaError, messageOf } from './error.ts';
import { DEFAULT_POLICY_PATH } from './parameters.ts';
import { readTextFile } from './text-file.ts';

/**
 * The policy of a node: what an operator may decide beyond a single resource's parameters. docs/policy.yaml
 * says what each key means; in the file they are spelt with hyphens.
 */
export interface Policy {
  readonly quiesce: {
    readonly enabled: boolean;
    /** At most `guests` are quiesced in `seconds`. */
    readonly storm: { readonly guests: number; readonly seconds: number };
    readonly requireEligibleNode: boolean;
  };
  readonly outOfSpace: 'hold' | 'fail';
  readonly stop: {
    /** Seconds. */
    readonly forcedEndReserve: number;
  };
  readonly dump: {
    /** Absolute path. */
    readonly directory: string;
    /** `dump-guest-memory`'s formats. */
    readonly format: 'elf' | 'kdump-zlib';
    /** Whether a post-mortem of every preserved guest is made, also where the guest is kept. */
    readonly onQuiesce: boolean;
    /** What of older post-mortems below `directory` is kept; 0 sets no limit. */
    readonly keep: { readonly number: number; readonly gibibytes: number };
  };
  readonly monitor: { readonly degraded: 'report' | 'ignore' };
  readonly watch: {
    /** Whether the watcher acts on what it hears, or only writes it down. */
    readonly mode: 'act' | 'observe';
    /** What a guest is after a memory failure of each kind. */
    readonly memoryFailure: {
      readonly actionRequired: AfterMemoryFailure;
      readonly actionOptional: AfterMemoryFailure;
      readonly reset: AfterMemoryFailure;
    };
  };
  /** What the node's health becomes by errors of its hardware (lib/host/health.ts). */
  readonly host: {
    readonly enabled: boolean;
    readonly fatal: AfterHostError;
    readonly memory: AfterHostError;
    readonly memoryOfGuest: AfterHostError;
    readonly device: AfterHostError;
    /** `health` when there were `errors` of one component within `seconds`. */
    readonly corrected: {
      readonly health: AfterHostError;
      readonly errors: number;
      readonly seconds: number;
    };
    readonly storm: AfterHostError;
    /** Seconds; 0 when only an operator makes it green. */
    readonly quietTime: number;
    /** Seconds. */
    readonly interval: number;
  };
}

export type AfterHostError = 'red' | 'yellow' | 'ignore';

export type AfterMemoryFailure = 'fail-over' | 'degrade' | 'ignore';

const MAX_BYTES = 64 * 1024;

/** The library, loaded only when there is a file to read. */
type Yaml = typeof import('yaml');

interface Reader<T> {
  readonly byDefault: T;
  /** The value of `node`; `key` is its path from the top. */
  readonly read: (node: Node, key: string, yaml: Yaml) => T;
}

/** What is wrong with a node; the line is added where the file is known. */
class Refusal extends Error {
  readonly offset: number | undefined;

  constructor(node: Node, message: string) {
    super(message);
    this.offset = node.range?.[0];
  }
}

const POLICY: Reader<Policy> = mapping<Policy>({
  quiesce: mapping<Policy['quiesce']>({
    enabled: boolean(true),
    storm: mapping<Policy['quiesce']['storm']>({
      guests: integer(3, 1, 1000),
      seconds: integer(60, 1, 86_400),
    }),
    requireEligibleNode: boolean(true),
  }),
  outOfSpace: oneOf('hold', 'fail'),
  stop: mapping<Policy['stop']>({ forcedEndReserve: integer(15, 1, 3600) }),
  dump: mapping<Policy['dump']>({
    directory: absolutePath('/var/lib/kvmha/dumps'),
    format: oneOf('elf', 'kdump-zlib'),
    onQuiesce: boolean(false),
    keep: mapping<Policy['dump']['keep']>({
      number: integer(0, 0, 1_000_000),
      gibibytes: integer(0, 0, 1_000_000),
    }),
  }),
  monitor: mapping<Policy['monitor']>({ degraded: oneOf('report', 'ignore') }),
  watch: mapping<Policy['watch']>({
    mode: oneOf('act', 'observe'),
    memoryFailure: mapping<Policy['watch']['memoryFailure']>({
      actionRequired: oneOf('fail-over', 'degrade', 'ignore'),
      actionOptional: oneOf('degrade', 'fail-over', 'ignore'),
      reset: oneOf('fail-over', 'degrade', 'ignore'),
    }),
  }),
  host: mapping<Policy['host']>({
    enabled: boolean(true),
    fatal: oneOf('red', 'yellow', 'ignore'),
    memory: oneOf('red', 'yellow', 'ignore'),
    memoryOfGuest: oneOf('yellow', 'red', 'ignore'),
    device: oneOf('yellow', 'red', 'ignore'),
    corrected: mapping<Policy['host']['corrected']>({
      health: oneOf('yellow', 'red', 'ignore'),
      errors: integer(50, 1, 1_000_000),
      seconds: integer(86_400, 1, 31_536_000),
    }),
    storm: oneOf('yellow', 'red', 'ignore'),
    quietTime: integer(0, 0, 31_536_000),
    interval: integer(30, 1, 3600),
  }),
});

export const DEFAULT_POLICY: Policy = POLICY.byDefault;

/**
 * Reads the policy file at `path`. Only the default file may be missing; then the defaults apply. (If a file
 * that an operator has named were taken for empty when it is missing, a mistyped path would go unnoticed.)
 *
 * @throws KvmhaError `file` when it cannot be read; `malformed` when it is not YAML or says what kvmha does not
 *   know, with file, line and key
 */
export async function loadPolicy(path: string): Promise<Policy> {
  let text: string;
  try {
    ({ text } = await readTextFile(path, MAX_BYTES));
  } catch (error) {
    if (path === DEFAULT_POLICY_PATH && error instanceof KvmhaError && errnoOf(error.cause) === 'ENOENT') {
      return DEFAULT_POLICY;
    }
    throw error;
  }
  return parsePolicy(text, path);
}

/**
 * @param path where `text` is from, for the error's message
 * @throws KvmhaError `malformed` as `loadPolicy` does
 */
export async function parsePolicy(text: string, path: string): Promise<Policy> {
  const yaml = await import('yaml');
  const lines = new yaml.LineCounter();
  try {
    const document = yaml.parseDocument(text, {
      version: '1.2',
      schema: 'core',
      stringKeys: true,
      prettyErrors: false,
      lineCounter: lines,
      logLevel: 'error',
    });
    const problem = document.errors[0] ?? document.warnings[0];
    if (problem !== undefined) {
      throw new KvmhaError(
        'malformed',
        `${path}:${lines.linePos(problem.pos[0]).line}: ${messageOf(problem)}`,
        { cause: problem },
      );
    }
    return document.contents === null ? DEFAULT_POLICY : POLICY.read(document.contents, '', yaml);
  } catch (error) {
    if (error instanceof KvmhaError) {
      throw error;
    }
    // Something nested so deeply that it overflows the stack is refused here, too.
    const line =
      error instanceof Refusal && error.offset !== undefined ? lines.linePos(error.offset).line : 1;
    throw new KvmhaError('malformed', `${path}:${line}: ${messageOf(error)}`, { cause: error });
  }
}

function mapping<T extends object>(readers: { readonly [Key in keyof T]: Reader<T[Key]> }): Reader<T> {
  const names = Object.keys(readers) as (keyof T & string)[];
  const byDefault = Object.fromEntries(names.map((name) => [name, readers[name].byDefault])) as T;

  function read(node: Node, key: string, yaml: Yaml): T {
    if (yaml.isScalar(node) && node.value === null) {
      return byDefault; // All of the keys below are commented out.
    }
    if (!yaml.isMap<Node, Node | null>(node)) {
      throw new Refusal(node, `${key === '' ? 'the file' : key} is not made of keys and values`);
    }
    const result = { ...byDefault };
    for (const { key: nameNode, value } of node.items) {
      const spelt = yaml.isScalar(nameNode) ? String(nameNode.value) : '?';
      const path = key === '' ? spelt : `${key}.${spelt}`;
      const name = names.find((candidate) => hyphenated(candidate) === spelt);
      if (name === undefined) {
        throw new Refusal(nameNode, `${path} is not a known key`);
      }
      result[name] = readers[name].read(value ?? nameNode, path, yaml);
    }
    return result;
  }

  return { byDefault, read };
}

/** A key as it is spelt in the file. */
export function hyphenated(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
}

function scalar<T>(byDefault: T, expected: string, accepts: (value: unknown) => value is T): Reader<T> {
  return {
    byDefault,
    read: (node, key, yaml) => {
      if (!yaml.isScalar(node) || !accepts(node.value)) {
        throw new Refusal(node, `${key} is not ${expected}`);
      }
      return node.value;
    },
  };
}

function boolean(byDefault: boolean): Reader<boolean> {
  return scalar(byDefault, 'true or false', (value) => typeof value === 'boolean');
}

function integer(byDefault: number, least: number, most: number): Reader<number> {
  return scalar(
    byDefault,
    `a whole number from ${least} to ${most}`,
    (value): value is number =>
      typeof value === 'number' && Number.isInteger(value) && value >= least && value <= most,
  );
}

/** The first word is the default. */
function oneOf<Word extends string>(byDefault: Word, ...others: Word[]): Reader<Word> {
  const words = [byDefault, ...others];
  return scalar(byDefault, words.join(' or '), (value): value is Word =>
    words.some((word) => word === value),
  );
}

function absolutePath(byDefault: string): Reader<string> {
  return scalar(
    byDefault,
    'an absolute path',
    (value): value is string => typeof value === 'string' && isAbsolute(value) && !/\p{Cc}/u.test(value),
  );
}

import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import fc from 'fast-check';
import { parse } from 'yaml';
import { isKvmhaError } from '../../lib/error.ts';
import { DEFAULT_POLICY_PATH } from '../../lib/parameters.ts';
import { DEFAULT_POLICY, loadPolicy, type Policy, parsePolicy } from '../../lib/policy.ts';

const DEFAULTS: Policy = {
  quiesce: { enabled: true, storm: { guests: 3, seconds: 60 }, requireEligibleNode: true },
  outOfSpace: 'hold',
  stop: { forcedEndReserve: 15 },
  dump: {
    directory: '/var/lib/kvmha/dumps',
    format: 'elf',
    onQuiesce: false,
    keep: { number: 0, gibibytes: 0 },
  },
  monitor: { degraded: 'report' },
  watch: {
    mode: 'act',
    memoryFailure: { actionRequired: 'fail-over', actionOptional: 'degrade', reset: 'fail-over' },
  },
  host: {
    enabled: true,
    fatal: 'red',
    memory: 'red',
    memoryOfGuest: 'yellow',
    device: 'yellow',
    corrected: { health: 'yellow', errors: 50, seconds: 86_400 },
    storm: 'yellow',
    quietTime: 0,
    interval: 30,
  },
};

function refused(message: RegExp | string) {
  return (error: unknown) =>
    isKvmhaError(error, 'malformed') &&
    (typeof message === 'string' ? error.message === message : message.test(error.message));
}

describe('parsePolicy', () => {
  it('has the documented defaults', () => {
    assert.deepEqual(DEFAULT_POLICY, DEFAULTS);
  });

  it('gives the defaults for an empty file, for one of comments and for keys without content', async () => {
    for (const text of ['', '\n', '# nothing\n', '---\n', 'quiesce:\n  # enabled: false\nstop: {}\n']) {
      assert.deepEqual(await parsePolicy(text, 'policy.yaml'), DEFAULTS, text);
    }
  });

  it('takes values from the file and defaults for the rest', async () => {
    const policy = await parsePolicy(
      'quiesce: { storm: { guests: 5 }, require-eligible-node: false }\nout-of-space: fail\ndump:\n  format: kdump-zlib\n',
      'policy.yaml',
    );
    assert.deepEqual(policy, {
      ...DEFAULTS,
      quiesce: { enabled: true, storm: { guests: 5, seconds: 60 }, requireEligibleNode: false },
      outOfSpace: 'fail',
      dump: { ...DEFAULTS.dump, format: 'kdump-zlib' },
    });
  });

  it('refuses unknown keys, with file, line and key', async () => {
    for (const [text, message] of [
      ['out-of-space: hold\nquiese: {}\n', 'policy.yaml:2: quiese is not a known key'],
      ['quiesce:\n  storm:\n    hosts: 3\n', 'policy.yaml:3: quiesce.storm.hosts is not a known key'],
      ['outOfSpace: hold\n', 'policy.yaml:1: outOfSpace is not a known key'],
      ['1: 2\n', 'policy.yaml:1: 1 is not a known key'],
    ] as const) {
      await assert.rejects(parsePolicy(text, 'policy.yaml'), refused(message), text);
    }
  });

  it('refuses values of the wrong type or out of range, with file, line and key', async () => {
    for (const [text, message] of [
      ['quiesce:\n  enabled: yes\n', 'policy.yaml:2: quiesce.enabled is not true or false'],
      ['quiesce:\n  enabled: 1\n', 'policy.yaml:2: quiesce.enabled is not true or false'],
      ['quiesce:\n  enabled:\n', 'policy.yaml:2: quiesce.enabled is not true or false'],
      ['quiesce: true\n', 'policy.yaml:1: quiesce is not made of keys and values'],
      ['- quiesce\n', 'policy.yaml:1: the file is not made of keys and values'],
      ['out-of-space: panic\n', 'policy.yaml:1: out-of-space is not hold or fail'],
      [
        'stop:\n  forced-end-reserve: "15"\n',
        /:2: stop.forced-end-reserve is not a whole number from 1 to 3600/,
      ],
      ['stop:\n  forced-end-reserve: 1.5\n', /whole number/],
      ['stop:\n  forced-end-reserve: -1\n', /whole number/],
      ['stop:\n  forced-end-reserve: .inf\n', /whole number/],
      ['quiesce: { storm: { guests: 0 } }\n', /quiesce.storm.guests is not a whole number from 1 to 1000/],
      ['dump:\n  directory: dumps\n', 'policy.yaml:2: dump.directory is not an absolute path'],
      ['dump:\n  directory: "/a\\nb"\n', /absolute path/],
      ['dump: { directory: [/a] }\n', /absolute path/],
      ['watch: { mode: off }\n', 'policy.yaml:1: watch.mode is not act or observe'],
      [
        'watch:\n  memory-failure:\n    reset: quiesce\n',
        'policy.yaml:3: watch.memory-failure.reset is not fail-over or degrade or ignore',
      ],
    ] as const) {
      await assert.rejects(parsePolicy(text, 'policy.yaml'), refused(message), text);
    }
  });

  it('refuses what is not one YAML document, duplicate keys, tags and aliases', async () => {
    for (const text of [
      'quiesce: {',
      'a: b: c',
      '\tquiesce: {}',
      'out-of-space: hold\nout-of-space: fail\n',
      'out-of-space: hold\n---\nout-of-space: fail\n',
      'out-of-space: !mine hold\n',
      'quiesce: &a\n  storm: *a\n',
      'stop: &a { forced-end-reserve: 3 }\nmonitor:\n  <<: *a\n',
      '? [a, b]\n: c\n',
    ]) {
      await assert.rejects(parsePolicy(text, 'policy.yaml'), refused(/^policy.yaml:[0-9]+: ./), text);
    }
  });

  it('refuses nested and self-multiplying files without much work', async () => {
    const bomb = Array.from({ length: 30 }, (_, i) => `k${i}: &k${i} [${`*k${i - 1},`.repeat(9)}]`).join(
      '\n',
    );
    for (const text of ['['.repeat(60_000), '{a: '.repeat(15_000), '- '.repeat(30_000), bomb]) {
      const before = process.cpuUsage();
      await assert.rejects(parsePolicy(text, 'policy.yaml'), refused(/^policy.yaml:/));
      const { user, system } = process.cpuUsage(before);
      assert.ok(user + system < 5_000_000, `it took ${user + system} microseconds of processor time`);
    }
  });

  it('throws nothing but the typed error, whatever it is given', async () => {
    const line = fc.oneof(
      fc.string({ unit: 'binary' }),
      fc.constantFrom(
        'quiesce:',
        '  enabled: true',
        '  storm: &a',
        '    guests: *a',
        '? ',
        ': ',
        '%YAML 1.1',
        '---',
        '!!set',
      ),
    );
    await fc.assert(
      fc.asyncProperty(fc.array(line, { maxLength: 8 }), async (texts) => {
        await parsePolicy(texts.join('\n'), 'p').catch((error: unknown) =>
          assert.ok(isKvmhaError(error, 'malformed'), String(error)),
        );
      }),
      { numRuns: 500 },
    );
  });
});

describe('docs/policy.yaml', () => {
  const url = new URL('../../docs/policy.yaml', import.meta.url);

  it('is accepted, and its values are the defaults', async () => {
    assert.deepEqual(await parsePolicy(await readFile(url, 'utf8'), 'docs/policy.yaml'), DEFAULTS);
  });

  it('shows every key there is', async () => {
    function camelCased(value: unknown): unknown {
      return typeof value === 'object' && value !== null
        ? Object.fromEntries(
            Object.entries(value).map(([key, inner]) => [
              key.replace(/-(.)/g, (_, letter: string) => letter.toUpperCase()),
              camelCased(inner),
            ]),
          )
        : value;
    }
    assert.deepEqual(camelCased(parse(await readFile(url, 'utf8'))), DEFAULTS);
  });
});

describe('loadPolicy', () => {
  let directory: string;
  before(async () => {
    directory = await mkdtemp(join(tmpdir(), 'kvmha-policy-'));
  });
  after(() => rm(directory, { recursive: true }));

  it('reads the file', async () => {
    const path = join(directory, 'policy.yaml');
    await writeFile(path, 'monitor: { degraded: ignore }\n');
    assert.equal((await loadPolicy(path)).monitor.degraded, 'ignore');
  });

  it('gives the defaults when the default file is missing, but misses a file that was named', async (t) => {
    await assert.rejects(loadPolicy(join(directory, 'none')), (error) => isKvmhaError(error, 'file'));
    if (await readFile(DEFAULT_POLICY_PATH).catch(() => undefined)) {
      t.skip('this machine has a policy');
      return;
    }
    assert.deepEqual(await loadPolicy(DEFAULT_POLICY_PATH), DEFAULTS);
  });

  it('refuses a file that is too large, no text or no file', async () => {
    const path = join(directory, 'large.yaml');
    await writeFile(path, `#${' '.repeat(64 * 1024)}\n`);
    await assert.rejects(loadPolicy(path), refused(/more than 65536 bytes/));
    await writeFile(path, Uint8Array.of(0xff, 0xfe));
    await assert.rejects(loadPolicy(path), refused(/not UTF-8/));
    await assert.rejects(loadPolicy(directory), refused(/not a regular file/));
  });
});

import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import fc from 'fast-check';
import { Deadline } from '../../../lib/deadline.ts';
import { KvmhaError } from '../../../lib/error.ts';
import { readStat } from '../../../lib/linux/process.ts';
import type { Json, Monitor } from '../../../lib/qemu/qmp.ts';
import { observeProof } from '../../../lib/quiesce/observe.ts';
import { isComplete, missingItems, PROOF_ITEMS } from '../../../lib/quiesce/proof.ts';
import { SENTINEL_BYTES } from '../../../lib/quiesce/sentinel.ts';
import { parseRecord, type QuiesceRecord } from '../../../lib/record/record.ts';
import { classify } from '../../../lib/state/classify.ts';
import type { Observation } from '../../../lib/state/observation.ts';
import { observePreserved } from '../state/observations.ts';
import { anyJson, runs, withoutCrash } from './runs.ts';

type Path = readonly (string | number)[];

/** The paths to all values in a value, the whole one first. */
function pathsIn(value: unknown, path: Path = []): Path[] {
  const below = typeof value === 'object' && value !== null ? Object.entries(value) : [];
  return [path, ...below.flatMap(([key, each]) => pathsIn(each, [...path, key]))];
}

/** A copy of `value` with `instead` at `path`; undefined takes it out. */
function altered(value: unknown, path: Path, instead: unknown): unknown {
  const [key, ...rest] = path;
  if (key === undefined) {
    return instead;
  }
  const copy = (Array.isArray(value) ? [...value] : { ...(value as object) }) as Record<string, unknown>;
  const below = altered(copy[key], rest, instead);
  if (below === undefined) {
    delete copy[key];
  } else {
    copy[key] = below;
  }
  return copy;
}

/** Whether the guest is called failover-safe; a crash is no such word, either. */
function isSafe(observation: unknown): boolean {
  try {
    return classify(observation as Observation).state === 'quiesced-failover-safe';
  } catch {
    return false;
  }
}

describe('an observation of a preserved guest', () => {
  const seen = observePreserved();
  const says = (path: Path, word: string) => path.at(-1) === word;

  test('is that of a guest that is failover-safe', () => assert.ok(isSafe(seen)));

  for (const path of pathsIn(seen).filter(([view]) => view === 'proof' || view === 'process')) {
    // What was seen, and the pid, is for people.
    if (says(path, 'seen') || says(path, 'pid')) {
      continue;
    }
    test(`says that no more when ${path.join(' ')} is missing, or anything else`, () => {
      const was = path.reduce<unknown>((now, key) => (now as Record<string, unknown>)[key], seen);
      assert.ok(!isSafe(altered(seen, path, undefined)), 'missing');
      fc.assert(
        fc.property(anyJson, (instead) => {
          fc.pre(JSON.stringify(instead) !== JSON.stringify(was));
          assert.ok(!isSafe(altered(seen, path, instead)));
        }),
        runs(100),
      );
    });
  }

  test('says that no more when QMP says anything but that the vCPUs do not run', () => {
    assert.ok(!isSafe(altered(seen, ['monitor', 'running'], undefined)));
    fc.assert(
      fc.property(anyJson, (instead) => {
        fc.pre(instead !== false);
        assert.ok(!isSafe(altered(seen, ['monitor', 'running'], instead)));
      }),
      runs(200),
    );
  });

  test('never comes to say it when anything is taken from a guest that runs, is paused or has a fault', () => {
    for (const proof of [
      undefined,
      {},
      Object.fromEntries(PROOF_ITEMS.slice(1).map((item) => [item, { holds: true }])),
    ]) {
      const faulted = altered(seen, ['proof'], proof);
      fc.assert(
        fc.property(
          fc.constantFrom(...pathsIn(faulted).slice(1)),
          fc.option(anyJson, { nil: undefined }),
          (path, instead) => {
            assert.ok(!isSafe(altered(faulted, path, instead)));
          },
        ),
        runs(300),
      );
    }
  });
});

/** A process that is to the proof what a quiesced qemu is, and what that would answer. */
describe('the proof', () => {
  const directory = mkdtempSync(join(tmpdir(), 'kvmha-fuzz-'));
  const image = join(directory, 'image');
  const sentinel = {
    node: 'kvmha-sentinel-0',
    fileNode: 'kvmha-sentinel-0-file',
    path: join(directory, 'x.vdi'),
  };
  let qemu: ChildProcess;
  let record: QuiesceRecord;
  let answers: Record<string, Json>;

  before(async () => {
    writeFileSync(image, '');
    writeFileSync(sentinel.path, Buffer.alloc(SENTINEL_BYTES));
    const file = openSync(sentinel.path, 'r');
    // It has used processor time, as vCPUs have.
    const script = 'i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; echo; read x';
    qemu = spawn('sh', ['-c', script], { stdio: ['pipe', 'pipe', 'ignore', file] });
    closeSync(file);
    await new Promise((resolve) => qemu.stdout?.once('data', resolve));
    rmSync(sentinel.path);
    const pid = qemu.pid ?? 0;
    answers = {
      'query-status': { status: 'io-error', running: false },
      'query-cpus-fast': [{ 'thread-id': pid }],
      'query-named-block-nodes': [sentinel.node, sentinel.fileNode].map((name) => ({
        'node-name': name,
        drv: 'vdi',
        ro: false,
        active: false,
        image: { filename: sentinel.path },
        cache: { 'no-flush': false, direct: false },
      })),
      'query-block': [{ qdev: 'disk0', inserted: { 'node-name': sentinel.node } }],
      'query-blockstats': [{ qdev: 'disk0', stats: { wr_operations: 7, rd_operations: 4 } }],
      'query-migrate': { 'blocked-reasons': [`The vdi format used by node '${sentinel.node}' does not`] },
    };
    const written = {
      format: 1,
      name: 'web',
      uuid: '1b4e28ba-2fa1-11d2-883f-0016d3cca427',
      qemu: { pid, startTime: readStat(pid)?.startTime },
      fault: 'io-error',
      begun: '2026-01-01T00:00:00.000Z',
      media: [
        {
          qdev: 'disk0',
          readOnly: false,
          files: [image],
          nodes: [],
          images: [{ path: image, dev: 1, ino: 1, rdev: 0 }],
          sentinel,
          requests: 11,
        },
      ],
      interfaces: [],
      memory: ['/dev/hugepages/1'],
      inactivate: 'blockdev-set-active',
      wasRunning: true,
      durable: true,
    };
    record = parseRecord(JSON.stringify(written), 'quiesce.json');
  });

  after(() => {
    qemu.stdin?.end();
    qemu.kill('SIGKILL');
    rmSync(directory, { recursive: true, force: true });
  });

  /** The proof with what QEMU answers to one command instead; undefined refuses it. */
  function proofWith(of: QuiesceRecord, instead: Readonly<Record<string, unknown>>) {
    const monitor: Monitor = {
      execute: async (command) => {
        const answer = command in instead ? instead[command] : answers[command];
        if (answer === undefined) {
          throw new KvmhaError('qmp-error', `${command} is refused`);
        }
        return answer as Json;
      },
      close: () => undefined,
    };
    return observeProof(of, monitor, Deadline.in(60_000));
  }

  test('is whole where everything is as it should be', async () => {
    assert.deepEqual(missingItems(await proofWith(record, {})), []);
  });

  test('is not whole when QEMU answers any one question with anything else, or not at all', async () => {
    for (const command of Object.keys(answers)) {
      assert.ok(!isComplete(await proofWith(record, { [command]: undefined })), command);
    }
    await fc.assert(
      fc.asyncProperty(fc.constantFrom(...Object.keys(answers)), anyJson, async (command, instead) => {
        assert.ok(!isComplete(await proofWith(record, { [command]: instead })), command);
      }),
      runs(30),
    );
  });

  test('is not whole when any value that it rests on is another one', async () => {
    // What a node's driver is called, and whether it is read-only, shows in the kernel by the descriptor.
    const restsOn = Object.entries(answers).flatMap(([command, answer]) =>
      pathsIn(answer)
        .filter(
          (path) =>
            !['drv', 'ro', 'active', 'filename', 'no-flush', 'direct', 'image', 'cache'].includes(
              String(path.at(-1)),
            ),
        )
        .map((path) => ({ command, answer, path })),
    );
    const made = restsOn.map(async ({ command, answer, path }) => {
      const why = `${command} ${path.join(' ')}`;
      assert.ok(!isComplete(await proofWith(record, { [command]: altered(answer, path, null) })), why);
      assert.ok(!isComplete(await proofWith(record, { [command]: altered(answer, path, { x: 1 }) })), why);
    });
    await Promise.all(made);
    const active = altered(answers['query-named-block-nodes'], [0, 'active'], true);
    assert.ok(
      !isComplete(await proofWith(record, { 'query-named-block-nodes': active })),
      'an active sentinel',
    );
  });

  test('is not whole by a record that was damaged', async () => {
    const text = { ...record, format: 1 };
    const paths = pathsIn(text).filter(
      // Words for people, and what is of use to others.
      ([key, , field]) =>
        ![
          'name',
          'uuid',
          'fault',
          'begun',
          'interfaces',
          'inactivate',
          'wasRunning',
          'format',
          'memory',
        ].includes(String(key)) && !['files', 'nodes', 'images', 'readOnly'].includes(String(field)),
    );
    for (const path of paths) {
      for (const instead of [undefined, null, false, '/', '', -1, [], { x: 1 }]) {
        const damaged = await withoutCrash(() =>
          parseRecord(JSON.stringify(altered(text, path, instead) ?? null), 'x'),
        );
        if (damaged !== undefined) {
          const why = `${path.join(' ')}: ${JSON.stringify(instead)}`;
          assert.ok(!isComplete(await proofWith(damaged, {})), why);
        }
      }
    }
  });

  test('does not rest on a record that takes every file for memory, or names no image or server', async () => {
    const text = { ...record, format: 1 };
    for (const [path, instead] of [
      [['memory'], ['']],
      [['memory'], ['/']],
      [['memory'], [null]],
      [['media'], []],
      [['media', '0', 'images'], []],
      [['media', '0', 'images', '0', 'dev'], undefined],
      [['media', '0', 'images', '0', 'path'], ''],
      [['media', '0', 'sentinel', 'path'], ''],
      [['media', '0', 'servers'], [null]],
      [['media', '0', 'servers'], [{ transport: 'tcp', host: 'x', port: '10809' }]],
      [['media', '0', 'servers'], [{ transport: 'unix', path: '' }]],
      [['connections'], [1]],
    ] as const) {
      assert.throws(
        () => parseRecord(JSON.stringify(altered(text, path, instead)), 'quiesce.json'),
        (error) => error instanceof KvmhaError && error.code === 'malformed',
        `${path.join(' ')}: ${JSON.stringify(instead)}`,
      );
    }
  });
});

import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it, type TestContext } from 'node:test';
import { describeError, type HostError } from '../../lib/host/host-error.ts';
import { TraceReader } from '../../lib/host/tracefs.ts';
import { Probes } from '../support/trace-probes.ts';

describe("the kernel's trace", () => {
  let probes: Probes | string;
  before(() => {
    probes = Probes.set();
  });
  after(async () => {
    if (typeof probes !== 'string') {
      await probes[Symbol.asyncDispose]();
    }
  });

  function raised(context: TestContext): Probes | undefined {
    if (typeof probes === 'string') {
      context.skip(probes);
      return undefined;
    }
    return probes;
  }

  function instance(): string {
    return `kvmha-test-${process.pid}`;
  }

  it('tells of every error once', async (context) => {
    const here = raised(context);
    if (here === undefined) {
      return;
    }
    const reader = new TraceReader(here.tracefs, instance());
    try {
      assert.deepEqual(reader.read(), { errors: [], missed: 0 });
      await here.raise(0x1234, 2);
      const { errors } = reader.read();
      const words = (kind: HostError['kind']) =>
        errors.filter((error) => error.kind === kind).map(describeError);
      assert.deepEqual(words('page').sort(), [
        'memory: uncorrected error, a page was lost: page of type 2, Recovered (address 0x1234000)',
        'memory: uncorrected error, a page was lost: page of type 2, Recovered (address 0x1235000)',
      ]);
      assert.deepEqual(words('pci'), Array(2).fill('0000:3b:00.0: fatal error, status 0x4000'));
      assert.deepEqual(reader.read(), { errors: [], missed: 0 });
    } finally {
      reader.close();
    }
    assert.ok(!existsSync(join(here.tracefs, 'instances', instance())), 'the instance is left');
  });

  it('keeps what comes while nobody reads, for the next who does', async (context) => {
    const here = raised(context);
    if (here === undefined) {
      return;
    }
    // One that is never closed, as by a process that is killed.
    const killed = new TraceReader(here.tracefs, instance());
    assert.ok(killed.events.includes('memory_failure_event'));
    await here.raise(0x77, 1);
    const next = new TraceReader(here.tracefs, instance());
    assert.deepEqual(
      next
        .read()
        .errors.map(({ kind }) => kind)
        .sort(),
      ['page', 'pci'],
    );
    next.close();
    killed.close();
  });

  it('is read in bounded pieces in a flood, and tells that events were lost', async (context) => {
    const here = raised(context);
    if (here === undefined) {
      return;
    }
    const reader = new TraceReader(here.tracefs, instance());
    try {
      await here.raise(0x1000, 20_000);
      const pieces = Array.from({ length: 20 }, () => reader.read());
      assert.ok(pieces.every(({ errors }) => errors.length < 10_000));
      assert.ok(pieces.some(({ missed }) => missed > 0));
      assert.deepEqual(reader.read(), { errors: [], missed: 0 });
    } finally {
      reader.close();
    }
  });
});

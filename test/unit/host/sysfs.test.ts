import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, before, beforeEach, describe, it } from 'node:test';
import { Deadline } from '../../../lib/deadline.ts';
import { KvmhaError } from '../../../lib/error.ts';
import type { HostHealth } from '../../../lib/host/health.ts';
import { describeError, type HostError } from '../../../lib/host/host-error.ts';
import type { HealthKeeper } from '../../../lib/host/keeper.ts';
import { located, readCounters } from '../../../lib/host/sysfs.ts';
import type { JournalEntry } from '../../../lib/journal.ts';
import { DEFAULT_POLICY } from '../../../lib/policy.ts';
import { HostWatch } from '../../../lib/watch/host-watch.ts';

let root: string;
before(() => {
  root = mkdtempSync(join(tmpdir(), 'kvmha-sysfs-'));
});
after(() => rmSync(root, { recursive: true }));
beforeEach(() => rmSync(join(root, 'sys'), { recursive: true, force: true }));

/** As Documentation/ABI/testing describes sysfs-devices-edac, sysfs-bus-pci-devices-aer and sysfs-memory-failure. */
function write(files: Readonly<Record<string, string>>): string {
  for (const [name, text] of Object.entries(files)) {
    const path = join(root, 'sys', name);
    mkdirSync(dirname(path), { recursive: true });
    // In one step, as the kernel's are, one file after the other.
    writeFileSync(`${path}.new`, text);
    renameSync(`${path}.new`, path);
  }
  return join(root, 'sys');
}

const MC = 'devices/system/edac/mc/mc0';
const PCI = 'bus/pci/devices/0000:3b:00.0';

function edac(corrected: number, uncorrected: number): Record<string, string> {
  return {
    [`${MC}/dimm0/dimm_label`]: 'CPU_SrcID#0_Ha#0_Chan#0_DIMM#0\n',
    [`${MC}/dimm0/dimm_ce_count`]: `${corrected}\n`,
    [`${MC}/dimm0/dimm_ue_count`]: `${uncorrected}\n`,
    [`${MC}/dimm3/dimm_label`]: '\n',
    [`${MC}/dimm3/dimm_ce_count`]: '0\n',
    [`${MC}/ce_count`]: `${corrected}\n`,
    [`${MC}/ue_count`]: `${uncorrected}\n`,
  };
}

describe('sysfs', () => {
  it('has counters of memory controllers by DIMM, of PCI devices, and of lost pages by NUMA node', () => {
    const sysfs = write({
      ...edac(2, 1),
      [`${PCI}/aer_dev_correctable`]: 'RxErr 3\nBadTLP 0\nTOTAL_ERR_COR 3\n',
      [`${PCI}/aer_dev_fatal`]: 'Undefined 0\nTOTAL_ERR_FATAL 0\n',
      [`${PCI}/numa_node`]: '1\n',
      'devices/system/node/node0/memory_failure/total': '1\n',
      'devices/system/node/node1/memory_failure/total': '2\n',
    });
    const { counters, missing } = readCounters(sysfs);
    assert.deepEqual(missing, []);
    assert.deepEqual(
      counters.map(({ key, count, parts }) => [key, count, parts]),
      [
        ['mc0 corrected', 2, { 'CPU_SrcID#0_Ha#0_Chan#0_DIMM#0': 2, dimm3: 0 }],
        ['mc0 uncorrected', 1, { 'CPU_SrcID#0_Ha#0_Chan#0_DIMM#0': 1, dimm3: 0 }],
        ['0000:3b:00.0 corrected', 3, { RxErr: 3, BadTLP: 0 }],
        ['0000:3b:00.0 fatal', 0, { Undefined: 0 }],
        ['pages', 3, { 'NUMA node 0': 1, 'NUMA node 1': 2 }],
      ],
    );
    assert.equal(counters[2]?.numaNode, 1);
  });

  it('is told of where it has nothing', () => {
    const { counters, missing } = readCounters(join(root, 'nothing'));
    assert.deepEqual(counters, []);
    assert.equal(missing.length, 3);
  });

  it('tells the NUMA node of an address and of a PCI device', () => {
    const sysfs = write({
      'devices/system/memory/block_size_bytes': '8000000\n',
      'devices/system/node/node0/memory31/state': 'online\n',
      'devices/system/node/node1/memory32/state': 'online\n',
      [`${PCI}/numa_node`]: '1\n',
      'bus/pci/devices/0000:00:00.0/numa_node': '-1\n',
    });
    const error: HostError = {
      kind: 'memory',
      severity: 'corrected',
      source: 'x',
      count: 1,
      component: 'mc0',
      message: '',
    };
    assert.equal(located({ ...error, address: 0x8000000n * 32n + 5n }, sysfs).numaNode, 1);
    assert.equal(located({ ...error, address: 0x8000000n * 99n }, sysfs).numaNode, undefined);
    const pci = (component: string) => located({ ...error, kind: 'pci', component }, sysfs).numaNode;
    assert.equal(pci('0000:3b:00.0'), 1);
    assert.equal(pci('0000:00:00.0'), undefined);
    assert.equal(pci('../0000:3b:00.0'), undefined);
  });
});

describe('the watch over the host', () => {
  let reported: HostError[];
  let said: string[];
  let entries: JournalEntry[];
  let watch: HostWatch | undefined;
  let isLocked: boolean;

  function started(sysfs: string): HostWatch {
    const log = {
      debug: () => {},
      info: (words: string) => void said.push(words),
      warn: (words: string) => void said.push(words),
      err: (words: string) => void said.push(`error: ${words}`),
    };
    const host = { ...DEFAULT_POLICY.host, interval: 0.02 };
    const keeper = {
      policy: async () => ({ ...DEFAULT_POLICY, host }),
      report: async (errors: readonly HostError[]) => {
        if (isLocked) {
          throw new KvmhaError('locked', 'somebody has the lock');
        }
        reported.push(...errors);
        return {} as HostHealth;
      },
      keepUp: async () => {},
    };
    const journal = { record: (entry: JournalEntry) => void entries.push(entry) };
    // What the keeper does to the node is its own test's.
    watch = new HostWatch(keeper as unknown as HealthKeeper, log, journal, {
      tracefs: [join(root, 'no-tracefs')],
      sysfs,
      counters: join(root, 'counters.json'),
    });
    void watch.start();
    return watch;
  }

  async function until(what: string, condition: () => boolean): Promise<void> {
    const met = await Deadline.in(20_000).poll(5, () => condition() || undefined);
    assert.ok(met, `${what}: ${JSON.stringify({ said, reported })}`);
  }

  beforeEach(async () => {
    await watch?.stop();
    watch = undefined;
    reported = [];
    isLocked = false;
    said = [];
    entries = [];
    rmSync(join(root, 'counters.json'), { force: true });
  });
  after(() => watch?.stop());

  it('says once what it cannot hear of', async () => {
    const here = started(join(root, 'nothing'));
    await until('it is said', () => said.length > 0);
    assert.match(said[0] ?? '', /tracefs is not mounted.*no EDAC driver.*no AER/);
    const before = here.status().missing;
    await new Promise((resolve) => setTimeout(resolve, 200));
    assert.equal(said.length, 1);
    assert.equal(before.length, 4);
  });

  it('finds by the counters what no event has told, with its DIMM and its device', async () => {
    const sysfs = write({
      ...edac(5, 0),
      [`${PCI}/aer_dev_nonfatal`]: 'CmpltTO 0\nTOTAL_ERR_NONFATAL 0\n',
    });
    const here = started(sysfs);
    await until('it was read once', () => here.status().counters.pci === 1);
    write({ ...edac(6, 1), [`${PCI}/aer_dev_nonfatal`]: 'CmpltTO 2\nTOTAL_ERR_NONFATAL 2\n' });
    await until('three are found', () => reported.length === 3);
    assert.deepEqual(reported.map(describeError).sort(), [
      '0000:3b:00.0: 2 uncorrected errors, CmpltTO',
      'mc0 CPU_SrcID#0_Ha#0_Chan#0_DIMM#0: corrected error',
      'mc0 CPU_SrcID#0_Ha#0_Chan#0_DIMM#0: uncorrected error',
    ]);
  });

  it('takes what was counted before the first watcher for nothing new, and tells of it', async () => {
    const here = started(write(edac(1000, 1)));
    await until('it was read once', () => here.status().counters.memory === 1);
    await here.stop();
    assert.deepEqual(reported, []);
    assert.deepEqual(
      entries.map(({ words }) => words),
      ['mc0: 1 uncorrected errors since boot, before the watcher listened'],
    );
  });

  it('finds what was counted between two watchers', async () => {
    const sysfs = write(edac(0, 0));
    const first = started(sysfs);
    await until('it was read once', () => first.status().counters.memory === 1);
    await first.stop();
    write(edac(0, 1));
    started(sysfs);
    await until('it is found', () => reported.length === 1);
  });

  it('takes lost memory for that of the guest of which QEMU tells at the same time, each time once', async () => {
    const sysfs = write(edac(0, 0));
    const here = started(sysfs);
    await until('it was read once', () => here.status().counters.memory === 1);
    here.guestHit('web');
    write(edac(0, 1));
    await until('it is found', () => reported.length === 1);
    assert.equal(reported[0]?.guest, 'web');
    write(edac(0, 2));
    await until('it is found', () => reported.length === 2);
    assert.equal(reported[1]?.guest, undefined);
  });

  it('tries again to report what could not be put down', async () => {
    const here = started(write(edac(0, 0)));
    await until('it was read once', () => here.status().counters.memory === 1);
    isLocked = true;
    write(edac(0, 3));
    await until('it was tried', () => said.some((words) => words.includes('somebody has the lock')));
    isLocked = false;
    await until('it is found', () => reported.length === 1);
    assert.equal(reported[0]?.count, 3);
  });

  it('waits a moment for what QEMU tells', async () => {
    const sysfs = write(edac(0, 0));
    const here = started(sysfs);
    await until('it was read once', () => here.status().counters.memory === 1);
    write(edac(0, 1));
    const counters = () => readFileSync(join(root, 'counters.json'), 'utf8');
    await until('it was seen', () => /mc0 uncorrected[^}]*"count":1/.test(counters()));
    assert.equal(reported.length, 0);
    here.guestHit('web');
    await until('it is found', () => reported.length === 1);
    assert.equal(reported[0]?.guest, 'web');
  });
});

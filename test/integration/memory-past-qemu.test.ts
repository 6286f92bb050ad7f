import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { Deadline } from '../../lib/deadline.ts';
import { isKvmhaError } from '../../lib/error.ts';
import { dumpPastQemu, type MemoryLayout, memoryLayout } from '../../lib/guest/memory-past-qemu.ts';
import { isAlive, type ProcessIdentity, readStat } from '../../lib/linux/process.ts';
import { QmpSocket } from '../../lib/qemu/qmp.ts';
import { runChecked } from '../../lib/run.ts';
import { until } from '../support/host.ts';
import { qemus } from '../support/qemus.ts';

const MEMORY = 16 * 1024 ** 2;
/** From here on the memory cannot be read once its file ends here. */
const READABLE = MEMORY - 512 * 1024;

const soon = () => Deadline.in(60_000);

/** What is at which physical address, by a core file, in the order of the addresses; what adjoins is one. */
async function memoryOf(core: string): Promise<{ physical: number; content: Buffer }[]> {
  const content = readFileSync(core);
  const listed = await runChecked('readelf', ['--segments', '--wide', core], { deadline: soon() });
  const segments = [...listed.matchAll(/^ +LOAD +0x(\w+) 0x\w+ 0x(\w+) 0x(\w+) /gm)]
    .map(([, ...numbers]) => numbers.map((number) => Number.parseInt(number, 16)))
    .sort(([, one = 0], [, other = 0]) => one - other);
  const pieces: { physical: number; content: Buffer }[] = [];
  for (const [at = 0, physical = 0, bytes = 0] of segments) {
    const piece = content.subarray(at, at + bytes);
    const last = pieces.at(-1);
    if (last !== undefined && last.physical + last.content.length === physical) {
      last.content = Buffer.concat([last.content, piece]);
    } else {
      pieces.push({ physical, content: piece });
    }
  }
  return pieces;
}

for (const { name, emulator, skip } of await qemus()) {
  describe(`the memory of a guest is copied past ${name}`, { skip, timeout: 300_000 }, () => {
    let folder: string;
    let file: string;
    let child: ChildProcess;
    let qemu: ProcessIdentity;
    let monitor: QmpSocket;
    let layout: MemoryLayout;

    before(async () => {
      folder = mkdtempSync(join(tmpdir(), 'kvmha-memory-'));
      file = join(folder, 'ram');
      const socket = join(folder, 'qmp');
      const content = Buffer.alloc(MEMORY);
      for (let at = 0; at < MEMORY; at += 4096) {
        content.writeUInt32LE(at, at);
      }
      writeFileSync(file, content);
      const options = [
        ...['-S', '-display', 'none', '-nodefaults', '-m', `${MEMORY / 1024 ** 2}M`],
        ...['-object', `memory-backend-file,id=ram,size=${MEMORY},mem-path=${file},share=on`],
        ...['-machine', 'pc,accel=tcg,memory-backend=ram', '-qmp', `unix:${socket},server=on,wait=off`],
      ];
      child = spawn(emulator ?? '/usr/bin/qemu-system-x86_64', options, { stdio: 'inherit' });
      await until('QEMU to listen', () => existsSync(socket));
      monitor = await QmpSocket.connect(socket, soon());
      // The emulator may be a script that has become QEMU.
      const pid = child.pid ?? 0;
      qemu = { pid, startTime: readStat(pid)?.startTime ?? 0 };
      layout = await memoryLayout(monitor, soon());
    });
    after(async () => {
      monitor?.close();
      if (child?.exitCode === null && child.signalCode === null) {
        child.kill('SIGKILL');
        await once(child, 'exit');
      }
      rmSync(folder, { recursive: true });
    });

    const copyTo = (into: string) => {
      mkdirSync(join(folder, into));
      return dumpPastQemu(layout, qemu, join(folder, into), () => {}, soon());
    };

    test('is what QEMU itself would write, with the registers of each vCPU', async () => {
      const own = join(folder, 'own.elf');
      await monitor.execute('dump-guest-memory', { paging: false, protocol: `file:${own}` }, soon());
      assert.deepEqual(await copyTo('whole'), []);
      const core = join(folder, 'whole/memory.elf');
      const [expected, found] = [await memoryOf(own), await memoryOf(core)];
      assert.deepEqual(
        found.map(({ physical, content }) => [physical, content.length]),
        expected.map(({ physical, content }) => [physical, content.length]),
      );
      assert.ok(found.every(({ content }, index) => content.equals(expected[index]?.content as Buffer)));
      const notes = await runChecked('readelf', ['--notes', core], { deadline: soon() });
      assert.equal(notes.match(/NT_PRSTATUS/g)?.length, 1, notes);
    });

    test('what cannot be read is left out and told, and QEMU lives', async () => {
      const whole = await memoryOf(join(folder, 'whole/memory.elf'));
      truncateSync(file, READABLE);
      assert.deepEqual(await copyTo('holed'), [{ physical: READABLE, bytes: MEMORY - READABLE }]);
      const holed = await memoryOf(join(folder, 'holed/memory.elf'));
      assert.equal(holed.length, whole.length);
      for (const [index, { physical, content }] of holed.entries()) {
        const before = whole[index]?.content as Buffer;
        assert.equal(physical, whole[index]?.physical);
        assert.ok(content.equals(physical < READABLE ? before.subarray(0, READABLE - physical) : before));
      }
      assert.ok(isAlive(qemu));
      await monitor.execute('query-status', {}, soon());
    });

    test('a QEMU that has ended is an error, and no memory that cannot be read', async () => {
      child.kill('SIGKILL');
      await once(child, 'exit');
      await assert.rejects(copyTo('gone'), (error) => isKvmhaError(error, 'unreachable', 'file'));
      assert.ok(!existsSync(join(folder, 'gone/memory.elf')));
    });
  });
}

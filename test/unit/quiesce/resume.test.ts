import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { Deadline } from '../../../lib/deadline.ts';
import { type FileStamp, stampFiles } from '../../../lib/linux/file-stamp.ts';
import { changed } from '../../../lib/quiesce/resume.ts';

const EXT4 = 0xef53;
const LEFT: FileStamp = {
  dev: 64,
  ino: 12,
  kind: 'file',
  size: 4096,
  modified: '1795582213.433551817',
  changed: '1795582213.433551817',
};

describe('an image is as it was left', () => {
  test('only if nothing about it has changed', () => {
    assert.equal(changed('/a', LEFT, { ...LEFT }, EXT4), undefined);
    const later = '1795582213.433551818';
    const cases: [Partial<FileStamp>, RegExp][] = [
      [{ modified: later }, /it was written to at 2026-11-25T/],
      [{ changed: later }, /or its owner or another attribute, was changed at 2026-11-25T/],
      [{ size: 4097 }, /it had 4096 bytes and has 4097/],
      [{ ino: 13 }, /it is another file now/],
      [{ dev: 65 }, /it is another file now/],
    ];
    for (const [difference, why] of cases) {
      assert.match(changed('/a', LEFT, { ...LEFT, ...difference }, EXT4) ?? '', why);
    }
  });

  test('only where its storage would tell that it is not', () => {
    assert.match(
      changed('/a', LEFT, LEFT, 0x65735546) ?? '',
      /on a file system \(type 0x65735546\) of which/,
    );
    const device = { ...LEFT, kind: 'block-device' } as const;
    assert.match(changed('/a', device, device, EXT4) ?? '', /is a block device/);
    const coarse = { ...LEFT, modified: '1795582213.000000000', changed: '1795582213.000000000' };
    assert.match(changed('/a', coarse, coarse, EXT4) ?? '', /keeps times in whole seconds/);
    assert.match(changed('/a', undefined, LEFT, EXT4) ?? '', /not known how it was left/);
  });
});

test('the stamp of a file is what stat(2) says, and another one after every change', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'kvmha-stamp-'));
  try {
    const path = join(folder, 'an image');
    writeFileSync(path, 'one');
    const { dev, ino } = statSync(path);
    const [before, of] = await stampFiles([path, folder], Deadline.in(10_000));
    assert.deepEqual([before?.dev, before?.ino, before?.kind, before?.size], [dev, ino, 'file', 3]);
    assert.equal(of?.kind, 'other');
    assert.deepEqual(await stampFiles([path], Deadline.in(10_000)), [before]);
    // The kernel's clock for files goes on every few milliseconds.
    for (let [now] = [before]; now?.changed === before?.changed; ) {
      writeFileSync(path, 'two');
      [now] = await stampFiles([path], Deadline.in(10_000));
    }
    await assert.rejects(stampFiles([join(folder, 'none')], Deadline.in(10_000)), /No such file/);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

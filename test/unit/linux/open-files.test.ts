import assert from 'node:assert/strict';
import {
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { Deadline } from '../../../lib/deadline.ts';
import { stampFiles, stampLocalFile } from '../../../lib/linux/file-stamp.ts';
import { Mounts } from '../../../lib/linux/local-mounts.ts';
import { openedLocally } from '../../../lib/linux/open-files.ts';
import { identifyImages } from '../../../lib/quiesce/image.ts';

const directory = mkdtempSync(join(realpathSync(tmpdir()), 'kvmha-open-files-'));
after(() => rmSync(directory, { recursive: true }));
const deadline = () => Deadline.in(20_000);

function made(name: string): string {
  const path = join(directory, name);
  writeFileSync(path, 'content');
  return path;
}

describe('an image is identified by the file that a process has open', () => {
  test('under its own name, or by symbolic links to it', async () => {
    const path = made('image');
    mkdirSync(join(directory, 'folder'));
    symlinkSync('..', join(directory, 'folder', 'up'));
    symlinkSync(join(directory, 'folder', 'up', 'image'), join(directory, 'link'));
    const file = openSync(path, 'r+');
    const { dev, ino } = statSync(path);
    for (const name of [path, join(directory, 'link'), join(directory, 'folder/up/image')]) {
      assert.deepEqual(await identifyImages(process.pid, [name], deadline()), [{ path, dev, ino, rdev: 0 }]);
    }
    assert.deepEqual(openedLocally(process.pid, [path, join(directory, 'link')]), new Set([path]));
    closeSync(file);
    await assert.rejects(
      identifyImages(process.pid, [path], deadline()),
      /is not the one that qemu has open/,
    );
  });

  test('and not by another one of its name', async () => {
    const path = made('replaced');
    const file = openSync(path, 'r+');
    renameSync(path, `${path}.moved`);
    await assert.rejects(identifyImages(process.pid, [path], deadline()), /replaced.*No such file/s);
    writeFileSync(path, 'content');
    await assert.rejects(
      identifyImages(process.pid, [path], deadline()),
      /is not the one that qemu has open/,
    );
    closeSync(file);
  });
});

test('a file is stamped at once as it is by a child', async () => {
  const path = made('stamped');
  assert.deepEqual([stampLocalFile(path)], await stampFiles([path], deadline()));
});

test('symbolic links are resolved as the kernel does, and one that leads nowhere, or round in circles, stays', () => {
  const path = made('target');
  const mounts = new Mounts('self');
  symlinkSync('target', join(directory, 'first'));
  symlinkSync(`${directory}/./first`, join(directory, 'second'));
  assert.equal(mounts.resolve(join(directory, 'second')), path);
  symlinkSync('absent/below', join(directory, 'dangling'));
  assert.equal(mounts.resolve(join(directory, 'dangling')), join(directory, 'absent/below'));
  symlinkSync('circle', join(directory, 'circle'));
  assert.equal(mounts.resolve(join(directory, 'circle')), join(directory, 'circle'));
});

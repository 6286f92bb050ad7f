import assert from 'node:assert/strict';
import { closeSync, mkdtempSync, openSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { imagesOf } from '../../../lib/guest/look.ts';

describe('the images of a qemu', () => {
  let directory: string;
  let image: string;
  let descriptor: number;

  before(() => {
    directory = mkdtempSync(join(tmpdir(), 'kvmha-images-'));
    image = join(directory, 'disk.img');
    writeFileSync(image, '');
    symlinkSync(image, join(directory, 'link.img'));
    descriptor = openSync(image, 'r+');
  });

  after(() => {
    closeSync(descriptor);
    rmSync(directory, { recursive: true });
  });

  /** This process in the place of a qemu that was given `blockdevs`. */
  function images(...blockdevs: string[]) {
    const argv = ['qemu', '-name', 'guest=g', ...blockdevs.flatMap((value) => ['-blockdev', value])];
    return imagesOf({ pid: process.pid, startTime: 0, state: 'S', argv, uuid: undefined });
  }

  function blockdev(path: string, more: object = {}): string {
    return JSON.stringify({
      driver: 'file',
      filename: path,
      cache: { direct: true, 'no-flush': false },
      ...more,
    });
  }

  test('are those of its command line, each with its cache', () => {
    assert.deepEqual(images(blockdev(image)), [{ path: image, direct: true }]);
  });

  test('count once when they are named by a link', () => {
    const link = join(directory, 'link.img');
    assert.deepEqual(images(blockdev(link)), [{ path: link, direct: true }]);
  });

  test('do not include what it only reads', () => {
    const paths = images(blockdev('/shared/read-only.iso', { 'read-only': true })).map(({ path }) => path);
    assert.ok(!paths.includes('/shared/read-only.iso'));
  });

  test('include what it has open beside them, to be synced', () => {
    assert.ok(images().some(({ path, direct }) => path === image && !direct));
  });

  test('are found where a -blockdev is not JSON, which fails no stop', () => {
    assert.ok(images(`driver=file,filename=${image}`).some(({ path }) => path === image));
  });
});

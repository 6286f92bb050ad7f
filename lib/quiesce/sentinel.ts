import { closeSync, fchownSync, lstatSync, openSync, rmSync, statSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { KvmhaError, messageOf } from '../error.ts';

/**
 * A sentinel: a throw-away image that takes the place of a guest's image. Once its node is inactive and its file is
 * removed, QEMU cannot activate the guest's disks again.
 */
export interface Sentinel {
  /** The block node that the device is moved to. */
  readonly node: string;
  /** The block node of the file beneath it. */
  readonly fileNode: string;
  readonly path: string;
}

/** What the names of the sentinels' block nodes begin with. */
export const SENTINEL_PREFIX = 'kvmha-sentinel-';

/** Bytes of a sentinel's file as it is made. One that has grown was written to: the guest ran on it. */
export const SENTINEL_BYTES = 1024;

/**
 * Names the sentinel of a guest's medium number `index`. Nothing is made yet.
 *
 * The file's name cannot be guessed, so that nobody, also not by a mistake or from inside a broken-into qemu, puts a
 * file in its place that QEMU could open when it is to be resumed.
 */
export function newSentinel(directory: string, index: number): Sentinel {
  const node = `${SENTINEL_PREFIX}${index}`;
  const name = `${node}-${randomBytes(16).toString('hex')}.vdi`;
  return { node, fileNode: `${node}-file`, path: join(directory, name) };
}

/**
 * Makes the file of a sentinel, for the owner of the folder that it is in; what an interrupted attempt left there is
 * replaced.
 *
 * The format is vdi, which QEMU refuses to save and to migrate, so that nobody can carry the guest away. The disk in
 * it is as small as can be: a guest that ran on it all the same is told of errors.
 *
 * @throws KvmhaError `file`
 */
export function makeSentinelFile({ path }: Sentinel): void {
  try {
    rmSync(path, { force: true });
    const owner = statSync(join(path, '..'));
    // qemu's user owns the folder: O_EXCL ("x") follows no symbolic link that may have been laid there.
    const file = openSync(path, 'wx', 0o600);
    try {
      fchownSync(file, owner.uid, owner.gid);
      writeSync(file, emptyVdi());
    } finally {
      closeSync(file);
    }
  } catch (cause) {
    throw new KvmhaError('file', `${path} cannot be made: ${messageOf(cause)}`, { cause });
  }
}

/**
 * Removes the file of a sentinel that no node of QEMU uses any more. A folder in its place is none of ours, and left.
 *
 * @throws the error of unlink(2)
 */
export function removeSentinelFile({ path }: Sentinel): void {
  if (lstatSync(path, { throwIfNoEntry: false })?.isDirectory() !== true) {
    rmSync(path, { force: true });
  }
}

/**
 * Removes the file of a sentinel whose node is inactive, so that QEMU cannot activate it again; that it is gone already
 * is no failure.
 *
 * @throws KvmhaError `file`
 */
export function unlinkSentinel({ path }: Sentinel): void {
  try {
    rmSync(path, { force: true });
  } catch (cause) {
    const isFolder = lstatSync(path, { throwIfNoEntry: false })?.isDirectory() === true;
    const why = isFolder
      ? 'somebody has made a folder in its place. Remove that, and quiesce the guest again'
      : messageOf(cause);
    throw new KvmhaError('file', `the sentinel ${path} cannot be removed: ${why}`, { cause });
  }
}

/**
 * An image of one block, not allocated. The header is VirtualBox's, version 1.1, as block/vdi.c of QEMU reads it
 * (all little-endian): a text, signature, version, then the header proper from byte 72 on, and the block map behind
 * it.
 */
function emptyVdi(): Buffer {
  const image = Buffer.alloc(SENTINEL_BYTES);
  const blockSize = 1024 * 1024;
  const mapAt = 512;
  image.write('<<< kvmha sentinel >>>\n');
  image.writeUInt32LE(0xbeda107f, 64);
  image.writeUInt32LE(0x00010001, 68);
  image.writeUInt32LE(0x180, 72); // size of the header
  image.writeUInt32LE(1, 76); // grows as it is written to
  image.writeUInt32LE(mapAt, 340);
  image.writeUInt32LE(SENTINEL_BYTES, 344); // where blocks begin
  image.writeUInt32LE(512, 360); // bytes of a sector
  image.writeBigUInt64LE(BigInt(blockSize), 368); // bytes of the disk
  image.writeUInt32LE(blockSize, 376);
  image.writeUInt32LE(1, 384); // blocks of the disk
  randomBytes(32).copy(image, 392); // its uuid and that of its last snapshot
  image.writeUInt32LE(0xffffffff, mapAt); // the block is not allocated
  return image;
}

/** Loaded when needed: a monitor of a guest that runs must not pay 2 ms for it. */
function randomBytes(length: number): Buffer {
  return process.getBuiltinModule('node:crypto').randomBytes(length);
}

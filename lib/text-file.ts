import { type BigIntStats, constants } from 'node:fs';
import { open } from 'node:fs/promises';
import { errnoOf, KvmhaError, messageOf } from './error.ts';

export interface TextFile {
  readonly text: string;
  /** Of the file that was read, taken before reading it. */
  readonly stat: BigIntStats;
}

/**
 * Reads a UTF-8 text file (a byte order mark is dropped) without trusting it: it must be a regular file, so
 * that a pipe or a device cannot block the reader, and no larger than `maxBytes`.
 *
 * @throws KvmhaError `file` when it cannot be read, with the system's error as cause; `malformed` when it is
 *   no regular file, too large or not UTF-8
 */
export async function readTextFile(path: string, maxBytes: number): Promise<TextFile> {
  const bytes = await readBytes(path, maxBytes);
  try {
    return { text: new TextDecoder('utf-8', { fatal: true }).decode(bytes.content), stat: bytes.stat };
  } catch (error) {
    throw new KvmhaError('malformed', `${path} is not UTF-8 text`, { cause: error });
  }
}

async function readBytes(path: string, maxBytes: number): Promise<{ content: Buffer; stat: BigIntStats }> {
  try {
    // O_NONBLOCK: the open of a pipe must not wait for a writer.
    const file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY);
    try {
      const stat = await file.stat({ bigint: true });
      if (!stat.isFile()) {
        throw new KvmhaError('malformed', `${path} is not a regular file`);
      }
      if (stat.size > maxBytes) {
        throw new KvmhaError('malformed', `${path} has more than ${maxBytes} bytes`);
      }
      // One byte more than there should be shows that the file is growing.
      const buffer = Buffer.alloc(Number(stat.size) + 1);
      let length = 0;
      while (length < buffer.length) {
        const { bytesRead } = await file.read(buffer, length, buffer.length - length);
        if (bytesRead === 0) {
          return { content: buffer.subarray(0, length), stat };
        }
        length += bytesRead;
      }
      throw new KvmhaError('file', `${path} grew while it was read`);
    } finally {
      await file.close();
    }
  } catch (error) {
    if (error instanceof KvmhaError) {
      throw error;
    }
    throw new KvmhaError('file', `cannot read ${path}: ${errnoOf(error) ?? messageOf(error)}`, {
      cause: error,
    });
  }
}

import { readFileSync } from 'node:fs';
import { dirname } from 'node:path';
import type { Deadline } from '../../deadline.ts';
import { isKvmhaError, messageOf } from '../../error.ts';
import type { DiskXml } from '../../libvirt/domain-xml.ts';
import { run, runChecked } from '../../run.ts';
import { type FileAccess, type FileFacts, type ImageFacts, known, unknown } from '../facts.ts';
import { mountOf, parseMounts } from '../mounts.ts';

/** Milliseconds in which storage must tell what a file is. */
const PATIENCE = 3000;

const S_IFMT = 0o170000;
const S_IFREG = 0o100000;
const S_IFBLK = 0o060000;

/** Looks at the images of disks that are files or block devices. */
export function collectImages(disks: readonly DiskXml[], deadline: Deadline): Promise<ImageFacts[]> {
  const images = disks.flatMap((disk) => {
    const path = disk.source.file ?? disk.source.dev;
    return path === undefined ? [] : [{ disk, path }];
  });
  return Promise.all(
    images.map(
      async ({ disk, path }): Promise<ImageFacts> => ({
        target: disk.target.dev ?? '?',
        path,
        readOnly: disk.readonly || disk.device === 'cdrom',
        shareable: disk.shareable,
        ...(await lookAt(path, deadline.within(PATIENCE))),
      }),
    ),
  );
}

/** In children: on storage that hangs, the system calls never return, and cannot be taken back. */
async function lookAt(path: string, deadline: Deadline): Promise<Pick<ImageFacts, 'file' | 'hangs'>> {
  try {
    const resolved = (
      await runChecked('realpath', ['--canonicalize-existing', '--zero', '--', path], { deadline })
    ).replace(/\0.*$/s, '');
    const paths = [resolved, ...foldersAbove(resolved)];
    const lines = await runChecked('stat', ['--printf', '%f %u %g\\n', '--', ...paths], { deadline });
    const access = lines.split('\n').flatMap((line, index): FileAccess[] => {
      const [mode = '', uid, gid] = line.split(' ');
      const of = paths[index];
      return of === undefined || uid === undefined
        ? []
        : [{ path: of, mode: Number.parseInt(mode, 16), uid: Number(uid), gid: Number(gid) }];
    });
    const type = (access[0]?.mode ?? 0) & S_IFMT;
    const file = known<FileFacts>({
      kind: type === S_IFREG ? 'file' : type === S_IFBLK ? 'block' : 'other',
      access: access.map((each) => ({ ...each, mode: each.mode & 0o7777 })),
      mount: mountOf(resolved, parseMounts(readFileSync('/proc/self/mountinfo', 'utf8'))),
    });
    return { file, hangs: false };
  } catch (error) {
    if (isKvmhaError(error)) {
      return { file: unknown(messageOf(error)), hangs: isKvmhaError(error, 'deadline') };
    }
    throw error;
  }
}

/**
 * Whether the storage that a file is on answers at all, be the file there or not.
 *
 * @returns why not; undefined if it does
 */
export async function silenceOf(path: string, deadline: Deadline): Promise<string | undefined> {
  try {
    await run('stat', ['--', path], { deadline: deadline.within(PATIENCE), what: `stat ${path}` });
    return undefined;
  } catch (error) {
    if (isKvmhaError(error)) {
      return messageOf(error);
    }
    throw error;
  }
}

function foldersAbove(path: string): string[] {
  const folder = dirname(path);
  return folder === path ? [] : [folder, ...foldersAbove(folder)];
}

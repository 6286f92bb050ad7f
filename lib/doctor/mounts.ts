/** A mounted file system. */
export interface Mount {
  readonly point: string;
  /** The kernel's name of the file system, as in `ext4`, `nfs4`. */
  readonly type: string;
  readonly source: string;
  /** The options of the file system itself, which for NFS say how it locks. */
  readonly options: readonly string[];
}

/** File systems that several hosts can have mounted at once and keep coherent. */
const SHARED = new Set([
  ...[
    'nfs',
    'nfs4',
    'cifs',
    'smb3',
    'ceph',
    'gfs2',
    'ocfs2',
    'gpfs',
    'lustre',
    'beegfs',
    'afs',
    '9p',
    'vxfs',
  ],
  ...[
    'fuse.glusterfs',
    'fuse.ceph',
    'fuse.ceph-fuse',
    'fuse.quobyte',
    'fuse.moosefs',
    'fuse.mfs',
    'fuse.sshfs',
  ],
]);

/** Whether other hosts can see what is on it. */
export function isShared({ type }: Mount): boolean {
  return SHARED.has(type);
}

/**
 * Reads /proc/PID/mountinfo (proc(5)).
 *
 * @returns the mounts in the order in which they were made
 */
export function parseMounts(text: string): Mount[] {
  return text.split('\n').flatMap((line) => {
    const [own, fileSystem] = line.split(' - ');
    const point = own?.split(' ')[4];
    const [type, source, options] = fileSystem?.split(' ') ?? [];
    return point === undefined || type === undefined
      ? []
      : [
          {
            point: unescaped(point),
            type,
            source: unescaped(source ?? ''),
            options: (options ?? '').split(','),
          },
        ];
  });
}

/** The mount that a path without symbolic links is on: the deepest one, and of several at one place the last. */
export function mountOf(path: string, mounts: readonly Mount[]): Mount | undefined {
  return mounts
    .filter(({ point }) => point === '/' || path === point || path.startsWith(`${point}/`))
    .reduce<Mount | undefined>(
      (best, mount) => (best === undefined || mount.point.length >= best.point.length ? mount : best),
      undefined,
    );
}

/** The kernel writes blanks and backslashes as three octal digits. */
function unescaped(word: string): string {
  return word.replace(/\\([0-7]{3})/g, (_, digits: string) =>
    String.fromCharCode(Number.parseInt(digits, 8)),
  );
}

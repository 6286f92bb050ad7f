import { readFileSync } from 'node:fs';
import type { LabNode } from '../lab/client.ts';
import { NbdServer } from './nbd.ts';

const TIMEOUT = 10_000;

/** The device number of /dev/fuse (admin-guide/devices.txt); a lab node has few device files. */
const FUSE_DEVICE = ['c', '10', '229'];

/**
 * An image as a file of a FUSE file system of its own, whose storage can be made to hang or to fail a flush: what a
 * file on failing shared storage is to the kernel. Unlike `Fault` it hits every process of the node, and a write that
 * hangs in it survives even the SIGKILL of its writer.
 */
export class FuseFile implements AsyncDisposable {
  /** The file, in the node. */
  readonly path: string;
  readonly #node: LabNode;
  readonly #nbd: NbdServer;
  readonly #name: string;

  private constructor(node: LabNode, name: string, nbd: NbdServer) {
    this.path = `/run/lab/${name}.fuse`;
    this.#node = node;
    this.#nbd = nbd;
    this.#name = name;
  }

  /** Whether the kernel has FUSE. */
  static get isPossible(): boolean {
    return /\tfuse$/m.test(readFileSync('/proc/filesystems', 'utf8'));
  }

  /**
   * Shows the node's file `image` as another one.
   *
   * @param failFlushes whether every flush fails with an I/O error
   */
  static async start(node: LabNode, image: string, name: string, failFlushes = false): Promise<FuseFile> {
    const file = new FuseFile(node, name, await NbdServer.start(node, image, { name: `${name}-nbd` }));
    await node.exec(['mknod', '/dev/fuse', ...FUSE_DEVICE]);
    node.write(file.path, '');
    await file.#mount(failFlushes);
    return file;
  }

  /** Lets every read and write hang in the storage, where not even a SIGKILL ends it. */
  pauseWrites(): Promise<void> {
    return this.#nbd.pause();
  }

  /** Ends `pauseWrites`: what hung goes on. */
  resumeWrites(): Promise<void> {
    return this.#nbd.resume();
  }

  /** Lets every request for the file hang, a flush and stat(2) included. */
  async hang(): Promise<void> {
    await this.#signal('STOP');
  }

  /** Ends `hang`. */
  async resume(): Promise<void> {
    await this.#signal('CONT');
  }

  async #signal(signal: string): Promise<void> {
    await this.#node.check(['sh', '-c', `kill -${signal} "$(cat ${this.#pidFile})"`], { timeout: TIMEOUT });
  }

  /** How many flushes have reached the storage so far. */
  flushes(): number {
    return this.#nbd.flushes();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#node.isOn) {
      await this.#unmount();
      await this.#nbd[Symbol.asyncDispose]();
    }
  }

  async #mount(failing: boolean): Promise<void> {
    const storage = `driver=nbd,node-name=storage,server.type=unix,server.path=${this.#nbd.socket}`;
    const fault =
      'driver=blkdebug,node-name=top,image=storage,inject-error.0.event=none,inject-error.0.iotype=flush';
    await this.#node.check(
      [
        ...['qemu-storage-daemon', '--daemonize', '--pidfile', this.#pidFile, '--blockdev', storage],
        ...(failing ? ['--blockdev', fault] : []),
        '--export',
        `type=fuse,id=fuse,node-name=${failing ? 'top' : 'storage'},mountpoint=${this.path},writable=on`,
      ],
      { timeout: TIMEOUT },
    );
  }

  /** Its end is the end of the file system; what hung in it fails. */
  async #unmount(): Promise<void> {
    const script = `
      read -r pid <${this.#pidFile} || exit 0
      kill -KILL "$pid"
      while [ -e "/proc/$pid" ]; do sleep 0.02; done
      umount --lazy ${this.path}
      rm -f ${this.#pidFile}`;
    await this.#node.exec(['sh', '-c', script], { timeout: TIMEOUT });
  }

  get #pidFile(): string {
    return `/run/lab/${this.#name}-fuse.pid`;
  }
}

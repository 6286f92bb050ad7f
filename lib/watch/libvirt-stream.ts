import type { ChildProcess } from 'node:child_process';
import { sleep } from '../deadline.ts';
import { VirshEvents } from '../libvirt/events.ts';
import { LibvirtMonitor, Virsh } from '../libvirt/virsh.ts';
import { WatchedGuest } from './watched-guest.ts';
import type { GuestName, World } from './world.ts';

/** Milliseconds between two looks at every guest: libvirt can lose an event, and a daemon that hangs sends none. */
const HEARTBEAT = 30_000;

/** Milliseconds in which virsh connects, where it does. It does not say when. */
const CONNECTED_AFTER = 500;

/** Milliseconds until virsh is started again. */
const PAUSE = 5000;

/**
 * Follows guests by libvirt's events: those without a QMP socket for the watcher, because somebody else has started
 * them.
 */
export class LibvirtStream {
  readonly #virsh: Virsh;
  readonly #world: World;
  readonly #guests = new Map<string, WatchedGuest>();
  #child: ChildProcess | undefined;
  #heartbeat: NodeJS.Timeout | undefined;
  #isStopped = false;
  #silent: string | undefined = 'not connected yet';

  /** @param uri of libvirt */
  constructor(uri: string, world: World) {
    this.#virsh = new Virsh(uri);
    this.#world = world;
  }

  get guests(): readonly WatchedGuest[] {
    return [...this.#guests.values()];
  }

  /** Why nothing is heard of its guests at this moment. */
  get silent(): string | undefined {
    return this.#silent;
  }

  /** From now on follows these guests, and no others. */
  follow(guests: readonly GuestName[]): void {
    for (const uuid of this.#guests.keys()) {
      if (!guests.some((guest) => guest.uuid === uuid)) {
        this.#guests.get(uuid)?.disconnected();
        this.#guests.delete(uuid);
      }
    }
    for (const guest of guests) {
      if (!this.#guests.has(guest.uuid)) {
        const watched = new WatchedGuest(guest, this.#world);
        this.#guests.set(guest.uuid, watched);
        watched.connected(new LibvirtMonitor(this.#virsh, guest.uuid));
      }
    }
  }

  /** Listens until `stop`; libvirt may come and go. */
  async run(): Promise<void> {
    this.#heartbeat = setInterval(() => this.lookAtAll(), HEARTBEAT);
    while (!this.#isStopped) {
      await this.#listen();
      if (!this.#isStopped) {
        await sleep(PAUSE);
      }
    }
  }

  lookAtAll(): void {
    for (const guest of this.#guests.values()) {
      guest.look();
    }
  }

  async stop(): Promise<void> {
    this.#isStopped = true;
    clearInterval(this.#heartbeat);
    this.#child?.kill('SIGKILL');
    await Promise.all(this.guests.map((guest) => guest.idle()));
  }

  async #listen(): Promise<void> {
    const { spawn } = await import('node:child_process');
    const child = spawn('virsh', ['--connect', this.#virsh.uri, 'event', '--all', '--loop'], {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, LC_ALL: 'C', LANGUAGE: 'C' },
    });
    this.#child = child;
    const events = new VirshEvents();
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      for (const { domain, event } of events.push(text)) {
        this.guests.find((guest) => guest.name === domain)?.hear(event);
      }
    });
    let said = '';
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      said = `${said}${text}`.slice(-1000);
    });
    const connected = setTimeout(() => {
      this.#silent = undefined;
      // What happened before, nobody has heard.
      this.lookAtAll();
    }, CONNECTED_AFTER);
    await new Promise<void>((resolve) => {
      child.on('error', (error) => {
        said = error.message;
        resolve();
      });
      child.on('close', () => resolve());
    });
    clearTimeout(connected);
    this.#silent = said.replace(/\s+/g, ' ').trim() || 'virsh has ended';
    if (!this.#isStopped) {
      this.#world.log.warn(`libvirt's events are not heard: ${this.#silent}`);
    }
  }
}

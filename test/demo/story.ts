import { readFileSync } from 'node:fs';
import { size, table } from '../../agent/command/table.ts';
import { sleep } from '../../lib/deadline.ts';
import { messageOf } from '../../lib/error.ts';
import type { Cluster, ClusterGuest, GuestOptions, Writer } from '../cluster/support.ts';
import { findRecords } from '../guest/witness.ts';
import type { LabNode } from '../lab/client.ts';
import { block } from '../support/documentation.ts';
import { failoverOf, journals } from '../support/failover.ts';
import { Watch } from '../support/watch.ts';
import type { Screen } from './screen.ts';

/** Of the recommended monitor, in milliseconds. */
const MONITOR_INTERVAL = 10_000;

/** What users have today sees the fault at this many monitors, and does nothing at any of them. */
const MONITORS = 2;

/**
 * The demonstration: the storage fails under two guests of one node, one under ocf:kvmha:KvmGuest and one under
 * ocf:heartbeat:VirtualDomain, and a third, healthy guest is beside them.
 */
export class Story {
  readonly #screen: Screen;
  readonly #cluster: Cluster;
  readonly #node1: LabNode;
  readonly #vm1: ClusterGuest;
  readonly #vm2: ClusterGuest;
  readonly #vm3: ClusterGuest;

  private constructor(screen: Screen, cluster: Cluster, guests: [ClusterGuest, ClusterGuest, ClusterGuest]) {
    this.#screen = screen;
    this.#cluster = cluster;
    this.#node1 = cluster.node(1);
    [this.#vm1, this.#vm2, this.#vm3] = guests;
  }

  /**
   * Tells all of it on the screen, in a cluster of three nodes that runs nothing yet.
   *
   * @throws FalseClaim when it is not as it is said to be
   */
  static async tell(screen: Screen, cluster: Cluster): Promise<void> {
    const make = (name: string, more: GuestOptions = {}) =>
      cluster.makeGuest(name, {
        // The image is the guest's alone, so that QEMU's own lock is on, too.
        domain: { disks: [{ path: `/shared/${name}.img` }] },
        monitor: '10s',
        prefers: ['node1'],
        ...more,
      });
    const guests = await Promise.all([
      make('vm1'),
      make('vm2', { agent: 'ocf:heartbeat:VirtualDomain' }),
      make('vm3'),
    ]);
    await new Story(screen, cluster, guests).#tell();
  }

  async #tell(): Promise<void> {
    await this.#start();
    const { faultAt, vm3Boot, pid, writer } = await this.#fail();
    await this.#prove(pid);
    await this.#isPowerless(pid, writer);
    const postmortem = await this.#examine(writer.firstTick - 1);
    await this.#release(pid);
    await this.#asVirtualDomain(faultAt);
    await this.#sum(faultAt, writer, vm3Boot, postmortem);
  }

  async #start(): Promise<void> {
    const cluster = this.#cluster;
    this.#screen.title('1. Three guests on node1');
    this.#screen.step(
      'vm1 and vm3 are configured as the README says, with a monitor each 10 s and the watcher on every node. vm2 is ' +
        'the same under ocf:heartbeat:VirtualDomain. Each counts on a disk of its own that all nodes share.',
    );
    await cluster.sh(block('README.md', 'crm configure primitive kvm-watch'));
    const guests = [this.#vm1, this.#vm2, this.#vm3];
    // What has left node1 stays where it is.
    const sticky = 'rsc_defaults resource-stickiness=1000\n';
    await cluster.configure(guests.map((guest) => guest.configuration()).join('') + sticky);
    await Promise.all(guests.map((guest) => guest.runsOn('node1')));
    await cluster.settled();
    await new Watch(this.#node1).follows('vm1');
    const ticks = await Promise.all(guests.map(async (guest) => (await guest.ticks()).ticks));
    const words = guests.map(({ name }, index) => `${name} ${ticks[index]}`).join(', ');
    this.#screen.claim(`all three run on node1 and count: ${words} ticks so far`, Math.min(...ticks) > 0);
  }

  /** The fault, and what becomes of vm1. */
  async #fail(): Promise<{ faultAt: number; vm3Boot: Boot; pid: number; writer: Writer }> {
    const screen = this.#screen;
    const cluster = this.#cluster;
    const [vm1, node1] = [this.#vm1, this.#node1];
    screen.title('2. The storage fails under vm1 and vm2 on node1');
    const [pid = 0, vm3Boot] = [(await vm1.pids(node1))[0], await this.#vm3.boot()];
    screen.step(
      'From now on node1 fails every write of these two to their disks with EIO, as a broken path or array would. (A ' +
        'library preloaded into their QEMU does that; the error then takes its true way through QEMU.)',
    );
    const faultAt = Date.now();
    vm1.fault(node1).set('W', vm1.disk);
    this.#vm2.fault(node1).set('W', this.#vm2.disk);
    const place = await vm1.runsOn('node2', 'node3');
    const writers = await this.#judged();
    const writer = writers[1];
    screen.claim(
      `the cluster has started vm1 on ${place.name}, and it counts there`,
      writers.length === 2 && writer !== undefined,
    );
    if (writer === undefined) {
      throw new Error('unreachable');
    }
    const seen = failoverOf(journals(cluster.lab.nodes, vm1.name, faultAt), node1.name);
    screen.step('The journals of kvmha, QEMU and the disk tell what happened when, since the fault:');
    const words: [number | undefined, string][] = [
      [faultAt, 'the storage of vm1 fails on node1'],
      [seen.reported, 'its QEMU reports that a write has failed, and stops the guest'],
      [seen.detected, `the ${seen.by} on node1 has heard it, and decides that vm1 has to leave`],
      [seen.proved, 'vm1 is quiesced, and each part of the proof has been observed'],
      [seen.told, 'the cluster has been told'],
      [seen.runs, `QEMU on ${place.name} runs vm1`],
      [writer.since, `vm1 writes: boot ${writer.boot}, which goes on counting with tick ${writer.firstTick}`],
    ];
    let before = 0;
    for (const [at, text] of words) {
      const after = at === undefined ? undefined : at - faultAt;
      screen.moment(after, text, before);
      before = after ?? before;
    }
    screen.claim('it was the watcher, not the next monitor', seen.by === 'watcher', `it was the ${seen.by}`);
    this.#nobodyIsFenced();
    await this.#isUntouched(vm3Boot);
    screen.claim(
      `the first QEMU of vm1, process ${pid} on node1, is alive, and is the only one there`,
      pid > 0 && same(await vm1.pids(node1), [pid]),
    );
    return { faultAt, vm3Boot, pid, writer };
  }

  async #prove(pid: number): Promise<void> {
    this.#screen.title('3. The proof, as it is seen now ("kvmha proof vm1" on node1)');
    const { stdout, stderr } = await this.#node1.exec(['kvmha', 'proof', 'vm1', '--json']);
    const proof = JSON.parse(stdout || '{}');
    for (const { item, holds, seen } of proof.items ?? []) {
      this.#screen.claim(`${item}: ${seen}`, holds);
    }
    this.#screen.claim(
      `the proof is complete: process ${pid} can do no harm to what runs elsewhere`,
      proof.complete === true,
      stderr || proof.reason,
    );
  }

  /** Nobody can make the first QEMU write again. */
  async #isPowerless(pid: number, { boot, instance }: Writer): Promise<void> {
    const screen = this.#screen;
    const [vm1, node1] = [this.#vm1, this.#node1];
    screen.title('4. Two QEMUs of one guest, and one of them can write');
    const place = await vm1.runsOn('node2', 'node3');
    const [second = 0] = await vm1.pids(place);
    const [there, here] = [await openings(place, second, vm1.disk), await openings(node1, pid, vm1.disk)];
    screen.claim(
      `process ${second} on ${place.name} has opened ${vm1.disk} for writing; process ${pid} on node1 has it no longer open`,
      there.some((flags) => (flags & 0o3) === 0o2) && here.length === 0,
      `there with flags ${there.join(', ') || 'none'}, here with ${here.join(', ') || 'none'}`,
    );
    screen.step('Somebody tries to resume the first one, or to start vm1 on node1 again.');
    await this.#isRefused(['virsh', 'resume', 'vm1']);
    await this.#isRefused(['virsh', 'qemu-monitor-command', 'vm1', '{"execute":"cont"}']);
    await this.#isRefused(['crm_resource', '--resource=vm1', '--force-start', '--force']);
    const now = await vm1.boot();
    screen.claim(
      `only the second one writes to the image`,
      now.boots === boot && now.instance === instance,
      `boot ${now.boots} of instance ${now.instance} does`,
    );
    await this.#judged();
    screen.claim(
      'at every moment there was one writer, and no write is lost that vm1 was told is done',
      true,
    );
  }

  /** @returns the bytes of the guest's memory */
  async #examine(lastTick: number): Promise<number> {
    const screen = this.#screen;
    screen.title('5. The post-mortem ("kvmha postmortem vm1" on node1)');
    const collect = ['kvmha', 'postmortem', 'vm1', '--output', '/shared/postmortem'];
    const { exitCode, stderr } = await this.#node1.exec(collect);
    const folder = this.#cluster.lab.shared('postmortem');
    const manifest = exitCode === 0 ? JSON.parse(readFileSync(`${folder}/manifest.json`, 'utf8')) : undefined;
    const memory = manifest?.files.find((file: { name: string }) => file.name === 'memory.elf')?.bytes ?? 0;
    screen.claim(
      `the memory of vm1 (${size(memory)}) and ${manifest?.files.length - 1} other files are saved`,
      manifest?.complete === true && memory > 0,
      stderr,
    );
    const refused = lastTick + 1;
    const ticks = findRecords(readFileSync(`${folder}/memory.elf`))
      .filter(({ boots }) => boots === 1)
      .map((record) => record.ticks);
    screen.claim(
      `this memory holds what was nowhere else: tick ${refused}, whose write the storage refused`,
      ticks.includes(refused) && ticks.every((tick) => tick <= refused),
      `it holds ${ticks.join(', ')}`,
    );
    return memory;
  }

  async #release(pid: number): Promise<void> {
    const screen = this.#screen;
    const [vm1, node1] = [this.#vm1, this.#node1];
    screen.title('6. The release ("kvmha release vm1" on node1)');
    const boot = await vm1.boot();
    const { exitCode, stderr } = await node1.exec(['kvmha', 'release', 'vm1']);
    screen.claim(
      `process ${pid} has ended`,
      exitCode === 0 && (await vm1.pids(node1)).length === 0,
      `exit code ${exitCode}: ${stderr}`,
    );
    await this.#cluster.settled();
    const { attributes } = await this.#cluster.view('vm1');
    const mark = attributes.get('node1')?.get('kvmha-preserved-vm1');
    screen.claim('vm1 may run on node1 again', mark === undefined, `kvmha-preserved-vm1 is ${mark} there`);
    screen.claim('vm1 goes on counting elsewhere', same(await vm1.boot(), boot));
  }

  /** What users have today: the same fault, at the same time, on the same node. */
  async #asVirtualDomain(faultAt: number): Promise<void> {
    const screen = this.#screen;
    const cluster = this.#cluster;
    const [vm2, node1] = [this.#vm2, this.#node1];
    screen.title('7. In the meantime, vm2 under ocf:heartbeat:VirtualDomain');
    const enough = faultAt + (MONITORS + 0.5) * MONITOR_INTERVAL;
    if (Date.now() < enough) {
      screen.step(`(until ${MONITORS} monitors must have seen it)`);
      await sleep(enough - Date.now());
    }
    const passed = () => Math.floor((Date.now() - faultAt) / 1000);
    const stuck = (await vm2.witness()).ticks;
    const state = await vm2.state(node1);
    screen.claim(
      `${passed()} s after the fault QEMU has vm2 stopped: libvirt says "${state}"`,
      state === 'paused (I/O error)',
    );
    const checked = await node1.exec(['crm_resource', '--resource=vm2', '--force-check']);
    screen.claim(
      'VirtualDomain\'s monitor answers 0, "running", as it does for any paused guest',
      checked.exitCode === 0,
      checked.stdout + checked.stderr,
    );
    const { resource } = await cluster.view('vm2');
    const history = await cluster.history('vm2', 'node1');
    screen.claim(
      `the cluster shows it as started on node1, with no failure (${history.join(', ')}): it does nothing, and tells nobody`,
      resource?.role === 'Started' && !resource.failed && history.every((each) => / 0$/.test(each)),
      `${resource?.role}, ${history.join(', ')}`,
    );
    screen.step('Somebody has found out, and moves it away: "crm_resource --move --resource vm2".');
    await node1.check(['crm_resource', '--move', '--resource=vm2']);
    await cluster.settled();
    const [place = 'none'] = await vm2.places();
    const moved = place === 'none' ? '' : await vm2.state(cluster.node(place));
    screen.claim(
      `the cluster has migrated it live and shows it as started on ${place}; there libvirt says "${moved}"`,
      place !== 'node1' && moved.startsWith('paused'),
    );
    const { ticks } = await vm2.witness();
    screen.claim(
      `${passed()} s after the fault it still stands at tick ${ticks}`,
      ticks === stuck,
      `it stood at ${stuck}`,
    );
  }

  async #sum(faultAt: number, writer: Writer, vm3Boot: Boot, postmortem: number): Promise<void> {
    const screen = this.#screen;
    screen.title('8. In sum');
    const fenced = this.#nobodyIsFenced();
    await this.#isUntouched(vm3Boot);
    const seconds = (until: number) => ((until - faultAt) / 1000).toFixed(1);
    screen.lines(
      table([
        ['', 'vm1, KvmGuest', 'vm2, VirtualDomain'],
        ['no write for', `${seconds(writer.since)} s`, `${seconds(Date.now())} s, and still none`],
        ['found by', 'the watcher', 'nobody'],
        ['nodes fenced', String(fenced), String(fenced)],
        ['healthy guests rebooted', '0', '0'],
        ['post-mortem', `taken, with ${size(postmortem)} of memory`, 'none'],
      ]),
    );
  }

  /** @returns how many nodes were fenced */
  #nobodyIsFenced(): number {
    const log = this.#cluster.lab.fenceLog();
    const fencings = log.filter((line) => / (?:reboot|off|on) /.test(line));
    const asked = log.filter((line) => / exits 0$/.test(line)).length;
    this.#screen.claim(
      `no node was fenced: of ${asked} calls in the fence agent's log none switches a node`,
      fencings.length === 0 && asked > 0,
      fencings.join('; '),
    );
    return fencings.length;
  }

  async #isUntouched(before: Boot): Promise<void> {
    const [now, places] = [await this.#vm3.boot(), await this.#vm3.places()];
    this.#screen.claim(
      'vm3 runs on node1 all the time, and was never rebooted',
      same(now, before) && same(places, ['node1']),
      `it runs on ${places.join(', ')}, boot ${now.boots}`,
    );
  }

  async #isRefused(command: readonly string[]): Promise<void> {
    const { exitCode, stdout, stderr } = await this.#node1.exec(command);
    // virsh qemu-monitor-command succeeds in passing on QEMU's error.
    const error =
      /"desc":"([^"]*)"/.exec(stdout)?.[1] ??
      /ocf-exit-reason:(.*)/.exec(stdout + stderr)?.[1] ??
      (exitCode === 0 ? undefined : (stderr.trim() || stdout.trim()).split('\n').at(-1));
    this.#screen.claim(
      `${command.join(' ')} is refused${error === undefined ? '' : `: ${error}`}`,
      error !== undefined,
      'it succeeded',
    );
  }

  async #judged(): Promise<readonly Writer[]> {
    try {
      return await this.#vm1.judge();
    } catch (error) {
      this.#screen.claim('what vm1 has written is whole', false, messageOf(error));
      throw error;
    }
  }
}

type Boot = Awaited<ReturnType<ClusterGuest['boot']>>;

/** With which flags (open(2)) a process of a node has a file open. */
async function openings(node: LabNode, pid: number, path: string): Promise<number[]> {
  const script = `
    for fd in /proc/$1/fd/*; do
      [ "$(readlink "$fd")" != "$2" ] || sed -n 's/^flags:[^0-7]*//p' "/proc/$1/fdinfo/\${fd##*/}"
    done`;
  const printed = await node.check(['sh', '-c', script, 'sh', String(pid), path]);
  return printed
    .split('\n')
    .filter(Boolean)
    .map((flags) => Number.parseInt(flags, 8));
}

function same(one: unknown, other: unknown): boolean {
  return JSON.stringify(one) === JSON.stringify(other);
}

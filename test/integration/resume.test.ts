import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import type { ResumeOutcome } from '../../lib/quiesce/resume.ts';
import { createDisk, createOverlay } from '../guest/witness.ts';
import { Lab, type LabNode } from '../lab/client.ts';
import { qemus } from '../support/qemus.ts';
import { type GuestDisk, type GuestOptions, QuiesceGuest } from '../support/quiesced.ts';

let lab: Lab;
let node: LabNode;
before(async () => {
  lab = await Lab.up({ nodes: 1, cluster: false });
  node = lab.node(1);
  await node.check([
    'sh',
    '-c',
    'mknod /dev/loop-control c 10 237; for i in $(seq 0 15); do mknod /dev/loop$i b 7 $i; done',
  ]);
});
after(async () => {
  await node.exec([
    'sh',
    '-c',
    'losetup -n -O NAME,BACK-FILE | grep /shared/resume- | while read d _; do losetup -d "$d"; done',
  ]);
  await lab.down();
});

const raw =
  (more: Partial<GuestDisk> = {}) =>
  (name: string): GuestDisk => ({ path: `/shared/${name}.img`, ...more });
const qcow2 =
  (more: Partial<GuestDisk> = {}) =>
  (name: string): GuestDisk => ({
    path: `/shared/${name}.qcow2`,
    format: 'qcow2',
    ...more,
  });

interface Kind {
  readonly disks: readonly ((name: string) => GuestDisk)[];
  readonly options?: Partial<GuestOptions>;
  readonly prepare?: (name: string) => Promise<void>;
  /** QEMU cannot flush while its storage fails, so it is preserved as it runs. */
  readonly fails?: false;
}

const KINDS: Record<string, Kind> = {
  'raw and qcow2 disks and a network': { disks: [raw(), qcow2()], options: { bridges: ['br0'] } },
  'disks and CD drives on SATA': {
    disks: [
      raw({ bus: 'sata' }),
      (name) => ({ path: `/shared/${name}.iso`, bus: 'sata', device: 'cdrom', target: 'sdf' }),
      () => ({ bus: 'sata', device: 'cdrom', target: 'sde' }),
    ],
    options: { machine: 'q35' },
  },
  'disks on IDE, with a host cache that is written back': {
    disks: [raw({ bus: 'ide', cache: 'writeback' }), qcow2({ bus: 'ide', cache: 'writeback' })],
  },
  'disks on virtio-scsi in an iothread': {
    disks: [raw({ bus: 'scsi' }), qcow2({ bus: 'scsi' })],
    options: {
      elements: '<iothreads>1</iothreads>',
      devices: "<controller type='scsi' model='virtio-scsi' index='0'><driver iothread='1'/></controller>",
    },
  },
  'disks in iothreads, throttled': {
    disks: [
      raw({ driver: "iothread='1'" }),
      qcow2({ driver: "iothread='2'", elements: '<iotune><total_iops_sec>30</total_iops_sec></iotune>' }),
    ],
    options: { elements: '<iothreads>2</iothreads>' },
  },
  'a backing chain, and lazy refcounts': {
    disks: [qcow2()],
    fails: false,
    prepare: async (name) => {
      await createDisk(`/shared/${name}-base.img`, { node });
      await createOverlay(
        `/shared/${name}-middle.qcow2`,
        { path: `/shared/${name}-base.img`, format: 'raw' },
        { node },
      );
      const base = ['-b', `/shared/${name}-middle.qcow2`, '-F', 'qcow2', '-o', 'lazy_refcounts=on'];
      await node.check(['qemu-img', 'create', '-q', '-f', 'qcow2', ...base, `/shared/${name}.qcow2`]);
    },
  },
  'eight disks': {
    disks: Array.from({ length: 8 }, (_, each) => (name: string) => qcow2()(`${name}-${each}`)),
  },
};

/** The reasons why a guest is not resumed; it must be preserved as before. */
async function refusedResume(guest: QuiesceGuest, order = {}): Promise<string> {
  const outcome = await guest.resume(order);
  assert.notEqual(outcome?.kind, 'resumed', 'it was resumed');
  await guest.assertProved(`its resume was refused (${JSON.stringify(outcome)})`);
  return reasonsOf(outcome);
}

function reasonsOf(outcome: ResumeOutcome | undefined): string {
  return outcome?.kind === 'refused'
    ? outcome.reasons.join('; ')
    : outcome?.kind === 'failed'
      ? outcome.reason
      : '';
}

interface Refused {
  readonly why: RegExp;
  /** The first disk. */
  readonly disk?: (name: string) => Promise<GuestDisk>;
  readonly more?: readonly ((name: string) => GuestDisk)[];
  /** Done while it runs. */
  readonly arrange?: (guest: QuiesceGuest) => Promise<unknown>;
  /** Done to the preserved guest. */
  readonly afterwards?: (guest: QuiesceGuest) => Promise<unknown>;
  /** What is said of where it runs. */
  readonly resume?: readonly (string | null)[];
}

const REFUSED: Record<string, Refused> = {
  'ran elsewhere since, also if it is stopped by now': {
    afterwards: (guest) => guest.runsElsewhere(),
    why: /another host may have run the guest: it was written to at 20/,
  },
  'had its image written to by anybody, even with its times set back': {
    afterwards: (guest) =>
      node.check([
        'sh',
        '-c',
        'touch -r "$0" /shared/then; printf x | dd of="$0" bs=1 seek=100000 conv=notrunc; touch -r /shared/then "$0"',
        guest.disk,
      ]),
    why: /it, or its owner or another attribute, was changed at 20/,
  },
  'had its image taken over by another user': {
    afterwards: (guest) => node.check(['chown', 'nobody', guest.disk]),
    why: /it, or its owner or another attribute, was changed at 20/,
  },
  'had its image replaced by a copy': {
    afterwards: (guest) => node.check(['sh', '-c', 'cp -a "$0" "$0.copy"; mv "$0.copy" "$0"', guest.disk]),
    why: /it is another file now/,
  },
  'has lost its image': {
    afterwards: (guest) => node.check(['mv', guest.disk, `${guest.disk}.moved`]),
    why: /cannot be seen: .*No such file/,
  },
  'has a block device': {
    disk: async (name) => {
      await createDisk(`/shared/${name}.img`, { node });
      const device = (await node.check(['losetup', '-f', '--show', `/shared/${name}.img`])).trim();
      return { path: device, type: 'block' };
    },
    why: /loop\d+ is a block device, which does not tell whether another host has written to it/,
  },
  'has a CD whose medium was changed': {
    more: [(name) => ({ path: `/shared/${name}.iso`, bus: 'ide', device: 'cdrom', target: 'hdc' })],
    arrange: async (guest) => {
      const iso = `/shared/${guest.name}-other.iso`;
      await createDisk(iso, { node, content: 'blank' });
      await guest.virsh('change-media', guest.name, 'hdc', iso, '--update', '--live');
    },
    why: /the options with which QEMU had \S+-other\.iso of device \S+ open are not known/,
  },
  'was reset': {
    afterwards: async (guest) => {
      await guest.qmp('system_reset');
      await guest.runstate('prelaunch');
    },
    why: /QEMU says prelaunch: the guest was reset/,
  },
  'was quiesced when nobody recorded how its images were left': {
    afterwards: async (guest) => {
      const path = node.path(`/run/kvmha/guests/${guest.uuid}/quiesce.json`);
      const record = JSON.parse(readFileSync(path, 'utf8'));
      for (const medium of record.media) {
        delete medium.left;
      }
      writeFileSync(path, JSON.stringify(record));
    },
    why: /how its images were left is not recorded/,
  },
  'may run elsewhere': { resume: ['it runs on the moon'], why: /^it runs on the moon$/ },
  'may run elsewhere at the last moment': {
    resume: [null, 'it runs on the moon'],
    why: /^it runs on the moon$/,
  },
};

for (const [index, { name: qemu, emulator, skip }] of (await qemus()).entries()) {
  describe(`${qemu}: goes on where it was stopped by an error, is a guest with`, {
    skip,
    concurrency: 2,
  }, () => {
    for (const [number, [what, kind]] of Object.entries(KINDS).entries()) {
      test(what, async () => {
        const name = `resume-${index}-${number}`;
        await kind.prepare?.(name);
        const disks = kind.disks.map((disk) => disk(name));
        const guest = await QuiesceGuest.running(node, name, { ...kind.options, emulator, disks });
        if (kind.fails !== false) {
          await guest.failing();
        }
        await guest.preserve();
        guest.fault.clear();
        await guest.resumes();
        // And once more, now without an error, and then elsewhere.
        await guest.preserve();
        await guest.resumes();
        await guest.preserve();
        await guest.runsElsewhere();
        await guest.end();
      });
    }
  });

  describe(`${qemu}: not resumed, and preserved as before, is a guest that`, { skip, concurrency: 2 }, () => {
    for (const [number, [what, each]] of Object.entries(REFUSED).entries()) {
      test(what, async () => {
        const name = `resume-no-${index}-${number}`;
        const first = (await each.disk?.(name)) ?? raw()(name);
        const disks = [first, ...(each.more ?? []).map((disk) => disk(name))];
        const guest = await QuiesceGuest.running(node, name, { emulator, disks });
        await each.arrange?.(guest);
        await guest.preserve();
        await each.afterwards?.(guest);
        assert.match(await refusedResume(guest, { resume: each.resume ?? [] }), each.why);
        await guest.end();
      });
    }

    test('has an image that another qemu uses', async () => {
      const name = `resume-held-${index}`;
      const guest = await QuiesceGuest.running(node, name, { emulator, disks: [raw()(name), qcow2()(name)] });
      await guest.preserve();
      const holder = [
        ...['qemu-system-x86_64', '-S', '-nodefaults', '-display', 'none'],
        ...['-daemonize', '-pidfile', `/run/lab/${name}.pid`],
        ...['-blockdev', `driver=file,node-name=file,filename=${guest.disk}`],
        ...['-device', 'virtio-blk-pci,drive=file'],
      ] as const;
      await node.check(holder);
      assert.match(await refusedResume(guest), /is in use by another qemu: Failed to get .* lock/);
      const endHolder = () => node.check(['sh', '-c', `kill "$(cat /run/lab/${name}.pid)"`]);
      await endHolder();
      // At the very moment: QEMU itself refuses.
      assert.match(
        await refusedResume(guest, { before: { resume: { run: holder } } }),
        /cont: Failed to get .* lock/,
      );
      await endHolder();
      await guest.resumes();
      await guest.end();
    });
  });

  describe(`${qemu}: a resume that is interrupted`, { skip, concurrency: 2 }, () => {
    test('after any command leaves a guest that runs, or that can be preserved or resumed', async () => {
      const name = `resume-die-${index}`;
      const disks = [raw({ bus: 'scsi' })(name), qcow2()(name)];
      const guest = await QuiesceGuest.running(node, name, { emulator, disks, bridges: ['br0'] });
      await guest.preserve();
      const { commands } = await guest.quiesce({ resume: [] });
      assert.ok(commands.length >= 12 && commands.at(-1) === 'cont', commands.join(' '));
      for (const [number, command] of commands.entries()) {
        const at = `after command ${number + 1} (${command})`;
        await guest.preserve();
        await guest.quiesce({ resume: [], dieAt: { command: number + 1, when: 'sent' } });
        const proof = await guest.proof();
        assert.notEqual(proof?.['writes-durable']?.holds, true, `${at} it was called safe`);
        if (number % 2 === 0) {
          await guest.preserve();
        }
        assert.deepEqual(await guest.resume(), { kind: 'resumed', runstate: 'running' }, at);
        await guest.ticks(1);
      }
      await guest.preserve();
      await guest.runsElsewhere();
      await guest.end();
    });

    test('is never resumed again if it ran elsewhere meanwhile', async () => {
      const name = `resume-twice-${index}`;
      const guest = await QuiesceGuest.running(node, name, { emulator, disks: [raw()(name)] });
      await guest.preserve();
      await guest.quiesce({ resume: [], before: { compare: 'die' } });
      await guest.runsElsewhere();
      assert.match(reasonsOf(await guest.resume()), /another host may have run the guest/);
      // Preserving it again does not make its images those that it left.
      await guest.preserve();
      assert.match(await refusedResume(guest), /another host may have run the guest/);
      await guest.quiesce({ resume: [], before: { 'last-look': 'die' } });
      await guest.end();
    });
  });
}

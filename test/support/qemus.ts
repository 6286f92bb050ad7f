import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { join, resolve } from 'node:path';
import { Deadline } from '../../lib/deadline.ts';
import { messageOf } from '../../lib/error.ts';
import { runChecked } from '../../lib/run.ts';

/** A QEMU that guests of the tests are run with. */
export interface Qemu {
  /** "QEMU 7.2.22". */
  readonly name: string;
  /** For `<emulator>`; undefined for libvirt's own choice. */
  readonly emulator: string | undefined;
  /** Why it cannot be had here. */
  readonly skip: string | false;
}

const BUILD = resolve(import.meta.dirname, '../../build');
const TIMEOUT = 120_000;
const KEYRING = '/usr/share/keyrings/debian-archive-keyring.gpg';
/** With every module package: a module that were missing here would be taken from the installed QEMU, and not fit. */
const PACKAGES = [
  'qemu-system-x86',
  'qemu-system-common',
  'qemu-system-data',
  'qemu-system-gui',
  'qemu-system-modules-opengl',
  'qemu-system-modules-spice',
  'qemu-block-extra',
  'seabios',
] as const;

/** The installed QEMU, and on Debian 12 also that of its backports, unpacked below build/ without being installed. */
export async function qemus(): Promise<readonly Qemu[]> {
  const installed: Qemu = { name: await versionOf('qemu-system-x86_64'), emulator: undefined, skip: false };
  if (!/^VERSION_CODENAME=bookworm$/m.test(readFileSync('/etc/os-release', 'utf8'))) {
    return [installed];
  }
  try {
    const emulator = await backported();
    return [installed, { name: await versionOf(emulator), emulator, skip: false }];
  } catch (error) {
    const skip = `the QEMU of bookworm-backports cannot be had: ${messageOf(error)}`;
    return [installed, { name: 'QEMU 10', emulator: undefined, skip }];
  }
}

async function versionOf(emulator: string): Promise<string> {
  const printed = await runChecked(emulator, ['--version'], { deadline: Deadline.in(TIMEOUT) });
  return `QEMU ${/version ([0-9.]+)/.exec(printed)?.[1] ?? 'of an unknown version'}`;
}

/** @returns the command that runs it */
async function backported(): Promise<string> {
  const directory = join(BUILD, 'qemu-backports');
  const command = join(directory, 'qemu-system-x86_64');
  if (!existsSync(command)) {
    mkdirSync(BUILD, { recursive: true });
    const draft = mkdtempSync(join(BUILD, 'qemu-'));
    try {
      await download(draft);
      writeFileSync(join(draft, 'qemu-system-x86_64'), wrapper(directory));
      chmodSync(join(draft, 'qemu-system-x86_64'), 0o755);
      chmodSync(draft, 0o755);
      if (!existsSync(command)) {
        renameSync(draft, directory);
      }
    } finally {
      rmSync(draft, { recursive: true, force: true });
    }
  }
  return command;
}

/** Downloads and unpacks the packages with lists and a cache of their own: the host's packages are not touched. */
async function download(directory: string): Promise<void> {
  const deadline = Deadline.in(TIMEOUT);
  const apt = join(directory, 'apt');
  mkdirSync(join(apt, 'lists/partial'), { recursive: true });
  mkdirSync(join(apt, 'archives/partial'), { recursive: true });
  writeFileSync(
    join(apt, 'sources.list'),
    `deb [signed-by=${KEYRING}] http://deb.debian.org/debian bookworm-backports main\n`,
  );
  const configuration = join(apt, 'apt.conf');
  writeFileSync(
    configuration,
    `\
Dir::State::Lists "${apt}/lists";
Dir::Cache "${apt}";
Dir::Etc::sourcelist "${apt}/sources.list";
Dir::Etc::sourceparts "-";
APT::Sandbox::User "root";
Acquire::Retries "1";
Acquire::http::Timeout "10";
`,
  );
  const env = { APT_CONFIG: configuration };
  await runChecked('apt-get', ['-q', 'update'], { deadline, env });
  const wanted = PACKAGES.map((name) => `${name}/bookworm-backports`);
  // apt-get puts them into the current folder.
  const script =
    'cd "$0" && apt-get -q download "$@" && for package in *.deb; do dpkg-deb -x "$package" .; done';
  await runChecked('sh', ['-c', script, directory, ...wanted], { deadline, env });
  await runChecked('sh', ['-c', 'rm -rf "$0"/*.deb "$0/apt"', directory], { deadline });
}

/** Its modules and firmware are where they were unpacked; the network cards' ROMs are the installed ones. */
function wrapper(directory: string): string {
  const firmware = [`${directory}/usr/share/qemu`, `${directory}/usr/share/seabios`, '/usr/lib/ipxe/qemu'];
  return `\
#!/bin/sh
export QEMU_MODULE_DIR='${directory}/usr/lib/x86_64-linux-gnu/qemu'
exec '${directory}/usr/bin/qemu-system-x86_64' ${firmware.map((path) => `-L '${path}'`).join(' ')} "$@"
`;
}

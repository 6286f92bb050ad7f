/**
 * Guests as the agent and the watcher see them when they run well, without QEMU: node serve.ts COUNT, in a node of a lab.
 *
 * Each has both QMP sockets, at which this process answers as a recorded QEMU did, and the records that the agent keeps
 * of a guest that it has started. Prints "ready" when all of them listen.
 */
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { utilizationFile } from '../../../agent/ocf/utilization-age.ts';
import { makeSocketDirectories, socketsOf } from '../../../lib/guest/sockets.ts';
import { stampOf } from '../../../lib/libvirt/identity-cache.ts';
import { readStat } from '../../../lib/linux/process.ts';
import { makeStateDirectory, uuidForName } from '../../../lib/record/directory.ts';
import { RESOURCE_DIRECTORY, resourceFile } from '../../../lib/record/resources.ts';
import { writeRunningRecord } from '../../../lib/record/running-record.ts';
import { domainXml } from '../../guest/domain.ts';
import { ReplayServer, recording } from '../../support/qmp-recording.ts';
import { configOf, nameOf } from './guests.ts';

const count = Number(process.argv[2]);
const running = recording('suspend-resume');
const startTime = readStat(process.pid)?.startTime ?? 0;

makeStateDirectory();
makeSocketDirectories();
mkdirSync(RESOURCE_DIRECTORY, { recursive: true, mode: 0o700 });
for (let number = 0; number < count; number += 1) {
  const name = nameOf(number);
  const uuid = uuidForName(name);
  const path = configOf(number);
  writeFileSync(path, domainXml({ name, uuid }));
  writeFileSync(resourceFile(name), JSON.stringify({ path, stamp: stampOf(path).text, name, uuid }), {
    mode: 0o600,
  });
  writeRunningRecord({ name, uuid }, { qemu: { pid: process.pid, startTime }, images: [] });
  // As if the utilization had just been set: that is done once in ten minutes, and there is no such resource.
  writeFileSync(utilizationFile({ name, uuid }), '{}');
  for (const socket of Object.values(socketsOf(name))) {
    rmSync(socket, { force: true });
    const server = await ReplayServer.listen(socket, running, uuid);
    server.say({ status: 'running', running: true });
  }
}
// Also without any guest, until it is killed.
setInterval(() => {}, 60_000);
console.log('ready');

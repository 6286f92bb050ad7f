import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { chmod, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, beforeEach, describe, it } from 'node:test';
import { Deadline } from '../../lib/deadline.ts';

const LOG = new URL('../../agent/ocf/log.ts', import.meta.url).href;
const ENVIRONMENT = new URL('../../agent/ocf/environment.ts', import.meta.url).href;

describe('Log', () => {
  let directory: string;
  let received: string;
  before(async () => {
    directory = await mkdtemp(join(tmpdir(), 'kvmha-log-'));
    received = join(directory, 'received');
    await writeFile(join(directory, 'logger'), `#!/bin/sh\n{ echo "$@"; cat; echo end; } >> "${received}"\n`);
    await chmod(join(directory, 'logger'), 0o755);
  });
  after(() => rm(directory, { recursive: true }));
  beforeEach(() => rm(received, { force: true }));

  /** Runs `statements` with a `log` in a process of their own, as in an agent, which exits at once. */
  function run(statements: string, env: Record<string, string> = {}): string {
    const script = `
      import { Log } from '${LOG}';
      import { readEnvironment } from '${ENVIRONMENT}';
      const log = new Log(readEnvironment(['monitor'], process.env));
      ${statements}
      process.exit(0);`;
    const { stderr, status } = spawnSync(process.execPath, ['--input-type=module-typescript', '-e', script], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { PATH: `${directory}:${process.env['PATH']}`, OCF_RESOURCE_INSTANCE: 'web', ...env },
    });
    assert.equal(status, 0, stderr);
    return stderr;
  }

  /** What the logger got, once it has ended. */
  async function syslog(): Promise<string> {
    const text = await Deadline.in(5000).poll(20, async () => {
      const content = await readFile(received, 'utf8').catch(() => '');
      return content.endsWith('end\n') ? content : undefined;
    });
    return text ?? assert.fail('the logger did not end');
  }

  it('writes to standard error with the level when neither file nor facility is set', () => {
    const stderr = run(`log.err('a'); log.warn('b'); log.info('c'); log.debug('d');`);
    assert.match(stderr, /^\w{3} \d\d \d\d:\d\d:\d\d ERROR: a\n.* WARNING: b\n.* INFO: c\n$/);
  });

  it('writes debug messages only when HA_debug is set', () => {
    assert.match(run(`log.debug('d');`, { HA_debug: '1' }), /DEBUG: d\n$/);
    assert.equal(run(`log.debug('d');`, { HA_debug: '0' }), '');
  });

  it('appends lines as ocf_log formats them to HA_LOGFILE, and then nothing to standard error', async () => {
    const file = join(directory, 'file');
    assert.equal(run(`log.info('first');`, { HA_LOGFILE: file }), '');
    assert.equal(run(`log.err('second');`, { HA_LOGFILE: file, HA_LOGTAG: 'tag' }), '');
    const lines = (await readFile(file, 'utf8')).split('\n');
    assert.match(lines[0] ?? '', /^\w{3} \d\d \d\d:\d\d:\d\d {2}KvmGuest\(web\)\[\d+\]: {4}INFO: first$/);
    assert.match(lines[1] ?? '', / {2}tag: {4}ERROR: second$/);
    assert.equal(lines.length, 3);
  });

  it('gives all messages to one logger, which outlives the agent', async () => {
    const stderr = run(`log.err('a'); log.warn('b'); log.info('c'); log.debug('d');`, {
      HA_LOGFACILITY: 'daemon',
      HA_LOGTAG: 'tag',
    });
    assert.equal(stderr, '');
    assert.equal(
      await syslog(),
      '--prio-prefix --priority daemon.notice --tag tag --size 8KiB\n' +
        '<3>ERROR: a\n<4>WARNING: b\n<6>INFO: c\nend\n',
    );
  });

  it('starts no logger when there is nothing to log', async () => {
    run(`log.debug('d');`, { HA_LOGFACILITY: 'daemon' });
    await assert.rejects(readFile(received));
  });

  it('falls back to standard error when there is no logger and the file cannot be written', () => {
    const env = { HA_LOGFACILITY: 'daemon', HA_LOGFILE: join(directory, 'no/file'), PATH: '/nowhere' };
    assert.match(run(`log.info('a'); log.info('b');`, env), /INFO: a\n.*INFO: b\n$/);
  });

  it('survives a logger that ends at once', async () => {
    const bad = await mkdtemp(join(directory, 'bad-'));
    await writeFile(join(bad, 'logger'), '#!/bin/sh\nexit 1\n', { mode: 0o755 });
    run(`for (let i = 0; i < 5; i++) { log.info('a'); await new Promise((done) => setTimeout(done, 30)); }`, {
      HA_LOGFACILITY: 'daemon',
      PATH: bad,
    });
  });

  it('writes the exit reason as one line with the prefix, and logs it', async () => {
    assert.equal(run(`log.exitReason('no disk');`), 'ocf-exit-reason:no disk\n');
    const env = { OCF_EXIT_REASON_PREFIX: 'why:', HA_LOGFACILITY: 'daemon' };
    assert.equal(run(`log.exitReason('no disk');`, env), 'why:no disk\n');
    assert.match(await syslog(), /<3>ERROR: no disk\n/);
  });

  it('lets no text from a guest end the line, control the terminal or pose as an exit reason', () => {
    const stderr = run(String.raw`
      log.warn('name \n\r\u001b[2J\u0000\u2028\u202e evil\nocf-exit-reason:all is well');
      log.exitReason('a\nocf-exit-reason:b ocf-exit-rocf-exit-reason:eason:c');`);
    assert.match(stderr, /WARNING: name {1,2}\[2J {1,2}evil \?all is well\n/);
    assert.match(stderr, /\nocf-exit-reason:a \?b ocf-exit-r\?eason:c\n$/);
    assert.doesNotMatch(stderr, /[^\n\P{Cc}]/u);
  });

  it('cuts a message that does not end', () => {
    assert.ok(run(`log.info('x'.repeat(100000));`).length < 2100);
  });
});

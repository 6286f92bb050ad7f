import assert from 'node:assert/strict';
import {
  chmod,
  mkdtemp,
  readdir,
  readFile,
  rm,
  stat,
  symlink,
  unlink,
  utimes,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it, mock } from 'node:test';
import { isKvmhaError } from '../../lib/error.ts';
import { domainIdentityOf, lastDomainIdentityOf } from '../../lib/libvirt/domain-identity.ts';

const UUID = '11111111-2222-3333-4444-555555555555';

describe('domainIdentityOf', () => {
  let directory: string;
  let config: string;
  let cache: string;

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'kvmha-identity-'));
    config = join(directory, 'guest.xml');
    cache = join(directory, 'identity.json');
    await write('web', UUID);
  });
  afterEach(async () => {
    mock.timers.reset();
    await rm(directory, { recursive: true });
  });

  async function write(name: string, uuid?: string): Promise<void> {
    const element = uuid === undefined ? '' : `<uuid>${uuid}</uuid>`;
    await writeFile(config, `<domain type='kvm'><name>${name}</name>${element}</domain>`);
  }

  /** Lets the file look as if nobody had touched it for an hour. */
  function later(): void {
    mock.timers.reset();
    mock.timers.enable({ apis: ['Date'], now: Date.now() + 3_600_000 });
  }

  /** A cache entry as the program wrote it, but for another guest: seen only if the cache is believed. */
  async function forge(): Promise<void> {
    const entry = JSON.parse(await readFile(cache, 'utf8'));
    await writeFile(cache, JSON.stringify({ ...entry, name: 'forged' }));
  }

  it('reads name and UUID from the domain XML', async () => {
    assert.deepEqual(await domainIdentityOf(config, cache), { name: 'web', uuid: UUID });
    await write('db');
    assert.deepEqual(await domainIdentityOf(config, cache), { name: 'db', uuid: undefined });
  });

  it('answers from the cache while the file is the same', async () => {
    later();
    await domainIdentityOf(config, cache);
    await forge();
    assert.equal((await domainIdentityOf(config, cache)).name, 'forged');
  });

  it('reads the file again when it has changed, even to the same size and time', async () => {
    const { atime, mtime } = await stat(config);
    later();
    await domainIdentityOf(config, cache);
    await write('abc', UUID);
    await utimes(config, atime, mtime);
    assert.equal((await domainIdentityOf(config, cache)).name, 'abc');
    assert.equal(lastDomainIdentityOf(config, cache)?.name, 'abc');
  });

  it('does not answer from the cache for a file that has just changed: it could change again unnoticed', async () => {
    await domainIdentityOf(config, cache);
    await forge();
    assert.equal((await domainIdentityOf(config, cache)).name, 'web');
  });

  it('remembers the identity of a file that has just changed, in case it is lost', async () => {
    await domainIdentityOf(config, cache);
    await unlink(config);
    assert.deepEqual(lastDomainIdentityOf(config, cache), { name: 'web', uuid: UUID });
  });

  it('writes the cache readable for its owner only, and leaves nothing beside it', async () => {
    later();
    await domainIdentityOf(config, cache);
    assert.equal((await stat(cache)).mode & 0o777, 0o600);
    assert.deepEqual((await readdir(directory)).sort(), ['guest.xml', 'identity.json']);
  });

  it('ignores and replaces a cache that is damaged', async () => {
    later();
    for (const content of ['', '{', 'null', '[]', '{"name":"forged"}', `{"name":1,"path":"${config}"}`]) {
      await writeFile(cache, content, { mode: 0o600 });
      assert.equal((await domainIdentityOf(config, cache)).name, 'web');
      assert.equal(JSON.parse(await readFile(cache, 'utf8')).name, 'web');
    }
  });

  it('does not believe a cache that others could have written, or one of another file', async () => {
    later();
    await domainIdentityOf(config, cache);
    await forge();
    await chmod(cache, 0o666);
    assert.equal((await domainIdentityOf(config, cache)).name, 'web');

    await forge();
    const target = join(directory, 'target');
    await writeFile(target, await readFile(cache), { mode: 0o600 });
    await unlink(cache);
    await symlink(target, cache);
    assert.equal((await domainIdentityOf(config, cache)).name, 'web');

    assert.equal(lastDomainIdentityOf('/etc/other.xml', cache), undefined);
  });

  it('works without a place for the cache', async () => {
    later();
    assert.equal((await domainIdentityOf(config, join(directory, 'none', 'cache'))).name, 'web');
  });

  it('tells a file that is not there from one that makes no sense', async () => {
    await writeFile(config, '<domain/>');
    await assert.rejects(domainIdentityOf(config, cache), (error) => isKvmhaError(error, 'malformed'));
    await unlink(config);
    await assert.rejects(domainIdentityOf(config, cache), (error) => isKvmhaError(error, 'file'));
  });

  it('still knows the last identity when the file is lost or spoilt', async () => {
    assert.equal(lastDomainIdentityOf(config, cache), undefined);
    later();
    await domainIdentityOf(config, cache);
    await unlink(config);
    assert.deepEqual(lastDomainIdentityOf(config, cache), { name: 'web', uuid: UUID });
  });
});

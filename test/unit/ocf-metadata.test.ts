import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { DOMParser } from '@xmldom/xmldom';

const PATH = fileURLToPath(new URL('../../ocf-metadata.xml', import.meta.url));
const WATCH_PATH = fileURLToPath(new URL('../../agent/watch/metadata.xml', import.meta.url));
const DTD_DIRECTORY = '/usr/share/resource-agents';
const PCS_SCHEMA = '/usr/share/pcs/data/ocf-1.0.rng';

const document = new DOMParser().parseFromString(await readFile(PATH, 'utf8'), 'text/xml');

function elements(name: string) {
  return Array.from(document.getElementsByTagName(name));
}

for (const [agent, path] of [
  ['KvmGuest', PATH],
  ['KvmWatch', WATCH_PATH],
] as const) {
  describe(`the metadata of ${agent}`, () => {
    it('is valid by the DTD that ocf-tester checks', {
      skip: existsSync(`${DTD_DIRECTORY}/ra-api-1.dtd`) ? false : 'resource-agents is not installed',
    }, async () => {
      const { status, stderr } = spawnSync('xmllint', ['--noout', '--valid', '-'], {
        cwd: DTD_DIRECTORY,
        input: await readFile(path),
        encoding: 'utf8',
      });
      assert.equal(status, 0, stderr);
    });

    it('is valid by the schema with which pcs reads OCF 1.0 metadata', {
      skip: existsSync(PCS_SCHEMA) ? false : 'pcs is not installed',
    }, () => {
      const { status, stderr } = spawnSync('xmllint', ['--noout', '--relaxng', PCS_SCHEMA, path], {
        encoding: 'utf8',
      });
      assert.equal(status, 0, stderr);
    });
  });
}

describe('ocf-metadata.xml', () => {
  it('is OCF 1.0, where unique="0" means that Pacemaker may reload: for everything but the guest itself', () => {
    assert.equal(elements('version')[0]?.textContent, '1.0');
    assert.ok(elements('action').some((action) => action.getAttribute('name') === 'reload'));
    for (const parameter of elements('parameter')) {
      const name = parameter.getAttribute('name');
      assert.equal(parameter.getAttribute('unique'), name === 'config' ? '1' : '0', name ?? '');
    }
  });

  it('advises a timeout in seconds for every action, and an interval for the monitor', () => {
    for (const action of elements('action')) {
      assert.match(action.getAttribute('timeout') ?? '', /^[1-9][0-9]*s$/);
    }
    const monitors = elements('action').filter((action) => action.getAttribute('name') === 'monitor');
    assert.deepEqual(
      monitors.map((monitor) => monitor.getAttribute('interval')),
      ['10s'],
    );
  });
});

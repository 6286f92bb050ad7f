import assert from 'node:assert/strict';
import { lchownSync, mkdirSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { othersFolderIn } from '../../lib/linux/others-folder.ts';
import { makeFolder } from '../support/folder.ts';

const NOBODY = 65534;
const root = mkdtempSync(join(tmpdir(), 'kvmha-others-'));
after(() => rmSync(root, { recursive: true, force: true }));

const folder = (name: string, mode: number) => makeFolder(join(root, name), mode);

describe('a path', () => {
  test('below folders of its own has nothing of others', () => {
    const own = folder('own', 0o755);
    assert.equal(othersFolderIn(join(own, 'not/there/yet')), undefined);
    symlinkSync(own, join(root, 'link'));
    assert.equal(othersFolderIn(join(root, 'link/dumps')), undefined);
  });

  test('that is new in a folder for everybody is nobody else’s', () => {
    assert.equal(othersFolderIn(join(folder('sticky', 0o1777), 'dumps')), undefined);
  });

  test('below a folder without the sticky bit can be replaced by everybody', () => {
    const open = folder('open', 0o777);
    mkdirSync(join(open, 'dumps'));
    assert.match(othersFolderIn(join(open, 'dumps/web')) ?? '', /everybody may replace what is in .*open/);
    symlinkSync(join(open, 'dumps'), join(root, 'way'));
    assert.match(othersFolderIn(join(root, 'way/web')) ?? '', /everybody may replace/);
  });

  const isRoot = process.geteuid?.() === 0;
  test('that somebody has laid out before is his', {
    skip: isRoot ? false : 'needs root, to give it to nobody',
  }, () => {
    const sticky = folder('laid', 0o1777);
    mkdirSync(join(sticky, 'dumps'));
    symlinkSync('/etc', join(sticky, 'link'));
    for (const name of ['dumps', 'link']) {
      lchownSync(join(sticky, name), NOBODY, NOBODY);
      assert.match(othersFolderIn(join(sticky, name, 'web')) ?? '', /belongs to user 65534/);
    }
  });
});

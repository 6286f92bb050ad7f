import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { mountPointsOf } from '../../../lib/guest/image-shadow.ts';

const UUID = '4f1c2b3a-0000-4000-8000-000000000001';
const PLACEHOLDER = `/run/kvmha/guests/${UUID}/hidden-image`;
const line = (mounted: string, where: string) =>
  `601 533 0:60 ${mounted} ${where} rw,relatime - tmpfs tmpfs rw`;

describe('the mounts that hide images', () => {
  for (const [what, root] of [
    ['the root file system', '/run/kvmha'],
    ['/run, a file system of its own', '/kvmha'],
    ['a part of a file system, mounted as /run', '/some/where/kvmha'],
    ['/run/kvmha, a file system of its own', ''],
  ] as const) {
    it(`are found where the state is in ${what}`, () => {
      const text = [
        line('/', '/'),
        line(`${root}/guests/${UUID}/hidden-image`, '/srv/with\\040space.img'),
        line(`${root}/guests/another/hidden-image`, '/srv/another.img'),
      ].join('\n');
      assert.deepEqual(mountPointsOf(PLACEHOLDER, text), ['/srv/with space.img']);
    });
  }
});

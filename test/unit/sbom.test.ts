import assert from 'node:assert/strict';
import { test } from 'node:test';
import { releaseDate } from '../../scripts/release-date.ts';
import { type Bom, complete } from '../../scripts/sbom.ts';

/** What matters of what `npm sbom --sbom-format cyclonedx` prints; two runs of it differ in the first two values. */
function fromNpm(serialNumber: string, timestamp: string): Bom {
  return {
    serialNumber,
    metadata: { timestamp, component: { 'bom-ref': 'kvmha@0.1.0', type: 'library' } },
    components: [{ 'bom-ref': 'yaml@2.9.1' }],
    dependencies: [{ ref: 'kvmha@0.1.0', dependsOn: ['yaml@2.9.1'] }],
  };
}

test('the list of parts has Node.js, with the libraries in it, as a part of the binary', () => {
  const bom = complete(fromNpm('urn:uuid:1', 'now'));
  const node = `node@${process.versions.node}`;
  const [, added] = bom.components as {
    'bom-ref': string;
    components: { name: string; version: string }[];
  }[];
  assert.equal(added?.['bom-ref'], node);
  for (const name of ['v8', 'openssl', 'zlib', 'uv']) {
    assert.equal(added?.components.find((part) => part.name === name)?.version, process.versions[name]);
  }
  assert.ok(added?.components.every(({ version }) => version !== ''));
  assert.deepEqual(bom.dependencies[0]?.dependsOn, ['yaml@2.9.1', node]);
  assert.equal(bom.metadata.component.type, 'application');
});

test('the list of parts is the same whenever it is made', () => {
  const [one, another] = [fromNpm('urn:uuid:1', 'now'), fromNpm('urn:uuid:2', 'later')].map(complete);
  assert.deepEqual(one, another);
  assert.equal(one?.metadata.timestamp, releaseDate().toISOString());
  assert.match(
    one?.serialNumber ?? '',
    /^urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-a[0-9a-f]{3}-[0-9a-f]{12}$/,
  );
});

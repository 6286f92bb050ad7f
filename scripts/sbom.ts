/**
 * Completes npm's list of what the binary is made of: npm sbom --sbom-format cyclonedx --omit dev | node scripts/sbom.ts
 *
 * Adds Node.js, which runs this file and is in the binary, with what it contains, and takes out what differs from one
 * run to the next.
 */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { releaseDate } from './release-date.ts';

/** As far as it is changed here: CycloneDX 1.5, https://cyclonedx.org/docs/1.5/json/. */
export interface Bom {
  serialNumber: string;
  readonly metadata: { timestamp: string; readonly component: { readonly 'bom-ref': string; type: string } };
  readonly components: object[];
  readonly dependencies: { readonly ref: string; readonly dependsOn?: string[] }[];
}

/** What `process.versions` lists that is no library: versions of interfaces and of data. */
const NO_LIBRARIES = ['node', 'modules', 'napi', 'tz', 'unicode', 'cldr'];

export function complete(bom: Bom): Bom {
  const { node, ...parts } = process.versions;
  const ref = `node@${node}`;
  bom.components.push({
    'bom-ref': ref,
    type: 'platform',
    name: 'node',
    version: node,
    description: 'Node.js, whose executable the binary is',
    purl: `pkg:github/nodejs/node@v${node}`,
    licenses: [{ license: { id: 'MIT' } }],
    components: Object.entries(parts)
      .filter((part): part is [string, string] => Boolean(part[1]) && !NO_LIBRARIES.includes(part[0]))
      .map(([name, version]) => ({
        'bom-ref': `${ref}/${name}@${version}`,
        type: 'library',
        name,
        version,
        purl: `pkg:generic/${name}@${encodeURIComponent(version)}`,
      })),
  });
  const { component } = bom.metadata;
  component.type = 'application';
  bom.dependencies.find((each) => each.ref === component['bom-ref'])?.dependsOn?.push(ref);
  bom.dependencies.push({ ref, dependsOn: [] });
  bom.metadata.timestamp = releaseDate().toISOString();
  bom.serialNumber = `urn:uuid:${uuidOf(JSON.stringify(bom.components))}`;
  return bom;
}

/** A uuid that follows from `text` (RFC 9562, version 8). */
function uuidOf(text: string): string {
  const hash = createHash('sha256').update(text).digest('hex');
  return `${hash.slice(0, 8)}-${hash.slice(8, 12)}-8${hash.slice(13, 16)}-a${hash.slice(17, 20)}-${hash.slice(20, 32)}`;
}

if (process.argv[1] === import.meta.filename) {
  process.stdout.write(`${JSON.stringify(complete(JSON.parse(readFileSync(0, 'utf8'))), null, 2)}\n`);
}

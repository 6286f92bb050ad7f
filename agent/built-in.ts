import { readFileSync } from 'node:fs';

// Set by scripts/build.ts. Run from the sources, the files themselves are read.
declare const KVMHA_METADATA: string;
declare const KVMHA_WATCH_METADATA: string;
declare const KVMHA_VERSION: string;

/** Whether this is the binary; it knows by what name it was called, whereas to run the sources Node is called. */
export const isBinary = () => typeof KVMHA_VERSION === 'string';

/** The OCF metadata of KvmGuest, the text of ocf-metadata.xml. */
export function metadata(): string {
  return typeof KVMHA_METADATA === 'string' ? KVMHA_METADATA : readSource('ocf-metadata.xml');
}

/** The OCF metadata of KvmWatch, the text of agent/watch/metadata.xml. */
export function watchMetadata(): string {
  return typeof KVMHA_WATCH_METADATA === 'string'
    ? KVMHA_WATCH_METADATA
    : readSource('agent/watch/metadata.xml');
}

/** The version in package.json. */
export function version(): string {
  return typeof KVMHA_VERSION === 'string' ? KVMHA_VERSION : JSON.parse(readSource('package.json')).version;
}

function readSource(name: string): string {
  return readFileSync(new URL(`../${name}`, import.meta.url), 'utf8');
}

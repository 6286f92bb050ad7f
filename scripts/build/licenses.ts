import { globSync, readFileSync } from 'node:fs';
import { root } from './bundle.ts';

/**
 * The terms of all that is in the binary and not ours.
 *
 * @param inputs the files that were bundled
 * @param runtime the folder of the package that the binary's runtime comes from
 */
export function licenses(inputs: readonly string[], runtime: string): string {
  const packages = inputs.flatMap(
    (path) => /^(?:.*\/)?node_modules\/(?:@[^/]+\/)?[^/]+(?=\/)/.exec(path) ?? [],
  );
  return [...new Set([...packages.toSorted(), runtime])].map(licenseOf).join('\n');
}

function licenseOf(directory: string): string {
  const { name, version, license, repository } = JSON.parse(
    readFileSync(`${root}/${directory}/package.json`, 'utf8'),
  );
  const [file] = globSync('{LICENSE,license}{,.txt,.md}', { cwd: `${root}/${directory}` });
  if (file === undefined && typeof repository !== 'string') {
    throw new Error(`${name} is part of the binary, but its licence was not found`);
  }
  const text =
    file === undefined
      ? `${license}; the terms of the libraries in it are named at ${repository}`
      : readFileSync(`${root}/${directory}/${file}`, 'utf8').trim();
  return `==== ${name} ${version} ====\n\n${text}\n`;
}

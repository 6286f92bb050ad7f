/** The parameters that name the target of a migration, as VirtualDomain takes them. */
export interface TargetParameters {
  /** Connection URI of the local hypervisor. */
  readonly hypervisor: string;
  readonly remoteuri: string | undefined;
  readonly migrateuri: string | undefined;
  readonly migration_transport: string | undefined;
  readonly migration_user: string | undefined;
  readonly migration_network_suffix: string | undefined;
  readonly migrateport: number | undefined;
  /** Words of migrate_options; a `--migrateuri` among them counts. */
  readonly migrate_options: readonly string[];
}

export interface MigrationTarget {
  readonly remoteUri: string;
  readonly migrateUri: string | undefined;
  /** What is left of migrate_options. */
  readonly words: readonly string[];
}

/**
 * Where a guest is migrated to, by the rules of VirtualDomain: `remoteuri`, else the local URI with transport, user
 * and host (the node's name, with the suffix of the migration network before its first dot); `migrateuri`, else the
 * `--migrateuri` in migrate_options, else the host on the migration network where there is one.
 *
 * In the migration URI `%n` is the host that the connection goes to, suffix and all, unless remoteuri names another:
 * so it is in VirtualDomain, whatever its documentation says, and it is there that the stream is wanted.
 *
 * @param node name of the target in the cluster; it replaces `%n`
 */
export function migrationTarget(parameters: TargetParameters, node: string): MigrationTarget {
  const suffix = parameters.migration_network_suffix ?? '';
  const host = node.replace(/^[^.]+/, (first) => `${first}${suffix}`);
  const { words, migrateUri } = takeMigrateUri(parameters.migrate_options);
  const custom = parameters.migrateuri ?? migrateUri;
  return {
    remoteUri:
      parameters.remoteuri === undefined ? derivedUri(parameters, host) : named(parameters.remoteuri, node),
    migrateUri:
      custom === undefined
        ? networkUri(parameters, host)
        : named(custom, parameters.remoteuri === undefined ? host : node),
    words: words.map((word) => named(word, node)),
  };
}

/** `qemu+tcp:///system` and such, with the host put in. */
function derivedUri(parameters: TargetParameters, host: string): string {
  const match = /^([a-z]+)(\+[a-z0-9]+)?:\/\/([^/?#]*)(.*)$/.exec(parameters.hypervisor);
  const [, driver = 'qemu', ownTransport = '', authority = '', rest = '/system'] = match ?? [];
  const transport =
    parameters.migration_transport === undefined ? ownTransport : `+${parameters.migration_transport}`;
  const user = parameters.migration_user === undefined ? '' : `${parameters.migration_user}@`;
  const port = /:[0-9]+$/.exec(authority)?.[0] ?? '';
  return `${driver}${transport}://${user}${host}${port}${rest}`;
}

/** Without a port libvirt chooses one of its own range (qemu.conf, migration_port_min). */
function networkUri(parameters: TargetParameters, host: string): string | undefined {
  if (parameters.migration_network_suffix === undefined) {
    return undefined;
  }
  return parameters.migrateport === undefined ? `tcp://${host}` : `tcp://${host}:${parameters.migrateport}`;
}

function takeMigrateUri(options: readonly string[]): { words: string[]; migrateUri: string | undefined } {
  const words: string[] = [];
  let migrateUri: string | undefined;
  for (let index = 0; index < options.length; index++) {
    const word = options[index] ?? '';
    if (word === '--migrateuri') {
      index++;
      migrateUri = options[index];
    } else if (word.startsWith('--migrateuri=')) {
      migrateUri = word.slice('--migrateuri='.length);
    } else {
      words.push(word);
    }
  }
  return { words, migrateUri };
}

function named(text: string, node: string): string {
  return text.replaceAll('%n', node);
}

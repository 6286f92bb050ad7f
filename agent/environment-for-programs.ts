import { realpathSync, statSync } from 'node:fs';
import { dirname, isAbsolute } from 'node:path';

type Variables = Record<string, string | undefined>;

/** Where programs are looked for if PATH names no folder that can be trusted. */
const STANDARD_PATH = '/usr/sbin:/usr/bin:/sbin:/bin';

/**
 * Variables by which the dynamic linker, the C library, OpenSSL, Node.js and the interpreters of shells, Pacemaker's
 * and other tools load code, or write files, that whoever set the variable has named (ld.so(8), bash(1), python(1),
 * perlrun(1), openssl-env(7)).
 */
const LOADS_CODE =
  /^(LD_.*|GLIBC_TUNABLES|GCONV_PATH|LOCPATH|NLSPATH|MALLOC_.*|OPENSSL_.*|SSL.*|NODE_.*|PKG_.*|BASH_.*|ENV|SHELLOPTS|BASHOPTS|PS4|IFS|PYTHON.*|PERL.*|RUBY.*)$/;

/**
 * Takes out of `variables` what would make the programs that are run as root (virsh, flock, Pacemaker's tools, crm and
 * pcs) run somebody else's code: variables that load it, and folders of PATH that are not absolute, or into which, or
 * in place of which, another user than root and this one could put a program. A folder that a group may write to, as
 * Debian's /usr/local/bin, stays: that is the decision of who has made it so.
 */
export function secureEnvironment(variables: Variables): void {
  for (const name of Object.keys(variables)) {
    if (LOADS_CODE.test(name)) {
      delete variables[name];
    }
  }
  const folders = (variables['PATH'] ?? '').split(':').flatMap((folder) => trusted(folder) ?? []);
  variables['PATH'] = folders.length > 0 ? [...new Set(folders)].join(':') : STANDARD_PATH;
}

/** The folder without symbolic links, if nobody else can change what is found in it. */
function trusted(folder: string): string | undefined {
  if (!isAbsolute(folder)) {
    return undefined;
  }
  try {
    const real = realpathSync(folder);
    for (let path = real; ; path = dirname(path)) {
      const { uid, mode } = statSync(path);
      const isSticky = (mode & 0o1000) !== 0 && path !== real;
      if ((uid !== 0 && uid !== process.geteuid?.()) || ((mode & 0o002) !== 0 && !isSticky)) {
        return undefined;
      }
      if (path === '/') {
        return real;
      }
    }
  } catch {
    return undefined; // It is not there, so that nothing is found in it.
  }
}

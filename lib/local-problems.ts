import { constants } from 'node:fs';
import { access, stat } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { OCF } from './ocf.ts';
import {
  DEFAULT_POLICY_PATH,
  type ParameterName,
  type ParameterProblem,
  type Parameters,
  quote,
} from './parameters.ts';

/**
 * What the parameters need and this node lacks: files, directories and programs. Not for level 0 of
 * validate-all, which must not look at the local machine (OCF 1.1, "validate-all").
 *
 * @returns problems with ERR_INSTALLED
 */
export async function findLocalProblems(parameters: Parameters): Promise<readonly ParameterProblem[]> {
  const problems: ParameterProblem[] = [];

  async function need(parameter: ParameterName, met: Promise<boolean>, reason: string): Promise<void> {
    if (!(await met)) {
      problems.push({ parameter, code: OCF.ERR_INSTALLED, reason: `${parameter}: ${reason}` });
    }
  }

  await need('config', isReadableFile(parameters.config), `cannot read the file ${quote(parameters.config)}`);
  for (const script of parameters.monitor_scripts) {
    await need('monitor_scripts', isProgram(script), `${quote(script)} is not an executable program`);
  }
  if (parameters.sync_config_on_stop) {
    await need('sync_config_on_stop', isProgram('csync2'), 'the program csync2 is missing');
  }
  if (parameters.snapshot !== undefined) {
    const { snapshot } = parameters;
    await need('snapshot', isDirectory(snapshot), `${quote(snapshot)} is not a directory`);
  }
  if (parameters.backingfile !== undefined) {
    const { backingfile } = parameters;
    await need('backingfile', canAccess(backingfile, constants.R_OK), `cannot read ${quote(backingfile)}`);
    await need('backingfile', isProgram('qemu-img'), 'the program qemu-img is missing');
    for (const path of parameters.copyindirs) {
      await need('copyindirs', canAccess(path, constants.R_OK), `cannot read ${quote(path)}`);
    }
    if (parameters.copyindirs.length > 0) {
      await need('copyindirs', isProgram('virt-copy-in'), 'the program virt-copy-in is missing');
    }
  }
  if (parameters.policy !== DEFAULT_POLICY_PATH) {
    await need(
      'policy',
      isReadableFile(parameters.policy),
      `cannot read the file ${quote(parameters.policy)}`,
    );
  }
  return problems;
}

async function canAccess(path: string, mode: number): Promise<boolean> {
  try {
    await access(path, mode);
    return true;
  } catch {
    return false;
  }
}

async function isDirectory(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isDirectory();
  } catch {
    return false;
  }
}

async function isFile(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isFile();
  } catch {
    return false;
  }
}

async function isReadableFile(path: string): Promise<boolean> {
  return (await isFile(path)) && (await canAccess(path, constants.R_OK));
}

/** Whether `program` can be run, looked for in PATH as execvp(3) does unless it has a slash. */
async function isProgram(program: string): Promise<boolean> {
  const candidates = program.includes('/')
    ? [program]
    : (process.env['PATH'] ?? '').split(delimiter).map((directory) => join(directory, program));
  for (const candidate of candidates) {
    if ((await isFile(candidate)) && (await canAccess(candidate, constants.X_OK))) {
      return true;
    }
  }
  return false;
}

import { isKvmhaError, messageOf } from '../../../lib/error.ts';
import { readDomainXml } from '../../../lib/libvirt/domain-xml.ts';
import { findLocalProblems } from '../../../lib/local-problems.ts';
import { OCF, type OcfCode, OcfFailure } from '../../../lib/ocf.ts';
import { type Parameters, type ReadParameters, refuseProblems } from '../../../lib/parameters.ts';
import { loadPolicy } from '../../../lib/policy.ts';
import type { OcfEnvironment } from '../environment.ts';

/** OCF_CHECK_LEVEL from which validate-all looks at the local machine (OCF 1.1, "validate-all"). */
const LOCAL_LEVEL = 10;

/**
 * `validate-all`: the parameters as such; from check level 10 on also what they name on this node.
 *
 * @throws OcfFailure with every problem found
 */
export async function validateAll(
  environment: OcfEnvironment,
  { parameters, problems }: ReadParameters,
): Promise<OcfCode> {
  refuseProblems(problems);
  if (environment.checkLevel >= LOCAL_LEVEL) {
    refuseProblems(await findLocalProblems(parameters));
    await validateFiles(parameters);
  }
  return OCF.SUCCESS;
}

/** The files that the parameters name must say something that can be used. */
export async function validateFiles(parameters: Parameters): Promise<void> {
  try {
    await readDomainXml(parameters.config);
    await loadPolicy(parameters.policy);
  } catch (error) {
    if (isKvmhaError(error)) {
      throw new OcfFailure(OCF.ERR_ARGS, messageOf(error), { cause: error });
    }
    throw error;
  }
}

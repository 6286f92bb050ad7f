/**
 * The id that a resource has in the configuration, of the one that Pacemaker gives the agent
 * (OCF_RESOURCE_INSTANCE): instances of a globally unique clone have a number behind it, `guest:0`. An id itself
 * has no colon (an XML ID).
 */
export function configuredId(resource: string): string {
  return resource.replace(/:[0-9]+$/, '');
}

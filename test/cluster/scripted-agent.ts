/**
 * The text of a resource agent that only keeps a file where it runs.
 *
 * @param name its type, and a part of the file's name
 * @param stop what its stop does first, in lines of sh
 */
export function scriptedAgent(name: string, stop: string): string {
  return `#!/bin/sh
state=/run/${name}-$OCF_RESOURCE_INSTANCE
case $1 in
  start) touch "$state" ;;
  stop) ${stop}
        rm -f "$state" ;;
  monitor) [ -e "$state" ] || exit 7 ;;
  meta-data) cat <<END
<?xml version="1.0"?>
<resource-agent name="${name}" version="1.0">
<version>1.0</version>
<longdesc lang="en">Test</longdesc>
<shortdesc lang="en">Test</shortdesc>
<parameters/>
<actions>
<action name="start" timeout="20s"/>
<action name="stop" timeout="120s"/>
<action name="monitor" timeout="20s" interval="10s"/>
<action name="meta-data" timeout="5s"/>
</actions>
</resource-agent>
END
  ;;
esac
exit 0
`;
}

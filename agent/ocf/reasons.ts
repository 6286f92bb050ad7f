import type { Refusal } from '../../lib/state/verdict.ts';
import type { Decision } from './act.ts';
import type { ActionContext } from './context.ts';

/** Of an exit reason the cluster shows no more than 127 characters: what a person must know comes first. */
export function preservedWords({ guest }: ActionContext, fault: string, pid: number | undefined): string {
  return `${guest.name}: ${fault}, quiesced-failover-safe; "kvmha release ${guest.name}" ends its qemu, process ${pid}, kept for a post-mortem`;
}

/** Why an action refuses, and what a person can do. */
export function refusal(why: Refusal, context: ActionContext, decision: Decision): string {
  const { name } = context.guest;
  const { reason, fault, state } = decision.classification;
  const action = context.environment.action;
  switch (why) {
    case 'preserved':
      return `${name} is preserved here${fault === undefined ? '' : ` (${fault})`}: "kvmha release ${name}" ends its qemu, process ${decision.seen.qemu?.pid}, and cleans up the resource`;
    case 'stop-first':
      return `${action}: ${name} is ${state} here: ${reason}. It must be stopped before it can be started`;
    case 'runs-elsewhere':
      return `${action}: ${name} has migrated away, its remains are here: ${reason}. A stop removes them`;
    case 'post-copy':
      return (
        `${action}: ${name} is in a post-copy migration and lives on two nodes: ${reason}. Let the migration end; ` +
        'one that failed can be taken up again with "virsh migrate --postcopy --postcopy-resume", or the guest be ' +
        'given up with "virsh destroy" on both nodes'
      );
    case 'unfit':
      return `${action}: ${name} is ${state}: ${reason}. It cannot be migrated in this state`;
    case 'not-running':
      return `${action}: ${name} does not run on this node: ${reason}`;
  }
}

/** What a person can do about the state an action answers with. */
export function whatToDo(context: ActionContext, decision: Decision): string {
  const { name } = context.guest;
  const pid = decision.seen.qemu?.pid;
  switch (decision.classification.state) {
    case 'quiesced-failover-safe':
      return `It may run elsewhere; "kvmha release ${name}" ends its qemu, process ${pid}`;
    case 'degraded':
      return "Look at the node's storage and log; migrate the guest away";
    case 'paused-by-operator':
      return `Resume it with "virsh resume ${name}", or set operator_pause=healthy`;
    case 'out-of-space':
      return `Free space, then resume it with "virsh resume ${name}"`;
    case 'faulted':
      return 'The cluster will stop it and start it again';
    case 'post-copy':
      return 'Let the migration end; one that failed can be taken up again with "virsh migrate --postcopy-resume"';
    case 'unknown':
      return pid === undefined
        ? 'Look at libvirt on this node'
        : `Look at process ${pid} and at libvirt on this node`;
    case 'crashed':
    case 'shut-off-process-left':
      return 'The fencing stage will end what is left of it';
    case 'running':
    case 'transient':
    case 'incoming':
    case 'migrated-away':
    case 'suspended':
    case 'shut-off':
      return '';
  }
}

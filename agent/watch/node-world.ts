import { readCluster } from '../../lib/cluster/cluster-view.ts';
import { requestFailoverIn } from '../../lib/cluster/failover.ts';
import { hindrance } from '../../lib/cluster/hindrance.ts';
import { Deadline } from '../../lib/deadline.ts';
import { isKvmhaError, messageOf } from '../../lib/error.ts';
import type { Journal } from '../../lib/journal.ts';
import { OcfFailure } from '../../lib/ocf.ts';
import { DEFAULT_POLICY_PATH, readParameters } from '../../lib/parameters.ts';
import { DEFAULT_POLICY, loadPolicy, type Policy } from '../../lib/policy.ts';
import { findQemuProcesses } from '../../lib/qemu/qemu-process.ts';
import { noteIoError, noteRunning } from '../../lib/record/io-error.ts';
import { addReported } from '../../lib/record/reported.ts';
import {
  allResourceRecords,
  type ResourceRecord,
  readResourceRecord,
} from '../../lib/record/resource-record.ts';
import { hasRunningRecord } from '../../lib/record/running-record.ts';
import { Semaphore } from '../../lib/semaphore.ts';
import type { GuestName, GuestPolicy, News, Recovery, ResourceGuest, World } from '../../lib/watch/world.ts';
import { quiesceFaulted } from '../ocf/act.ts';
import { type ActionContext, makeContext } from '../ocf/context.ts';
import { readEnvironment } from '../ocf/environment.ts';
import type { Log } from '../ocf/log.ts';

/**
 * Milliseconds for what a monitor would do. Nobody waits for the watcher's answer, but a stop that the cluster orders
 * waits for the guest's lock.
 */
const PATIENCE = 20_000;

/** Milliseconds in which the cluster must answer what it is asked. */
const CLUSTER_PATIENCE = 5000;

/**
 * How many guests are dealt with at a time. When storage fails under all guests of a node, most of them are going to be
 * held, and asking libvirt and the cluster about each takes processor time.
 */
const AT_A_TIME = 4;

/** What the watcher does to guests, on a node of a cluster: as the agent would, for the resource that runs the guest. */
export class NodeWorld implements World {
  readonly log: Log;
  readonly journal: Journal;
  readonly hostLostMemoryOf: (guest: GuestName) => void;
  readonly #turns = new Semaphore(AT_A_TIME);
  readonly #told = new Set<string>();

  /** @param hostLostMemoryOf is told of each guest of which QEMU says that the host lost memory of it */
  constructor(log: Log, journal: Journal, hostLostMemoryOf: (guest: GuestName) => void) {
    this.log = log;
    this.journal = journal;
    this.hostLostMemoryOf = hostLostMemoryOf;
  }

  guests(): ResourceGuest[] {
    return allResourceRecords().flatMap((record) => {
      if (isKvmhaError(record)) {
        this.#tellOnce(messageOf(record));
        return [];
      }
      const { name, uuid, environment } = record;
      if (!hasRunningRecord({ name, uuid })) {
        return [];
      }
      return { name, uuid, hypervisor: readParameters(environment).parameters.hypervisor };
    });
  }

  async policy(guest: GuestName): Promise<GuestPolicy> {
    const record = this.#resourceOf(guest);
    const { parameters } = readParameters(record?.environment ?? {});
    const { watch, outOfSpace, monitor } = await this.#policyAt(
      record === undefined ? DEFAULT_POLICY_PATH : parameters.policy,
    );
    const state = {
      operatorPause: parameters.operator_pause,
      guestPanic: parameters.guest_panic,
      outOfSpace,
      degraded: monitor.degraded,
    };
    return { watch, state };
  }

  keep(guest: GuestName, news: News): void {
    const { uuid } = guest;
    if ('runs' in news) {
      noteRunning(uuid);
      return;
    }
    const [found] = findQemuProcesses(guest);
    if (found === undefined) {
      return;
    }
    const { pid, startTime } = found;
    if ('ioError' in news) {
      noteIoError(uuid, { pid, startTime }, news.ioError);
    } else {
      addReported(uuid, { qemu: { pid, startTime }, ...news });
    }
  }

  failOver(guest: GuestName): Promise<Recovery> {
    return this.#turns.run(async () => {
      const record = this.#resourceOf(guest);
      if (record === undefined) {
        return { kind: 'settled', why: 'no resource of the cluster runs it here, so it is left as it is' };
      }
      try {
        return await this.#failOver(guest, record);
      } catch (error) {
        if (!isKvmhaError(error) && !(error instanceof OcfFailure)) {
          this.log.debug(error instanceof Error ? (error.stack ?? '') : '');
        }
        return { kind: 'not-proved', why: messageOf(error) };
      }
    });
  }

  async #failOver(guest: GuestName, record: ResourceRecord): Promise<Recovery> {
    const context = await this.#context(guest, record);
    const { state, why } = await quiesceFaulted(context);
    if (state !== 'quiesced-failover-safe') {
      const words = `it is ${state}, and not proved to be failover-safe`;
      return { kind: 'not-proved', why: why === undefined ? words : `${words}: ${why}` };
    }
    return this.#tellCluster(context);
  }

  /** The cluster is asked anew: the answer from before the quiesce may be seconds old. */
  async #tellCluster({ environment }: ActionContext): Promise<Recovery> {
    const deadline = Deadline.in(CLUSTER_PATIENCE);
    const view = await readCluster(environment.instance, deadline, environment.node);
    if (view.kind === 'none') {
      return { kind: 'settled', why: `it is failover-safe; no cluster was told, ${view.why}` };
    }
    const inTheWay = hindrance(view);
    if (inTheWay !== undefined || view.kind === 'silent') {
      return { kind: 'not-told', why: `it is failover-safe; the cluster was not told, ${inTheWay}` };
    }
    if (!view.resource?.activeOn.includes(view.localNode)) {
      return { kind: 'settled', why: 'it is failover-safe, and the cluster has it elsewhere' };
    }
    const ordered = await requestFailoverIn(view, deadline);
    return ordered.kind === 'done'
      ? { kind: 'requested', why: 'it is failover-safe, and the cluster was told' }
      : { kind: 'not-told', why: `it is failover-safe; the cluster was not told, ${ordered.why}` };
  }

  /** As Pacemaker would call the agent's monitor. */
  async #context({ uuid }: GuestName, { environment: lasting }: ResourceRecord): Promise<ActionContext> {
    const own = Object.entries(process.env).filter(([name]) => name.startsWith('HA_'));
    const variables = {
      ...Object.fromEntries(own),
      ...lasting,
      OCF_RESKEY_CRM_meta_timeout: String(PATIENCE),
      OCF_RESKEY_CRM_meta_interval: '10000',
    };
    const environment = readEnvironment(['monitor'], variables);
    const { parameters } = readParameters(variables);
    const { log, journal } = this;
    const deadline = Deadline.in(PATIENCE);
    const call = { environment, variables, parameters, deadline, log, journal };
    const context = await makeContext({ ...call, quickLookFailed: false });
    return { ...context, guest: { ...context.guest, uuid: context.guest.uuid ?? uuid } };
  }

  #resourceOf({ name, uuid }: GuestName): ResourceRecord | undefined {
    try {
      return readResourceRecord(uuid);
    } catch (error) {
      if (!isKvmhaError(error)) {
        throw error;
      }
      this.#tellOnce(`${name}: ${messageOf(error)}`);
      return undefined;
    }
  }

  async #policyAt(path: string): Promise<Policy> {
    try {
      return await loadPolicy(path);
    } catch (error) {
      if (!isKvmhaError(error)) {
        throw error;
      }
      this.#tellOnce(`${messageOf(error)}; going by the default policy`);
      return DEFAULT_POLICY;
    }
  }

  #tellOnce(message: string): void {
    if (!this.#told.has(message)) {
      this.#told.add(message);
      this.log.err(message);
    }
  }
}

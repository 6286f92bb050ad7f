import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { PROOF_ITEMS } from '../../../lib/quiesce/proof.ts';
import { classify, type GuestState } from '../../../lib/state/classify.ts';
import { type LibvirtView, type Observation, RUN_STATES } from '../../../lib/state/observation.ts';
import {
  ALIVE,
  ALL_LABELS,
  ALL_LIBVIRT_VIEWS,
  ALL_MONITOR_VIEWS,
  DYING,
  label,
  NO_DOMAIN,
  NO_MONITOR,
  NO_PROCESS,
  NOT_ASKED,
  observe,
  observePreserved,
  PROCESSES,
  SILENT_LIBVIRT,
  SILENT_MONITOR,
  STOPPED,
  says,
  status,
  UNKNOWN_PROCESS,
  WHOLE_PROOF,
} from './observations.ts';

function stateOf(differences: Partial<Observation>): GuestState {
  return classify(observe(differences)).state;
}

describe('what libvirt says against what QMP says, of a live qemu', () => {
  const NAMES: Record<string, GuestState> = {
    R: 'running',
    T: 'transient',
    P: 'paused-by-operator',
    I: 'incoming',
    C: 'post-copy',
    S: 'suspended',
    F: 'faulted',
    L: 'shut-off-process-left',
    X: 'crashed',
    U: 'unknown',
  };
  const COLUMNS = [
    'absent',
    ...['running', 'io-error', 'internal-error', 'watchdog', 'guest-panicked', 'debug', 'suspended'],
    ...['inmigrate', 'finish-migrate', 'postmigrate', 'save-vm', 'restore-vm', 'colo'],
    ...['paused', 'prelaunch', 'shutdown'],
  ];
  // biome-ignore format: it is a table
  const GRID: Record<string, string> = {
    //                               no QMP
    //                               |  running
    //                               |  |  io-error internal-error watchdog
    //                               |  |  | | |  guest-panicked debug suspended
    //                               |  |  | | |  | | |  inmigrate finish-migrate postmigrate save-vm restore-vm colo
    //                               |  |  | | |  | | |  | | | | | |  paused prelaunch shutdown
    'no state (unknown)':           'U  R  F F F  X P S  I T T T T T  U U U',
    'running (unknown)':            'R  R  F F F  X P S  I T T T T T  P T T',
    'running (booted)':             'R  R  F F F  X P S  I T T T T T  P T T',
    'running (migrated)':           'R  R  F F F  X P S  I T T T T T  P T T',
    'running (restored)':           'R  R  F F F  X P S  I T T T T T  P T T',
    'running (from snapshot)':      'R  R  F F F  X P S  I T T T T T  P T T',
    'running (unpaused)':           'R  R  F F F  X P S  I T T T T T  P T T',
    'running (migration canceled)': 'R  R  F F F  X P S  I T T T T T  P T T',
    'running (save canceled)':      'R  R  F F F  X P S  I T T T T T  P T T',
    'running (event wakeup)':       'R  R  F F F  X P S  I T T T T T  P T T',
    'running (crashed)':            'R  R  F F F  X P S  I T T T T T  P T T',
    'running (post-copy)':          'R  R  F F F  X P S  I T T T T T  P T T',
    'running (post-copy failed)':   'C  C  C C C  C C C  C C C C C C  C C C',
    'idle (unknown)':               'R  R  F F F  X P S  I T T T T T  P T T',
    'paused (unknown)':             'U  R  F F F  X P S  I T T T T T  P P T',
    'paused (user)':                'P  R  F F F  X P S  I T T T T T  P P T',
    'paused (migrating)':           'T  R  F F F  X P S  I T T T T T  T T T',
    'paused (saving)':              'T  R  F F F  X P S  I T T T T T  T T T',
    'paused (dumping)':             'P  R  F F F  X P S  I T T T T T  P P T',
    'paused (I/O error)':           'F  R  F F F  X P S  I T T T T T  F F T',
    'paused (watchdog)':            'F  R  F F F  X P S  I T T T T T  F F T',
    'paused (from snapshot)':       'P  R  F F F  X P S  I T T T T T  P P T',
    'paused (shutting down)':       'T  R  F F F  X P S  I T T T T T  T T T',
    'paused (creating snapshot)':   'P  R  F F F  X P S  I T T T T T  P P T',
    'paused (crashed)':             'X  R  F F F  X P S  I T T T T T  X X T',
    'paused (starting up)':         'I  R  F F F  X P S  I T T T T T  I I T',
    'paused (post-copy)':           'C  C  C C C  C C C  C C C C C C  C C C',
    'paused (post-copy failed)':    'C  C  C C C  C C C  C C C C C C  C C C',
    'paused (api error)':           'U  R  F F F  X P S  I T T T T T  U U T',
    'in shutdown (unknown)':        'T  R  F F F  X P S  I T T T T T  T T T',
    'in shutdown (user)':           'T  R  F F F  X P S  I T T T T T  T T T',
    'shut off (unknown)':           'U  R  F F F  X P S  I T T T T T  P U L',
    'shut off (shutdown)':          'U  R  F F F  X P S  I T T T T T  P U L',
    'shut off (destroyed)':         'U  R  F F F  X P S  I T T T T T  P U L',
    'shut off (crashed)':           'U  R  F F F  X P S  I T T T T T  P U L',
    'shut off (migrated)':          'U  R  F F F  X P S  I T T T T T  P U L',
    'shut off (saved)':             'U  R  F F F  X P S  I T T T T T  P U L',
    'shut off (failed)':            'U  R  F F F  X P S  I T T T T T  P U L',
    'shut off (from snapshot)':     'U  R  F F F  X P S  I T T T T T  P U L',
    'shut off (daemon)':            'U  R  F F F  X P S  I T T T T T  P U L',
    'crashed (unknown)':            'X  R  F F F  X P S  I T T T T T  X X L',
    'crashed (panicked)':           'X  R  F F F  X P S  I T T T T T  X X L',
    'pmsuspended (unknown)':        'S  R  F F F  X P S  I T T T T T  P U T',
    'no-domain':                    'U  R  F F F  X P S  I T T T T T  P U L',
    'silent':                       'U  R  F F F  X P S  I T T T T T  P U L',
    'not-asked':                    'U  R  F F F  X P S  I T T T T T  P U T',
    'paused (a future reason)':     'U  R  F F F  X P S  I T T T T T  U U T',
    'a future state (unknown)':     'U  R  F F F  X P S  I T T T T T  U U U',
  };
  const OTHER_VIEWS: Record<string, LibvirtView> = {
    'no-domain': NO_DOMAIN,
    silent: SILENT_LIBVIRT,
    'not-asked': NOT_ASKED,
  };

  for (const [row, cells] of Object.entries(GRID)) {
    test(row, () => {
      const expected = cells.split(/ +/).map((letter) => NAMES[letter]);
      const actual = COLUMNS.map((runstate) =>
        stateOf({
          libvirt: OTHER_VIEWS[row] ?? label(row),
          monitor: runstate === 'absent' ? NO_MONITOR : status(runstate),
        }),
      );
      const zip = (states: (GuestState | undefined)[]) =>
        Object.fromEntries(COLUMNS.map((runstate, index) => [runstate, states[index]]));
      assert.deepEqual(zip(actual), zip(expected));
    });
  }

  test('every label that virsh prints and every runstate is in the grid', () => {
    for (const view of ALL_LABELS) {
      assert.ok(view.kind === 'state' && `${view.state} (${view.reason})` in GRID, JSON.stringify(view));
    }
    assert.deepEqual([...COLUMNS].sort(), ['absent', ...RUN_STATES].sort());
  });
});

describe('running', () => {
  test('QMP alone is enough: libvirt was not asked, is dead, or has lost the domain', () => {
    for (const libvirt of [NOT_ASKED, SILENT_LIBVIRT, NO_DOMAIN, says('shut off', 'unknown')]) {
      for (const process of [ALIVE, UNKNOWN_PROCESS, NO_PROCESS]) {
        assert.equal(stateOf({ libvirt, process }), 'running');
      }
    }
  });

  test('libvirt alone is enough where there is no QMP to ask', () => {
    for (const process of [ALIVE, UNKNOWN_PROCESS]) {
      assert.equal(stateOf({ monitor: NO_MONITOR, process }), 'running');
    }
  });

  test('a survived error makes it degraded and is named', () => {
    const { state, reason, fault } = classify(observe({ survivedError: 'BLOCK_IO_ERROR on vda, reported' }));
    assert.equal(state, 'degraded');
    assert.equal(fault, 'BLOCK_IO_ERROR on vda, reported');
    assert.match(reason, /BLOCK_IO_ERROR on vda, reported/);
  });

  test('a survived error makes only a running guest degraded', () => {
    const survivedError = 'BLOCK_IO_ERROR on vda, reported';
    assert.equal(stateOf({ survivedError, monitor: status('paused') }), 'paused-by-operator');
    assert.equal(stateOf({ survivedError, monitor: status('io-error') }), 'faulted');
  });

  test('is degraded where libvirt says so but a monitor that is there does not answer', () => {
    const { state, reason } = classify(observe({ monitor: SILENT_MONITOR }));
    assert.equal(state, 'degraded');
    assert.match(reason, /QMP does not answer \(no greeting\)/);
  });

  test('QMP that contradicts itself is not believed', () => {
    const running = { ...status('io-error'), running: true } as Observation['monitor'];
    const still = { ...status('running'), running: false } as Observation['monitor'];
    assert.equal(stateOf({ monitor: running }), 'unknown');
    assert.equal(stateOf({ monitor: still }), 'unknown');
  });

  test('of a runstate of the future only `running` is believed', () => {
    const running = { ...status('future'), running: true } as Observation['monitor'];
    assert.equal(stateOf({ monitor: running }), 'running');
    for (const libvirt of ALL_LIBVIRT_VIEWS.filter((view) => !/post-copy/.test(JSON.stringify(view)))) {
      assert.equal(stateOf({ libvirt, monitor: status('future') }), 'unknown');
    }
  });
});

describe('a process stopped by a signal', () => {
  test('is unknown whatever libvirt says, as long as QMP does not answer', () => {
    for (const monitor of [NO_MONITOR, SILENT_MONITOR, NOT_ASKED]) {
      for (const libvirt of ALL_LIBVIRT_VIEWS) {
        assert.equal(stateOf({ libvirt, monitor, process: STOPPED }), 'unknown');
      }
    }
  });
});

describe('paused', () => {
  test('is transient while libvirt has a job that resumes it', () => {
    for (const monitor of [status('paused'), NO_MONITOR]) {
      for (const reason of ['dumping', 'creating snapshot']) {
        assert.equal(stateOf({ libvirt: says('paused', reason, true), monitor }), 'transient');
        assert.equal(stateOf({ libvirt: says('paused', reason, false), monitor }), 'paused-by-operator');
      }
    }
    const libvirt = says('running', 'booted', true);
    assert.equal(stateOf({ libvirt, monitor: status('paused') }), 'transient');
  });
});

describe('out of space', () => {
  const seen = (...failed: ('failed' | 'nospace')[]) => stateOf({ monitor: status('io-error', ...failed) });

  test('needs a failed disk, and every failed disk without space', () => {
    assert.equal(seen('nospace'), 'out-of-space');
    assert.equal(seen('nospace', 'nospace'), 'out-of-space');
    assert.equal(seen(), 'faulted');
    assert.equal(seen('failed'), 'faulted');
    assert.equal(seen('nospace', 'failed'), 'faulted');
    assert.equal(seen('failed', 'nospace'), 'faulted');
  });

  test('needs the runstate io-error', () => {
    assert.equal(stateOf({ monitor: status('running', 'nospace') }), 'running');
    assert.equal(stateOf({ monitor: status('internal-error', 'nospace') }), 'faulted');
    assert.equal(stateOf({ libvirt: says('paused', 'I/O error'), monitor: NO_MONITOR }), 'faulted');
  });
});

describe('faulted', () => {
  test('names the fault', () => {
    const faultOf = (differences: Partial<Observation>) => classify(observe(differences)).fault;
    assert.equal(faultOf({ monitor: status('io-error') }), 'io-error');
    assert.equal(faultOf({ monitor: status('internal-error') }), 'internal-error');
    assert.equal(faultOf({ monitor: status('watchdog') }), 'watchdog');
    assert.equal(faultOf({ libvirt: says('paused', 'I/O error'), monitor: NO_MONITOR }), 'io-error');
    assert.equal(faultOf({ libvirt: says('paused', 'watchdog'), monitor: NO_MONITOR }), 'watchdog');
    assert.equal(faultOf({}), undefined);
  });

  test('by a fault that is held against a guest that could go on', () => {
    const heldFault = 'memory failure';
    for (const monitor of [
      status('running'),
      status('paused'),
      status('suspended'),
      status('io-error', 'nospace'),
    ]) {
      const { state, fault } = classify(observe({ heldFault, monitor }));
      assert.equal(state, 'faulted');
      assert.equal(fault, heldFault);
    }
    assert.equal(stateOf({ heldFault, survivedError: 'other' }), 'faulted');
  });

  test('by a held fault rather than crashed: an injected error panics the guest', () => {
    assert.equal(stateOf({ heldFault: 'memory failure', monitor: status('guest-panicked') }), 'faulted');
  });

  test('by a held fault only once what is in motion has settled, and never what has ended', () => {
    const heldFault = 'memory failure';
    assert.equal(stateOf({ heldFault, monitor: status('finish-migrate') }), 'transient');
    assert.equal(stateOf({ heldFault, monitor: status('inmigrate') }), 'incoming');
    assert.equal(stateOf({ heldFault, libvirt: says('paused', 'post-copy') }), 'post-copy');
    assert.equal(
      stateOf({ heldFault, libvirt: NO_DOMAIN, monitor: NO_MONITOR, process: NO_PROCESS }),
      'shut-off',
    );
  });
});

describe('a quiesce', () => {
  test('with its whole proof is failover-safe under whatever label libvirt gives it', () => {
    for (const libvirt of ALL_LIBVIRT_VIEWS) {
      assert.equal(classify(observePreserved({ libvirt })).state, 'quiesced-failover-safe');
    }
  });

  test('is failover-safe in every runstate in which the vCPUs stand still, and names its fault', () => {
    for (const runstate of RUN_STATES.filter((runstate) => runstate !== 'running')) {
      assert.equal(classify(observePreserved({ monitor: status(runstate) })).state, 'quiesced-failover-safe');
    }
    assert.equal(classify(observePreserved()).fault, 'io-error');
    assert.equal(classify(observePreserved({ heldFault: 'memory failure' })).fault, 'memory failure');
    assert.equal(classify(observePreserved({ monitor: status('paused') })).fault, undefined);
  });

  test('is failover-safe by its proof alone when the record of it is lost', () => {
    assert.equal(classify(observePreserved({ quiesceBegun: false })).state, 'quiesced-failover-safe');
  });

  for (const item of PROOF_ITEMS) {
    test(`that lacks ${item} is faulted and says so`, () => {
      const { [item]: _, ...missing } = WHOLE_PROOF;
      const failed = { ...WHOLE_PROOF, [item]: { holds: false, seen: 'seen' } };
      for (const proof of [missing, failed]) {
        for (const monitor of [status('io-error'), status('paused'), NO_MONITOR]) {
          const { state, reason } = classify(observePreserved({ proof, monitor }));
          assert.equal(state, 'faulted');
          assert.ok(reason.endsWith(`its proof lacks ${item}`), reason);
        }
      }
    });
  }

  test('without proof is faulted while qemu lives, whatever is said of it', () => {
    for (const libvirt of ALL_LIBVIRT_VIEWS) {
      for (const monitor of ALL_MONITOR_VIEWS) {
        for (const process of [ALIVE, STOPPED]) {
          assert.equal(stateOf({ quiesceBegun: true, libvirt, monitor, process }), 'faulted');
        }
      }
    }
  });

  test('whose nodes are seen is taken as begun without a record', () => {
    assert.equal(stateOf({ proof: {}, monitor: status('paused') }), 'faulted');
    assert.equal(stateOf({ proof: {} }), 'faulted');
  });

  test('is contradicted by vCPUs that are said to run', () => {
    const running = { ...status('future'), running: true } as Observation['monitor'];
    const still = { ...status('running'), running: false } as Observation['monitor'];
    for (const monitor of [status('running'), running, still]) {
      const { state, reason } = classify(observePreserved({ monitor }));
      assert.equal(state, 'faulted');
      assert.match(reason, /contradicts its proof/);
    }
    for (const state of ['running', 'idle']) {
      for (const monitor of [NO_MONITOR, SILENT_MONITOR, NOT_ASKED]) {
        const libvirt = says(state, 'unknown');
        assert.equal(classify(observePreserved({ libvirt, monitor })).state, 'faulted');
      }
    }
  });

  test('is not failover-safe unless qemu is seen alive and not stopped by a signal', () => {
    assert.equal(classify(observePreserved({ process: STOPPED })).state, 'faulted');
    assert.equal(classify(observePreserved({ process: UNKNOWN_PROCESS })).state, 'faulted');
    assert.equal(classify(observePreserved({ process: DYING })).state, 'shut-off-process-left');
  });

  test('is over when its qemu is gone', () => {
    const gone = { monitor: NO_MONITOR, process: NO_PROCESS };
    for (const libvirt of [NO_DOMAIN, SILENT_LIBVIRT, says('shut off', 'crashed')]) {
      assert.equal(classify(observePreserved({ ...gone, libvirt })).state, 'shut-off');
    }
  });

  test('of a guest that only libvirt still speaks of is faulted when the process table is unreadable', () => {
    const differences = { quiesceBegun: true, monitor: NO_MONITOR, process: UNKNOWN_PROCESS };
    assert.equal(stateOf({ ...differences, libvirt: says('paused', 'user') }), 'faulted');
    assert.equal(stateOf({ ...differences, libvirt: says('crashed', 'panicked') }), 'faulted');
    assert.equal(stateOf({ ...differences, libvirt: SILENT_LIBVIRT }), 'unknown');
    assert.equal(stateOf({ ...differences, libvirt: says('shut off', 'unknown') }), 'shut-off');
  });
});

describe('migrated away', () => {
  const away = { targetRunning: true, holdsImageLock: false };
  const postmigrate = (differences: Partial<Observation>) =>
    stateOf({
      libvirt: says('paused', 'migrating', false),
      monitor: status('postmigrate'),
      migration: away,
      ...differences,
    });

  test('needs no job in libvirt, no lock on an image, and the target seen running', () => {
    assert.equal(postmigrate({}), 'migrated-away');
    assert.equal(postmigrate({ libvirt: says('paused', 'migrating', true) }), 'transient');
    assert.equal(postmigrate({ libvirt: says('paused', 'migrating') }), 'transient');
    assert.equal(postmigrate({ libvirt: SILENT_LIBVIRT }), 'transient');
    assert.equal(postmigrate({ libvirt: NOT_ASKED }), 'transient');
    assert.equal(postmigrate({ migration: { ...away, targetRunning: false } }), 'transient');
    assert.equal(postmigrate({ migration: { ...away, holdsImageLock: true } }), 'transient');
    const { migration: _, ...unseen } = observe({ libvirt: says('paused', 'migrating', false) });
    assert.equal(classify({ ...unseen, monitor: status('postmigrate') }).state, 'transient');
  });

  test('a domain that libvirt no longer has active has no job', () => {
    assert.equal(postmigrate({ libvirt: NO_DOMAIN }), 'migrated-away');
    assert.equal(postmigrate({ libvirt: says('shut off', 'migrated') }), 'migrated-away');
  });

  test('under the same conditions by libvirt alone', () => {
    for (const reason of ['migrating', 'migration']) {
      for (const monitor of [NO_MONITOR, SILENT_MONITOR, status('paused')]) {
        assert.equal(postmigrate({ libvirt: says('paused', reason, false), monitor }), 'migrated-away');
        assert.equal(postmigrate({ libvirt: says('paused', reason, true), monitor }), 'transient');
      }
    }
  });

  test('is not believed before QEMU has finished, or of a guest that runs', () => {
    assert.equal(postmigrate({ monitor: status('finish-migrate') }), 'transient');
    assert.equal(postmigrate({ monitor: status('running') }), 'running');
  });

  test('from post-copy only once QEMU has handed over every page', () => {
    const libvirt = says('paused', 'post-copy', false);
    assert.equal(postmigrate({ libvirt }), 'migrated-away');
    assert.equal(postmigrate({ libvirt, monitor: status('finish-migrate') }), 'post-copy');
    assert.equal(postmigrate({ libvirt, monitor: NO_MONITOR }), 'post-copy');
    assert.equal(postmigrate({ libvirt: says('paused', 'post-copy', true) }), 'post-copy');
    assert.equal(postmigrate({ libvirt: says('paused', 'post-copy failed', false) }), 'post-copy');
  });
});

describe('on the target of a migration', () => {
  const coming = (reason: string): LibvirtView => ({
    kind: 'state',
    state: 'paused',
    reason,
    job: true,
    incoming: true,
  });

  test('nothing but vCPUs that run makes it more than incoming while libvirt brings it in', () => {
    for (const reason of ['migrating', 'migration', 'starting up', 'user', 'unknown', 'I/O error']) {
      for (const monitor of ALL_MONITOR_VIEWS) {
        const runs = monitor.kind === 'status' && monitor.running;
        assert.equal(stateOf({ libvirt: coming(reason), monitor }), runs ? 'running' : 'incoming');
      }
    }
  });

  test('a fault that it brings along is none of this node', () => {
    assert.equal(
      stateOf({ libvirt: coming('migrating'), monitor: status('io-error', 'failed') }),
      'incoming',
    );
  });

  test('an error that it had where it came from does not make it faulted when it has arrived', () => {
    const arrived = { libvirt: says('paused', 'user', false), neverRan: true };
    assert.equal(stateOf({ ...arrived, monitor: status('io-error') }), 'paused-by-operator');
    assert.equal(stateOf({ ...arrived, monitor: status('io-error', 'failed') }), 'faulted');
    assert.equal(stateOf({ ...arrived, monitor: status('io-error', 'nospace') }), 'out-of-space');
    assert.equal(stateOf({ ...arrived, monitor: status('io-error'), neverRan: false }), 'faulted');
    assert.equal(stateOf({ ...arrived, monitor: status('internal-error') }), 'faulted');
    assert.equal(stateOf({ ...arrived, libvirt: SILENT_LIBVIRT, monitor: status('io-error') }), 'unknown');
  });

  test('a post-copy that failed is no incoming guest: it has run here', () => {
    assert.equal(stateOf({ libvirt: coming('post-copy failed'), monitor: status('paused') }), 'post-copy');
    assert.equal(stateOf({ libvirt: coming('post-copy failed'), monitor: NO_MONITOR }), 'post-copy');
  });

  test('what has every page and has not run is unknown when libvirt cannot say whether it ever will', () => {
    for (const libvirt of [SILENT_LIBVIRT, NO_DOMAIN, NOT_ASKED, says('shut off', 'unknown')]) {
      const monitor = status('paused');
      assert.equal(stateOf({ libvirt, monitor, neverRan: true }), 'unknown');
      assert.equal(stateOf({ libvirt, monitor, neverRan: false }), 'paused-by-operator');
      assert.equal(stateOf({ libvirt, monitor: status('inmigrate'), neverRan: true }), 'incoming');
    }
  });

  test('a guest that was migrated while an operator held it paused is still held so', () => {
    const monitor = status('paused');
    assert.equal(
      stateOf({ libvirt: says('paused', 'user', false), monitor, neverRan: true }),
      'paused-by-operator',
    );
  });
});

describe('a guest of which neither libvirt nor a monitor of its own tells', () => {
  const mute = { libvirt: SILENT_LIBVIRT, monitor: NO_MONITOR };

  test('runs if its vCPUs use processor time, and is unknown otherwise', () => {
    assert.equal(stateOf({ ...mute, vcpusUseTime: true }), 'degraded');
    assert.equal(stateOf(mute), 'unknown');
    assert.equal(stateOf({ ...mute, vcpusUseTime: true, process: STOPPED }), 'unknown');
  });

  test('is judged the same if it has a monitor that is silent, too', () => {
    assert.equal(stateOf({ ...mute, monitor: SILENT_MONITOR, vcpusUseTime: true }), 'degraded');
    assert.equal(stateOf({ ...mute, monitor: SILENT_MONITOR }), 'unknown');
    assert.equal(
      stateOf({ ...mute, monitor: SILENT_MONITOR, vcpusUseTime: true, process: STOPPED }),
      'unknown',
    );
  });
});

describe('without a process', () => {
  const gone = (libvirt: LibvirtView, monitor = NO_MONITOR) =>
    stateOf({ libvirt, monitor, process: NO_PROCESS });

  test('the guest is shut off even if libvirt does not answer', () => {
    for (const monitor of [NO_MONITOR, SILENT_MONITOR, NOT_ASKED]) {
      assert.equal(gone(SILENT_LIBVIRT, monitor), 'shut-off');
      assert.equal(gone(NOT_ASKED, monitor), 'shut-off');
      assert.equal(gone(NO_DOMAIN, monitor), 'shut-off');
    }
  });

  test('the guest is unknown while libvirt, which was told to start it, does not answer', () => {
    const pending = (libvirt: LibvirtView) =>
      stateOf({ libvirt, monitor: NO_MONITOR, process: NO_PROCESS, startPending: true });
    assert.equal(pending(SILENT_LIBVIRT), 'unknown');
    assert.equal(pending(NO_DOMAIN), 'shut-off');
    assert.equal(pending(says('shut off', 'failed')), 'shut-off');
  });

  test('the guest is shut off under every label of an ended domain', () => {
    for (const libvirt of ALL_LABELS) {
      if (libvirt.kind === 'state' && /^(shut off|in shutdown|crashed)$/.test(libvirt.state)) {
        assert.equal(gone(libvirt), 'shut-off');
      }
    }
  });

  test('an active domain is unknown: the process was overlooked, or libvirt is behind', () => {
    for (const libvirt of ALL_LIBVIRT_VIEWS) {
      if (
        libvirt.kind === 'state' &&
        !/^(shut off|in shutdown|crashed)$/.test(libvirt.state) &&
        libvirt.reason !== 'starting up'
      ) {
        assert.equal(gone(libvirt), 'unknown');
      }
    }
  });

  test('a domain that libvirt is starting up is incoming: its process is still to come', () => {
    assert.equal(gone(says('paused', 'starting up')), 'incoming');
    assert.equal(
      gone({ kind: 'state', state: 'paused', reason: 'starting up', job: true, incoming: true }),
      'incoming',
    );
  });
});

describe('a process that may or may not be there', () => {
  test('leaves the guest unknown when nobody answers for it', () => {
    for (const process of [ALIVE, UNKNOWN_PROCESS]) {
      for (const monitor of [NO_MONITOR, SILENT_MONITOR, NOT_ASKED]) {
        for (const libvirt of [SILENT_LIBVIRT, NOT_ASKED]) {
          assert.equal(stateOf({ libvirt, monitor, process }), 'unknown');
        }
      }
    }
  });

  test('is never killed by a monitor because libvirt does not know it', () => {
    for (const monitor of [NO_MONITOR, SILENT_MONITOR, NOT_ASKED]) {
      for (const libvirt of [NO_DOMAIN, says('shut off', 'unknown')]) {
        assert.equal(stateOf({ libvirt, monitor }), 'unknown');
      }
    }
  });

  test('leaves libvirt its word for shut off, unless something listens on the QMP socket', () => {
    for (const libvirt of [NO_DOMAIN, says('shut off', 'destroyed')]) {
      assert.equal(stateOf({ libvirt, monitor: NO_MONITOR, process: UNKNOWN_PROCESS }), 'shut-off');
      assert.equal(stateOf({ libvirt, monitor: SILENT_MONITOR, process: UNKNOWN_PROCESS }), 'unknown');
    }
  });
});

test('a thread left of a dead qemu is a process left, whatever is said of the guest', () => {
  for (const libvirt of ALL_LIBVIRT_VIEWS) {
    for (const monitor of ALL_MONITOR_VIEWS) {
      for (const quiesceBegun of [false, true]) {
        assert.equal(
          stateOf({ libvirt, monitor, quiesceBegun, process: DYING, heldFault: 'memory failure' }),
          'shut-off-process-left',
        );
      }
    }
  }
});

test('no combination of views is failover-safe without a proof', () => {
  for (const libvirt of ALL_LIBVIRT_VIEWS) {
    for (const monitor of ALL_MONITOR_VIEWS) {
      for (const process of PROCESSES) {
        for (const quiesceBegun of [false, true]) {
          const { state, reason } = classify(observe({ libvirt, monitor, process, quiesceBegun }));
          assert.notEqual(state, 'quiesced-failover-safe');
          assert.match(reason, /^\S.*\S$/);
        }
      }
    }
  }
});

describe('the reason', () => {
  const reasonOf = (differences: Partial<Observation>) => classify(observe(differences)).reason;

  test('says what libvirt and QMP say', () => {
    assert.equal(
      reasonOf({ libvirt: says('paused', 'I/O error'), monitor: status('io-error') }),
      'libvirt says paused (I/O error), QMP says io-error',
    );
    assert.equal(reasonOf({ libvirt: NOT_ASKED }), 'QMP says running');
  });

  test('says who does not answer, and what is seen of the process then', () => {
    assert.equal(
      reasonOf({ libvirt: SILENT_LIBVIRT, monitor: SILENT_MONITOR }),
      'libvirt does not answer (connection refused), QMP does not answer (no greeting), qemu (pid 7) is alive',
    );
    assert.equal(
      reasonOf({ libvirt: NO_DOMAIN, monitor: NO_MONITOR, process: NO_PROCESS }),
      'libvirt does not know the domain, there is no QMP to ask, there is no qemu process',
    );
    assert.equal(
      reasonOf({ libvirt: SILENT_LIBVIRT, monitor: NO_MONITOR, process: UNKNOWN_PROCESS }),
      'libvirt does not answer (connection refused), there is no QMP to ask, the process table could not be read (EACCES)',
    );
  });

  test('names a process that only a signal holds, or of which a thread is left', () => {
    assert.match(
      reasonOf({ process: STOPPED, monitor: SILENT_MONITOR }),
      /qemu \(pid 7\) is stopped by a signal/,
    );
    assert.match(
      reasonOf({ process: DYING, monitor: NO_MONITOR }),
      /qemu \(pid 7\) is dead, but a thread of it/,
    );
  });

  test('shows a contradiction within QMP', () => {
    const monitor = { ...status('io-error'), running: true } as Observation['monitor'];
    assert.match(reasonOf({ monitor }), /QMP says io-error with running:true/);
  });
});

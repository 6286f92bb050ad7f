import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, normalize } from 'node:path';
import { after, describe, test } from 'node:test';
import { InvalidArgumentError } from 'commander';
import fc from 'fast-check';
import { readSeconds } from '../../../agent/command/seconds.ts';
import { readSince } from '../../../agent/command/timeline.ts';
import { readEnvironment } from '../../../agent/ocf/environment.ts';
import { parseClusterView } from '../../../lib/cluster/cluster-view.ts';
import { parseConfiguration } from '../../../lib/cluster/configuration.ts';
import { parseDestination } from '../../../lib/cluster/destination.ts';
import { isListedAsLost } from '../../../lib/cluster/membership.ts';
import { parseLines } from '../../../lib/cluster/storm-guard.ts';
import { parseSurvey } from '../../../lib/cluster/survey.ts';
import { parseActions } from '../../../lib/configure/preview.ts';
import { Deadline } from '../../../lib/deadline.ts';
import { parseHypervisor } from '../../../lib/doctor/collect/hypervisor.ts';
import { parseDefinition } from '../../../lib/doctor/definition.ts';
import { mountOf, parseMounts } from '../../../lib/doctor/mounts.ts';
import { savedStatePath } from '../../../lib/guest/boot.ts';
import { readRegisters } from '../../../lib/guest/core-file.ts';
import { socketsOf } from '../../../lib/guest/sockets.ts';
import { errorOfEvent, RAS_EVENTS } from '../../../lib/host/ras-event.ts';
import { errorOfTrigger } from '../../../lib/host/rasdaemon.ts';
import { parsePageLayout, readPage } from '../../../lib/host/ring-buffer.ts';
import { decode, parseFormat } from '../../../lib/host/trace-format.ts';
import { parseDomainXml, prepareDomainXml, withoutAdditions } from '../../../lib/libvirt/domain-xml.ts';
import { readIdentityCache } from '../../../lib/libvirt/identity-cache.ts';
import {
  LibvirtMonitor,
  parseDomains,
  parseInformation,
  parseJob,
  parseState,
  Virsh,
} from '../../../lib/libvirt/virsh.ts';
import { OcfFailure } from '../../../lib/ocf.ts';
import { DECLARATIONS, readParameters } from '../../../lib/parameters.ts';
import { DEFAULT_POLICY, parsePolicy } from '../../../lib/policy.ts';
import { domainDirectory, STATE_DIRECTORY, uuidForName } from '../../../lib/record/directory.ts';
import { readJsonFile } from '../../../lib/record/json-file.ts';
import { parseRecord } from '../../../lib/record/record.ts';
import { RESOURCE_DIRECTORY, resourceFile } from '../../../lib/record/resources.ts';
import { parseJournal } from '../../../lib/timeline/journal-lines.ts';
import { readTimeline } from '../../../lib/timeline/sources.ts';
import { anyJson, anyText, damaged, hostileName, runs, withoutCrash } from './runs.ts';

const directory = mkdtempSync(join(tmpdir(), 'kvmha-fuzz-'));
after(() => rmSync(directory, { recursive: true, force: true }));

const recorded = (name: string) => readFileSync(join(import.meta.dirname, '..', name), 'utf8');

function escaped(text: string): string {
  return text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
}

const DOMAIN = `<?xml version="1.0" encoding="UTF-8"?>
<domain type="kvm" xmlns:qemu="http://libvirt.org/schemas/domain/qemu/1.0">
  <name>web</name><uuid>1b4e28ba-2fa1-11d2-883f-0016d3cca427</uuid>
  <devices><disk type="file" device="disk"><driver name="qemu" type="raw" cache="none"/>
  <source file="/srv/web.img"/><target dev="vda" bus="virtio"/></disk></devices>
  <qemu:commandline><qemu:arg value="-S"/></qemu:commandline>
</domain>`;
const ADDITIONS = { agentSocket: '/run/a', watcherSocket: '/run/w', setErrorPolicy: true };

describe('domain XML', () => {
  test('that is damaged is refused, with a reason, or names a guest that stays in its folder', async () => {
    await fc.assert(
      fc.asyncProperty(damaged(DOMAIN), async (text) => {
        const domain = await withoutCrash(() => parseDomainXml(text, 'web.xml'));
        assert.ok(domain === undefined || !/[/\p{Cc}]/u.test(domain.name), domain?.name);
        const prepared = await withoutCrash(() => prepareDomainXml(text, ADDITIONS));
        assert.equal(prepared === undefined, domain === undefined);
        if (domain !== undefined && prepared !== undefined) {
          assert.equal((await parseDomainXml(prepared, 'prepared')).name, domain.name);
          await withoutCrash(() => withoutAdditions(prepared, text));
        }
      }),
      runs(150),
    );
  });

  test('gives a guest no name that leaves a folder, whatever is tried', async () => {
    await fc.assert(
      fc.asyncProperty(hostileName, async (name) => {
        const text = DOMAIN.replace('<name>web<', () => `<name>${escaped(name)}<`);
        const domain = await withoutCrash(() => parseDomainXml(text, 'web.xml'));
        if (domain === undefined) {
          return;
        }
        const sockets = socketsOf(domain.name);
        for (const path of [savedStatePath('/srv/state', domain.name), sockets.agent]) {
          assert.equal(normalize(path), path);
          assert.match(dirname(path), /^\/(srv\/state|run\/libvirt\/qemu\/kvmha\/agent)$/);
        }
        assert.ok(Buffer.byteLength(sockets.watcher) <= 107);
        assert.doesNotThrow(() => encodeURIComponent(domain.name));
        domainDirectory(uuidForName(domain.name));
      }),
      runs(200),
    );
  });

  const bomb = (levels: number) =>
    `<!DOCTYPE domain [<!ENTITY a0 "x">${Array.from(
      { length: levels },
      (_, level) => `<!ENTITY a${level + 1} "${`&a${level};`.repeat(10)}">`,
    ).join('')}]>`;
  for (const [what, text] of [
    ['entities that grow', `${bomb(30)}<domain type="kvm"><name>&a30;</name></domain>`],
    [
      'an entity that is a file',
      '<!DOCTYPE d [<!ENTITY x SYSTEM "file:///etc/shadow">]><domain type="kvm"><name>&x;</name></domain>',
    ],
    ['UTF-16', `\uFEFF${DOMAIN.replace('UTF-8', 'UTF-16')}`],
    ['UTF-7', DOMAIN.replace('UTF-8', 'UTF-7')],
    ['half a character', DOMAIN.replace('>web<', '>&#xD800;<')],
    ['a NUL', DOMAIN.replace('>web<', '>a&#0;<')],
    ['a slash', DOMAIN.replace('>web<', '>../web<')],
    ['thirty thousand levels', '<domain>'.repeat(30_000)],
    ['thirty thousand levels that end', `${'<a>'.repeat(30_000)}${'</a>'.repeat(30_000)}`],
    ['a comment that does not end', `<!--${'-'.repeat(1_000_000)}`],
    ['only openings', '<!--'.repeat(250_000)],
    ['only ampersands', '&'.repeat(1_000_000)],
    ['an attribute that does not end', `<domain type="${'x'.repeat(1_000_000)}`],
  ] as const) {
    test(`with ${what} is refused`, async () => {
      assert.equal(await withoutCrash(() => parseDomainXml(text, 'web.xml')), undefined);
    });
  }

  test('of a megabyte, of many disks or attributes, is read', async () => {
    const disks = '<disk type="file"><source file="/a"/><target dev="vda"/></disk>'.repeat(15_000);
    const attributes = Array.from({ length: 5000 }, (_, index) => `a${index}="x"`).join(' ');
    const many = DOMAIN.replace('<devices>', `<devices ${attributes}>${disks}`);
    assert.equal((await parseDomainXml(many, 'web.xml')).disks.length, 15_001);
  });
});

describe("the cluster's answers", () => {
  const view = recorded('cluster/recorded/survey-preserved.xml');
  const cib = recorded('cluster/recorded/survey-preserved.cib.xml');

  test('that are damaged are no answer, or one that can be read', async () => {
    await fc.assert(
      fc.asyncProperty(damaged(view), damaged(cib), async (mon, part) => {
        await withoutCrash(() => parseClusterView(mon, 'db', 'node1'));
        await withoutCrash(() => parseSurvey(mon, cib, 'node1'));
        await withoutCrash(() => parseSurvey(view, part, 'node1'));
        await withoutCrash(() => parseConfiguration(part));
      }),
      runs(60),
    );
  });

  test('of its scheduler that are damaged name a node that is in them, or none', async () => {
    const [name, whatIf] = ['healthy.xml', 'healthy.what-if.xml'].map((each) =>
      recorded(`cluster/recorded/${each}`),
    );
    const healthy = await parseClusterView(name ?? '', 'db', 'node1');
    assert.equal(healthy.kind, 'cluster');
    await fc.assert(
      fc.asyncProperty(damaged(whatIf ?? ''), async (xml) => {
        const destination = await withoutCrash(() => parseDestination(xml, healthy));
        assert.ok(destination?.kind !== 'node' || xml.includes(escaped(destination.node)) || /&/.test(xml));
        await withoutCrash(() => parseActions(xml));
      }),
      runs(60),
    );
  });

  test('of its membership call a node lost only on a line of its own', () => {
    fc.assert(
      fc.property(damaged('1 node1 member\n2 node2 lost\n'), (list) => {
        if (isListedAsLost(list, 'node1')) {
          assert.match(list, /node1 lost/);
        }
      }),
      runs(200),
    );
  });

  test('do not grow by entities', async () => {
    const entities = '<!DOCTYPE x [<!ENTITY a "xxxxxxxxxx"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>';
    await withoutCrash(() => parseConfiguration(`${entities}<cib validate-with="&b;"/>`));
    const answer = await withoutCrash(() =>
      parseClusterView(`${entities}<pacemaker-result>&b;</pacemaker-result>`, 'x', 'y'),
    );
    assert.notEqual(answer?.kind, 'cluster');
  });
});

describe('what virsh prints', () => {
  const states = [
    'no state',
    'running',
    'idle',
    'paused',
    'in shutdown',
    'shut off',
    'crashed',
    'pmsuspended',
  ];
  const line = fc.constantFrom(
    ...states.map((state) => `${state} (unknown)\n`),
    ...['paused (I/O error)\n', 'shut off (destroyed)\n', 'running\n'],
  );

  test('of a state is that state, word for word, or one that nobody knows', () => {
    const text = fc.oneof(anyText, line, line.chain(damaged), fc.tuple(line, line).map(String));
    const padded = fc.tuple(line, fc.constantFrom(' ', '\n', '\t'), fc.nat(1000), anyText);
    fc.assert(
      fc.property(
        fc.oneof(
          text,
          padded.map(([state, blank, count, more]) => `${state.trim()}${blank.repeat(count)}${more}`),
        ),
        (printed) => {
          const { state, reason } = parseState(printed);
          if (states.includes(state)) {
            assert.ok(printed.trim() === state || printed.trim().startsWith(`${state} (${reason}`), printed);
          }
          assert.ok(state.length <= 600);
        },
      ),
      runs(500),
    );
  });

  test('of domains is taken to the blank, and of other lines no domain is made', () => {
    const uuid = fc.uuid();
    const name = anyText.filter((each) => each !== '' && !/[\r\n\u2028\u2029]/.test(each));
    fc.assert(
      fc.property(fc.array(fc.tuple(uuid, name)), anyText, (domains, other) => {
        const text = domains.map(([id, each]) => `${id} ${each}\n`).join('');
        assert.deepEqual(
          parseDomains(text).map((domain) => [domain.uuid, domain.name]),
          domains,
        );
        for (const domain of parseDomains(other)) {
          assert.ok(other.includes(`${domain.uuid} ${domain.name}`));
        }
      }),
      runs(200),
    );
  });

  test('of a job or a domain can be anything: no job is what says so, and a fact is on its line', () => {
    const job = damaged(
      'Job type:         Unbounded   \nOperation:        Outgoing migration\nTime elapsed: 7 ms\n',
    );
    const information = damaged(
      'Id:             -\nName:           web\nPersistent:     no\nManaged save:   no\n',
    );
    fc.assert(
      fc.property(fc.oneof(job, anyText), fc.oneof(information, anyText), (one, other) => {
        if (parseJob(one) === 'none') {
          assert.match(one, /Job type:\s*None/);
        }
        for (const [fact, value] of parseInformation(other)) {
          assert.ok(other.includes(fact) && other.includes(value));
        }
      }),
      runs(200),
    );
  });

  test('of QEMU is what QEMU said, or refused with a reason', async () => {
    class Said extends Virsh {
      text = '';
      override async command(): Promise<string> {
        return this.text;
      }
    }
    const virsh = new Said('test:///default');
    const text = fc.oneof(
      anyText,
      anyJson.map((each) => JSON.stringify(each)),
      anyJson.map((each) => JSON.stringify({ return: each })),
      anyJson.map((each) => JSON.stringify({ error: each })),
    );
    await fc.assert(
      fc.asyncProperty(text, async (said) => {
        virsh.text = said;
        const answer = await withoutCrash(() =>
          new LibvirtMonitor(virsh, 'uuid').execute('query-status', {}, Deadline.in(1000)),
        );
        if (answer !== undefined) {
          assert.deepEqual(answer, JSON.parse(said).return);
        }
      }),
      runs(200),
    );
  });

  test('of a host, and the XML that a definition is read from, can be damaged', async () => {
    const capabilities =
      "<capabilities><host><uuid>AB</uuid><cpu><model>EPYC</model><vendor>AMD</vendor><feature name='x2apic'/></cpu>" +
      "<secmodel><model>apparmor</model></secmodel></host><machine canonical='pc-7.2'>pc</machine></capabilities>";
    const versions = 'Running hypervisor: QEMU 7.2.22\nRunning against daemon: 9.0.0\n';
    await fc.assert(
      fc.asyncProperty(
        damaged(capabilities),
        damaged(versions),
        damaged(DOMAIN),
        async (host, version, xml) => {
          await withoutCrash(() => parseHypervisor(host, version));
          await withoutCrash(() => parseDefinition(xml, 'web'));
        },
      ),
      runs(100),
    );
  });
});

describe('what the kernel and QEMU print for people', () => {
  test('mounts can be anything: each is a place and a type, and a path is on one that is above it', () => {
    const mounts =
      '22 1 8:1 / / rw - ext4 /dev/sda1 rw\n40 22 0:52 / /srv/a\\040b rw shared:1 - nfs4 host:/x rw,vers=4.2\n';
    fc.assert(
      fc.property(fc.oneof(damaged(mounts), anyText), hostileName, (text, name) => {
        const path = `/srv/${name}`;
        const point = mountOf(path, parseMounts(text))?.point;
        assert.ok(point === undefined || path.startsWith(point));
      }),
      runs(300),
    );
  });

  test('registers can be anything, and none is read beyond 64 bits', () => {
    const registers =
      'CPU#0\nRAX=0000000000000001 RIP=ffffffff81000000 R8 =0000000000000000\nCS =0010 0000000000000000 ffffffff 00af9b00\n';
    fc.assert(
      fc.property(fc.oneof(damaged(registers), anyText), (text) => {
        for (const vcpu of readRegisters(text)) {
          assert.ok([...vcpu.values()].every((value) => value >= 0n && value < 1n << 64n));
        }
      }),
      runs(300),
    );
  });
});

describe('what an operator types', () => {
  test('for a time is a time, or wrong usage', () => {
    const words = fc.oneof(
      anyText,
      fc.tuple(fc.double({ min: 0 }), fc.constantFrom('s', 'm', 'h', 'd', 'w')).map((each) => each.join('')),
      fc.tuple(fc.bigInt({ min: 0n }), fc.constantFrom('s', 'w')).map((each) => each.join('')),
      damaged('2026-11-25T04:30:00.5+01:00'),
    );
    fc.assert(
      fc.property(words, (text) => {
        for (const read of [readSince, readSeconds]) {
          try {
            assert.ok(Number.isFinite(new Date(read(text)).getTime()));
          } catch (error) {
            assert.ok(error instanceof InvalidArgumentError, String(error));
          }
        }
      }),
      runs(500),
    );
  });
});

describe('a policy', () => {
  const words = fc.constantFrom(
    ...[
      'quiesce:',
      '  enabled: ',
      'true',
      '.nan',
      '-.inf',
      '1e99',
      '!!binary ',
      '!!js/function ',
      '&a ',
      '*a',
      '<<: *a',
    ],
    ...[
      '\n',
      '  ',
      '- ',
      '{',
      '}',
      '[',
      ']',
      'dump: ',
      'directory: ',
      '/../x',
      '"\\0"',
      '? ',
      ': ',
      '|\n',
      '%YAML 9\n',
      '---\n',
    ],
  );

  test('of any text is the default, another policy of the same shape, or refused with its line', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.oneof(
          anyText,
          fc.array(fc.oneof(words, anyText)).map((parts) => parts.join('')),
          damaged(recorded('../../docs/policy.yaml')),
        ),
        async (text) => {
          const policy = await withoutCrash(() => parsePolicy(text, 'policy.yaml'));
          assert.deepEqual(shapeOf(policy ?? DEFAULT_POLICY), shapeOf(DEFAULT_POLICY));
        },
      ),
      runs(200),
    );
  });

  /** The types of all values of a policy; a number that is none is another type. */
  function shapeOf(value: unknown): unknown {
    if (typeof value === 'object' && value !== null) {
      return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, shapeOf(each)]));
    }
    return typeof value === 'number' && !Number.isSafeInteger(value) ? 'no whole number' : typeof value;
  }

  for (const [what, text] of [
    [
      'aliases that grow',
      `a0: &a0 x\n${Array.from({ length: 30 }, (_, n) => `a${n + 1}: &a${n + 1} [${`*a${n}, `.repeat(9)}*a${n}]\n`).join('')}`,
    ],
    ['an alias of itself', 'quiesce: &a\n  storm: *a\n'],
    ['a key of every object', '__proto__: { enabled: false }\n'],
    ['a constructor', 'constructor: { enabled: false }\n'],
    ['a number that is none', 'stop: { forced-end-reserve: .nan }\n'],
    ['a number without end', 'stop: { forced-end-reserve: .inf }\n'],
    ['a list instead of keys', '- quiesce\n'],
    ['a key twice', 'out-of-space: hold\nout-of-space: fail\n'],
    ['a tag', 'out-of-space: !!python/object x\n'],
    ['ten thousand levels', '['.repeat(10_000)],
    ['ten thousand levels of keys', 'a: {'.repeat(10_000)],
  ] as const) {
    test(`with ${what} is refused`, async () => {
      assert.equal(await withoutCrash(() => parsePolicy(text, 'policy.yaml')), undefined);
    });
  }
});

describe("the kernel's trace", () => {
  const format = recorded('host/recorded/mc_event.format');
  const layout = recorded('host/recorded/header_page');

  test('can have any formats, pages and events: nothing is read beyond them, and no severity is made up', () => {
    fc.assert(
      fc.property(
        fc.oneof(damaged(format), fc.constant(format), anyText),
        fc.oneof(damaged(layout), fc.constant(layout), anyText),
        fc.uint8Array({ maxLength: 4096 }).map((bytes) => Buffer.from(bytes)),
        (formatText, layoutText, bytes) => {
          const [parsed, page] = [parseFormat(formatText), parsePageLayout(layoutText)];
          const records = page === undefined ? [bytes] : readPage(bytes, page).records;
          assert.ok(records.reduce((sum, record) => sum + record.length, 0) <= bytes.length);
          if (parsed !== undefined) {
            for (const record of [...records, bytes]) {
              for (const event of [parsed.name, ...RAS_EVENTS.map((each) => each.replace(/^.*\//, ''))]) {
                const error = errorOfEvent({ ...parsed, name: event }, decode(parsed, record));
                assert.match(error?.severity ?? 'fatal', /^(informational|corrected|uncorrected|fatal)$/);
                assert.doesNotMatch(error?.message ?? '', /\p{Cc}/u);
              }
            }
          }
        },
      ),
      runs(100),
    );
  });

  test('a trigger of any variables tells of an error or of none', () => {
    const name = fc.constantFrom(
      'PFN',
      'PAGE_TYPE',
      'MC_INDEX',
      'TYPE',
      'ADDRESS',
      'COUNT',
      'BANK',
      'MCGSTATUS',
      'DEV_NAME',
      'NAME',
    );
    fc.assert(
      fc.property(fc.dictionary(name, hostileName), (variables) => {
        const found = errorOfTrigger(variables);
        assert.ok(found === undefined || Number.isSafeInteger(found.error.count), String(found?.error.count));
      }),
      runs(300),
    );
  });
});

describe('what is read back', () => {
  test('a record of any bytes is refused, with a reason', async () => {
    const path = join(directory, 'record.json');
    const isObject = (value: unknown): value is object => typeof value === 'object' && value !== null;
    const content = fc.oneof(
      fc.uint8Array().map((bytes) => Buffer.from(bytes)),
      anyText,
      anyJson.map((each) => JSON.stringify(each)),
    );
    await fc.assert(
      fc.asyncProperty(content, async (bytes) => {
        writeFileSync(path, bytes);
        await withoutCrash(() => readJsonFile(path, isObject));
        assert.equal(await withoutCrash(() => parseRecord(bytes.toString(), path)), undefined);
        assert.equal(readIdentityCache('/x', path), undefined);
      }),
      runs(150),
    );
  });

  test('a journal of any lines is read, and what is no line is named', async () => {
    const line = fc.oneof(
      anyText,
      anyJson.map((value) => JSON.stringify(value)),
      fc
        .record({
          time: fc.oneof(anyText, fc.constant('2026-01-01')),
          what: anyText,
          guest: anyJson,
          uuid: anyJson,
        })
        .map((value) => JSON.stringify(value)),
    );
    await fc.assert(
      fc.asyncProperty(fc.array(line, { maxLength: 10 }), async (all) => {
        const text = all.join('\n');
        const { lines, malformed } = parseJournal(text, 'node1');
        assert.equal(
          lines.length + malformed.length,
          text.split('\n').filter((each) => each.trim() !== '').length,
        );
        await withoutCrash(() => readTimeline(text, 'node1'));
        parseLines(text);
      }),
      runs(200),
    );
  });
});

describe("the agent's environment", () => {
  const names = Object.keys(DECLARATIONS);
  const variable = fc.oneof(
    fc.constantFrom(...names.map((name) => `OCF_RESKEY_${name}`)),
    fc.constantFrom(
      ...[
        'OCF_RESOURCE_INSTANCE',
        'OCF_CHECK_LEVEL',
        'OCF_RA_VERSION_MAJOR',
        '__OCF_ACTION',
        'HA_RSCTMP',
        'HA_debug',
      ],
      ...['timeout', 'interval', 'role', 'on_node', 'migrate_target'].map(
        (name) => `OCF_RESKEY_CRM_meta_${name}`,
      ),
    ),
  );

  test('of any values is read, or its one mistake is named', () => {
    fc.assert(
      fc.property(fc.dictionary(variable, hostileName), fc.array(hostileName), (env, args) => {
        const { parameters, problems } = readParameters(env);
        assert.deepEqual(Object.keys(parameters).sort(), [...names].sort());
        assert.ok(problems.every(({ reason }) => reason !== ''));
        try {
          const { timeout, interval } = readEnvironment(args, env);
          assert.ok(Number.isSafeInteger(timeout) && timeout > 0 && Number.isSafeInteger(interval));
        } catch (error) {
          assert.ok(error instanceof OcfFailure, String(error));
        }
      }),
      runs(400),
    );
  });

  test('names no file outside of the folder of the resources', () => {
    fc.assert(
      fc.property(hostileName, (instance) => {
        const path = resourceFile(instance);
        assert.equal(normalize(path), path);
        assert.equal(dirname(path), RESOURCE_DIRECTORY);
        assert.ok(Buffer.byteLength(path) < 255);
      }),
      runs(400),
    );
  });

  test("a domain's folder is named by a uuid alone", async () => {
    await fc.assert(
      fc.asyncProperty(hostileName, async (uuid) => {
        const path = await withoutCrash(() => domainDirectory(uuid));
        assert.ok(path === undefined || dirname(path) === join(STATE_DIRECTORY, 'guests'));
      }),
      runs(200),
    );
  });
});

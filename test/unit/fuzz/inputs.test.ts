import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, normalize } from 'node:path';
import { after, describe, test } from 'node:test';
import fc from 'fast-check';
import { readEnvironment } from '../../../agent/ocf/environment.ts';
import { parseClusterView } from '../../../lib/cluster/cluster-view.ts';
import { parseConfiguration } from '../../../lib/cluster/configuration.ts';
import { parseLines } from '../../../lib/cluster/storm-guard.ts';
import { parseSurvey } from '../../../lib/cluster/survey.ts';
import { savedStatePath } from '../../../lib/guest/boot.ts';
import { socketsOf } from '../../../lib/guest/sockets.ts';
import { errorOfEvent, RAS_EVENTS } from '../../../lib/host/ras-event.ts';
import { errorOfTrigger } from '../../../lib/host/rasdaemon.ts';
import { parsePageLayout, readPage } from '../../../lib/host/ring-buffer.ts';
import { decode, parseFormat } from '../../../lib/host/trace-format.ts';
import { parseDomainXml, prepareDomainXml, withoutAdditions } from '../../../lib/libvirt/domain-xml.ts';
import { readIdentityCache } from '../../../lib/libvirt/identity-cache.ts';
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

  test('do not grow by entities', async () => {
    const entities = '<!DOCTYPE x [<!ENTITY a "xxxxxxxxxx"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>';
    await withoutCrash(() => parseConfiguration(`${entities}<cib validate-with="&b;"/>`));
    const answer = await withoutCrash(() =>
      parseClusterView(`${entities}<pacemaker-result>&b;</pacemaker-result>`, 'x', 'y'),
    );
    assert.notEqual(answer?.kind, 'cluster');
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

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { DOMParser, type Element } from '@xmldom/xmldom';
import fc from 'fast-check';
import { readSince } from '../../../agent/command/timeline.ts';
import { duration, timelinePage } from '../../../agent/command/timeline-page.ts';
import {
  renderTimeline,
  type TimelineReport,
  timelineProblems,
} from '../../../agent/command/timeline-text.ts';
import type { JournalLine } from '../../../lib/timeline/journal-lines.ts';
import { RECORDED, recordedLines } from '../timeline/recorded.ts';

function report(events: readonly JournalLine[], more: Partial<TimelineReport> = {}): TimelineReport {
  return {
    node: 'node1',
    time: '2026-11-25T05:00:00.000Z',
    since: null,
    guests: [],
    sources: [{ name: '/var/log/kvmha/events.jsonl', node: 'node1', lines: events.length, malformed: [] }],
    unreachable: [],
    problems: [],
    events,
    ...more,
  };
}

function line(more: Partial<JournalLine> = {}): JournalLine {
  const time = '2026-11-25T04:00:00.000Z';
  return {
    time,
    node: 'node1',
    by: 'agent',
    what: 'seen',
    guest: 'web',
    uuid: null,
    resource: null,
    entry: {},
    ...more,
  };
}

/** The page as a tree; it is written so that it is XML, too, which finds every mistake in it. */
function parsed(page: string): Element {
  const parser = new DOMParser({
    onError: (level, message) => {
      // It warns of replacement characters, which stand for what is no character.
      if (level !== 'warning') {
        throw new Error(`${level}: ${message}`);
      }
    },
  });
  const root = parser.parseFromString(page, 'text/xml').documentElement;
  assert.ok(root);
  return root;
}

const count = (root: Element, tag: string) => root.getElementsByTagName(tag).length;

describe('the page of a timeline', () => {
  test('has a lane for each guest on each node, a marker with its text for each event, and a table of them', () => {
    const events = recordedLines();
    const page = timelinePage(report(events));
    const root = parsed(page);
    for (const name of ['db on node1', 'db on node2', 'web on node1']) {
      assert.ok(page.includes(`rotate(-45)">${name}</text>`), name);
    }
    assert.equal(page.match(/class="lane"/g)?.length, 3);
    assert.equal(count(root, 'g'), events.length);
    assert.equal(count(root, 'details'), events.length);
    assert.match(
      page,
      /<text class="bad" [^>]*>I\/O error \(write: Input\/output error\) on libvirt-1-format/,
    );
    assert.match(page, /class="preserved"[^>]*><title>db on node2: preserved</);
    assert.equal(page.match(/class="move"/g)?.length, 1, 'from one node to the other');
  });

  test('draws how a guest moved downwards, also when its preserved copy was released later', () => {
    const entry = { action: 'release', outcome: 'shut-off' };
    const released = line({
      node: 'node2',
      guest: 'db',
      what: 'done',
      time: '2026-11-25T07:00:00.000Z',
      entry,
    });
    const page = timelinePage(report([...recordedLines(), released]));
    const [, from, to] = /class="move" d="M \S+ (\S+) .* (\S+)"/.exec(page) ?? [];
    assert.ok(Number(from) < Number(to), `from ${from} to ${to}`);
  });

  test('needs nothing from elsewhere, and runs nothing', () => {
    const page = timelinePage(report(recordedLines()));
    assert.deepEqual(page.match(/(?:https?:)?\/\/[^\s"'<]*/g), ['http://www.w3.org/2000/svg']);
    assert.doesNotMatch(page, /<script|<link|<img|<iframe|\bsrc=|\bhref=|url\(|@import|\bon\w+=/i);
    assert.match(page, /Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'"/);
  });

  test('is for light and dark', () => {
    const page = timelinePage(report([]));
    assert.match(page, /color-scheme: light dark/);
    assert.match(page, /prefers-color-scheme: dark/);
    const colours = (block: string | undefined) =>
      [...(block ?? '').matchAll(/--(\w+):/g)].map(([, name]) => name);
    const [light, dark] = [...page.matchAll(/:root \{([^}]*)\}/g)].map(([, block]) => block);
    assert.deepEqual(colours(dark), colours(light), 'every colour is there in both');
  });

  test('shows names and reasons as they are, whatever they hold', () => {
    const evil = `</title></svg><script>alert("1")</script><b a='&amp;'>`;
    const events = [line({ guest: evil, node: evil, by: evil, entry: { words: evil } })];
    const page = timelinePage(
      report(events, {
        node: evil,
        guests: [evil],
        problems: [evil],
        sources: [{ name: evil, node: evil, lines: 1, malformed: [] }],
      }),
    );
    const root = parsed(page);
    assert.equal(count(root, 'script') + count(root, 'b'), 0);
    assert.ok(root.getElementsByTagName('h1')[0]?.textContent?.includes(evil));
    assert.ok(root.getElementsByTagName('summary')[0]?.textContent?.includes(evil));
  });

  test('is well-formed with any text', () => {
    const text = fc.oneof(
      fc.string({ unit: 'binary' }),
      fc.string({
        unit: fc.constantFrom('<', '&', '"', "'", ']', '>', '-', '!', '\ud800', '\u0000', '\ufffe'),
      }),
    );
    fc.assert(
      fc.property(text, text, (guest, words) => {
        const root = parsed(timelinePage(report([line({ guest, entry: { words } })], { problems: [words] })));
        assert.equal(count(root, 'details'), 1);
      }),
    );
  });

  test('tells how long nothing happened, and leaves out the earliest of very many', () => {
    const later = (minutes: number) =>
      new Date(Date.parse('2026-11-25T04:00:00Z') + minutes * 60_000).toISOString();
    const page = timelinePage(report([line(), line({ time: later(125) })]));
    assert.match(page, /class="gap"[^>]*>2 h 5 min later</);
    assert.deepEqual(
      [0.5, 59, 60, 3000].map((minutes) => duration(minutes * 60_000)),
      ['1 min', '59 min', '1 h 0 min', '2 d 2 h'],
    );
    const many = timelinePage(report(Array.from({ length: 5003 }, () => line())));
    assert.match(many, /5003 events, of which the 3 earliest are left out here/);
    assert.equal(many.match(/<details>/g)?.length, 5000);
  });
});

describe('the text of a timeline', () => {
  test('is a line for each event', () => {
    const text = renderTimeline(report(recordedLines()));
    assert.equal(text.split('\n').length, recordedLines().length + 2);
    assert.match(
      text,
      /^2026-11-25T04:45:29\.157Z +node2 +db +watcher +quiesced-failover-safe: the whole proof holds/m,
    );
  });

  test('says where nothing was found', () => {
    const none = report([], { guests: ['ghost'], since: '2026-11-25T04:00:00.000Z' });
    assert.equal(
      renderTimeline(none),
      'nothing is told of ghost since 2026-11-25T04:00:00.000Z in /var/log/kvmha/events.jsonl\n',
    );
  });

  test('what is missing is named, with what to do', () => {
    const malformed = Array.from({ length: 7 }, (_, index) => ({ line: index + 1, why: 'it is not JSON' }));
    const text = timelineProblems(
      report([], {
        sources: [{ name: 'a.jsonl', node: 'a', lines: 3, malformed }],
        unreachable: [{ node: 'node2', why: 'ssh node2 exited 255: no route' }],
        problems: ['b.jsonl cannot be read: ENOENT'],
      }),
    );
    assert.match(
      text,
      /^kvmha: a\.jsonl: 7 lines cannot be read: line 1 \(it is not JSON\),.* and 2 more; left out$/m,
    );
    assert.match(text, /^kvmha: node2 was not reached \(.*no route\): .*--journal node2=FILE$/m);
    assert.match(text, /^kvmha: b\.jsonl cannot be read: ENOENT$/m);
  });
});

describe('since when', () => {
  const now = Date.parse('2026-11-25T12:00:00Z');

  test('is a moment, in UTC unless it says otherwise, or how long ago it was', () => {
    for (const [text, moment] of [
      ['2026-11-25', '2026-11-25T00:00:00.000Z'],
      ['2026-11-25T04:30', '2026-11-25T04:30:00.000Z'],
      ['2026-11-25 04:30:15.5', '2026-11-25T04:30:15.500Z'],
      ['2026-11-25T04:30+02:00', '2026-11-25T02:30:00.000Z'],
      ['2026-11-25T04:30:15.123Z', '2026-11-25T04:30:15.123Z'],
      ['90m', '2026-11-25T10:30:00.000Z'],
      ['1.5h', '2026-11-25T10:30:00.000Z'],
      ['2d', '2026-11-23T12:00:00.000Z'],
    ] as const) {
      assert.equal(readSince(text, now), moment, text);
    }
  });

  test('is nothing else', () => {
    for (const text of ['', 'yesterday', '90', '-1h', '2026-13-01', '25.11.2026', '04:30']) {
      assert.throws(() => readSince(text, now), /It is a time/, text);
    }
  });
});

describe('kvmha timeline', () => {
  const kvmha = (...args: string[]) => {
    const main = new URL('../../../agent/main.ts', import.meta.url).pathname;
    return spawnSync(process.execPath, [main, 'timeline', ...args], { encoding: 'utf8' });
  };

  test('merges copies of journals, as text, JSON and a page', () => {
    const folder = mkdtempSync(join(tmpdir(), 'kvmha-timeline-'));
    try {
      const copies = ['node1', 'node2'].flatMap((node) => ['--journal', join(RECORDED, `${node}.jsonl`)]);
      const text = kvmha(...copies, 'db', '--since', '2026-11-25T04:45:29Z');
      assert.match(text.stdout, /^\S+ +node2 +db .*\n(.*\n)*\S+ +node1 +db /m);
      assert.doesNotMatch(text.stdout, /04:45:28|web/);
      const { events } = JSON.parse(kvmha(...copies, '--guest', 'db', '--json').stdout);
      assert.equal(events.length, 10);
      const page = join(folder, 'page.html');
      assert.match(kvmha(...copies, '--html', page).stdout, /^\d+ events are in /);
      assert.match(readFileSync(page, 'utf8'), /^<!DOCTYPE html>/);
      assert.equal(statSync(page).mode & 0o777, 0o600);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  test('names a journal that cannot be read, shows the others, and exits 1', () => {
    const { status, stdout, stderr } = kvmha(
      '--journal',
      '/nowhere.jsonl',
      '--journal',
      join(RECORDED, 'node1.jsonl'),
    );
    assert.equal(status, 1);
    assert.match(stdout, /node1 +web/);
    assert.match(stderr, /^kvmha: \/nowhere\.jsonl cannot be read: ENOENT$/m);
  });

  test('exits 2 for what cannot be meant', () => {
    assert.equal(kvmha('--local', '--ssh').status, 2);
    assert.match(kvmha('--since', 'soon').stderr, /It is a time/);
  });
});

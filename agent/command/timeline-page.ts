import type { JournalLine } from '../../lib/timeline/journal-lines.ts';
import { type Period, periodsOf } from '../../lib/timeline/periods.ts';
import { type Tone, tell } from '../../lib/timeline/story.ts';
import { plain } from './console.ts';
import { type TimelineReport, timelineProblems } from './timeline-text.ts';

/** A browser draws no more than so many with ease; the latest are the ones that are looked for. */
const MAX_EVENTS = 5000;

/** Characters beside a marker; all of them are in its tool tip and in the table. */
const MAX_TEXT = 160;
const MAX_LANE_NAME = 28;

/** Milliseconds between two events from which on the time between them is written. */
const GAP = 60_000;

// Sizes in pixels.
const ROW = 22;
const LANE = 30;
const TIMES = 190;
const CHARACTER = 7.3;

const STYLE = `
:root { color-scheme: light dark; --back: #fff; --text: #1b1f24; --dim: #57606a; --line: #d0d7de;
  --good: #1a7f37; --bad: #cf222e; --warn: #9a6700; --plain: #57606a; --kept: #0969da; }
@media (prefers-color-scheme: dark) { :root { --back: #0d1117; --text: #e6edf3; --dim: #9198a1; --line: #3d444d;
  --good: #3fb950; --bad: #f85149; --warn: #d29922; --plain: #9198a1; --kept: #58a6ff; } }
body { margin: 1.5em; background: var(--back); color: var(--text); font: 14px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.4em; } h2 { font-size: 1.1em; margin-top: 2em; }
.chart, .table { overflow-x: auto; }
svg { display: block; } svg text { font: 12px ui-monospace, monospace; fill: var(--text); }
svg .time, svg .gap { fill: var(--dim); } svg .lane { stroke: var(--line); stroke-width: 1; }
svg .rule { stroke: var(--line); stroke-dasharray: 2 4; }
svg .running { stroke: var(--good); stroke-width: 4; } svg .stopped { stroke: var(--warn); stroke-width: 4; stroke-dasharray: 3 3; }
svg .preserved { stroke: var(--kept); stroke-width: 8; }
svg .move { fill: none; stroke: var(--dim); stroke-dasharray: 4 3; }
svg .good { fill: var(--good); } svg .bad { fill: var(--bad); } svg .warn { fill: var(--warn); } svg .plain { fill: var(--plain); }
svg text.bad, td.bad { fill: var(--bad); color: var(--bad); }
.marker { stroke: var(--back); stroke-width: 1.5; }
table { border-collapse: collapse; } th, td { text-align: left; vertical-align: top; padding: .2em .8em .2em 0; border-bottom: 1px solid var(--line); }
td:first-child, summary { white-space: nowrap; } pre { margin: .3em 0; white-space: pre-wrap; word-break: break-word; }
.legend span { margin-right: 1.5em; } .problem { color: var(--bad); }
`;

/**
 * A page that shows a timeline: time goes down, and each guest on each node has a lane. It needs nothing but itself,
 * and runs no script.
 */
export function timelinePage(report: TimelineReport): string {
  const events = report.events.slice(-MAX_EVENTS);
  const left = report.events.length - events.length;
  const of = report.guests.length === 0 ? '' : ` of ${report.guests.join(', ')}`;
  const title = `kvmha timeline${of}`;
  const problems = timelineProblems(report).split('\n').filter(Boolean);
  return `<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8" />
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'" />
<meta name="viewport" content="width=device-width, initial-scale=1" />
<title>${escaped(title)}</title>
<style>${STYLE}</style>
</head>
<body>
<h1>${escaped(title)}</h1>
<p>${report.events.length} events${report.since === null ? '' : ` since ${escaped(report.since)}`}${
    left === 0 ? '' : `, of which the ${left} earliest are left out here`
  }, made on ${escaped(report.node)} at ${escaped(report.time)}. Times are in UTC, by each node's own clock.</p>
${problems.map((line) => `<p class="problem">${escaped(line)}</p>`).join('\n')}
<p class="legend">${LEGEND}</p>
<div class="chart">
${chart(events)}
</div>
<h2>Journals</h2>
<ul>${report.sources.map(({ name, node, lines }) => `<li>${escaped(`${name}: ${lines} lines of ${node}`)}</li>`).join('')}</ul>
<h2>Events</h2>
<div class="table"><table>
<thead><tr><th>Time</th><th>Node</th><th>Guest</th><th>By</th><th>What</th></tr></thead>
<tbody>
${events.map(tableRow).join('\n')}
</tbody>
</table></div>
</body>
</html>
`;
}

const LEGEND = (
  [
    ['good', 'done, or well'],
    ['warn', 'decided, or stopped'],
    ['bad', 'a fault, or failed'],
    ['plain', 'something else'],
  ] as const
)
  .map(
    ([tone, words]) =>
      `<span><svg width="14" height="14" style="display:inline">${marker(tone, 7, 7)}</svg> ${words}</span>`,
  )
  .concat(
    (['running', 'stopped', 'preserved'] as const).map(
      (condition) =>
        `<span><svg width="14" height="14" style="display:inline"><line class="${condition}" x1="7" y1="0" x2="7" y2="14" /></svg> ${condition}</span>`,
    ),
  )
  .join('');

function tableRow(line: JournalLine): string {
  const { words, tone } = tell(line);
  const json = JSON.stringify(line.entry, null, 1);
  return (
    `<tr><td>${escaped(line.time)}</td><td>${escaped(line.node)}</td><td>${escaped(line.guest ?? '')}</td>` +
    `<td>${escaped(line.by)}</td><td class="${tone}"><details><summary>${escaped(words)}</summary>` +
    `<pre>${escaped(json)}</pre></details></td></tr>`
  );
}

interface Lane {
  readonly node: string;
  readonly guest: string | null;
}

/** Lanes of one guest stand side by side, behind those of the hosts. */
function lanesOf(events: readonly JournalLine[]): Lane[] {
  const lanes = new Map(events.map(({ node, guest }) => [keyOf({ node, guest }), { node, guest }]));
  return [...lanes.values()].sort(
    (one, other) => (one.guest ?? '').localeCompare(other.guest ?? '') || one.node.localeCompare(other.node),
  );
}

function keyOf({ node, guest }: Lane): string {
  return JSON.stringify([node, guest]);
}

function nameOf({ node, guest }: Lane): string {
  const name = plain(guest === null ? node : `${guest} on ${node}`);
  return name.length <= MAX_LANE_NAME ? name : `${name.slice(0, MAX_LANE_NAME - 3)}...`;
}

interface Row {
  readonly y: number;
  /** How long nothing happened before it, where that is worth a word. */
  readonly gap: string | undefined;
}

function chart(events: readonly JournalLine[]): string {
  const lanes = lanesOf(events);
  const column = new Map(lanes.map((lane, index) => [keyOf(lane), TIMES + index * LANE + LANE / 2]));
  const x = (lane: Lane) => column.get(keyOf(lane)) ?? 0;
  // Names stand aslant, at 45 degrees.
  const longest = Math.max(4, ...lanes.map((lane) => nameOf(lane).length));
  const top = Math.ceil(longest * CHARACTER * Math.SQRT1_2) + 16;
  const rows = rowsOf(events, top);
  const bottom = (rows.at(-1)?.y ?? top) + ROW;
  const textAt = TIMES + lanes.length * LANE + 8;
  const texts = events.map((line) => {
    const words = plain(tell(line).words);
    return words.length <= MAX_TEXT ? words : `${words.slice(0, MAX_TEXT - 3)}...`;
  });
  const width = Math.ceil(textAt + Math.max(longest, ...texts.map(({ length }) => length)) * CHARACTER + 10);
  const yOf = (index: number | undefined) => (index === undefined ? bottom : (rows[index]?.y ?? bottom));
  const parts = [
    ...lanes.map(
      (lane) =>
        `<line class="lane" x1="${x(lane)}" y1="${top - 6}" x2="${x(lane)}" y2="${bottom}" />` +
        `<text transform="translate(${x(lane) + 3} ${top - 10}) rotate(-45)">${escaped(nameOf(lane))}</text>`,
    ),
    ...periodsOf(events).map(
      (period) =>
        `<line class="${period.condition}" x1="${x(period)}" y1="${yOf(period.from)}" x2="${x(period)}" y2="${yOf(period.to)}">` +
        `<title>${escaped(`${period.guest} on ${period.node}: ${period.condition}`)}</title></line>`,
    ),
    ...movesOf(periodsOf(events)).map(({ from, to }) => {
      // A preserved copy stays where it is; what goes on elsewhere has left it when it was quiesced.
      const left = from.to !== undefined && from.to <= to.from ? from.to : from.from;
      const [x1, y1, x2, y2] = [x(from), yOf(left), x(to), yOf(to.from)];
      return `<path class="move" d="M ${x1} ${y1} C ${x1} ${y2} ${x2} ${y1} ${x2} ${y2}" />`;
    }),
    ...events.map((line, index) => {
      const { tone, words } = tell(line);
      const { y, gap } = rows[index] ?? { y: 0, gap: undefined };
      const rule =
        gap === undefined
          ? ''
          : `<line class="rule" x1="0" y1="${y - ROW}" x2="${width}" y2="${y - ROW}" />` +
            `<text class="gap" x="0" y="${y - ROW - 4}">${escaped(gap)}</text>`;
      return (
        `${rule}<g><title>${escaped(`${line.time} ${line.node} ${line.guest ?? ''} (${line.by}): ${words}`)}</title>` +
        `<text class="time" x="0" y="${y + 4}">${escaped(line.time)}</text>` +
        `${marker(tone, x(line), y)}<text class="${tone === 'bad' ? 'bad' : ''}" x="${textAt}" y="${y + 4}">${escaped(texts[index] ?? '')}</text></g>`
      );
    }),
  ];
  return (
    `<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="timeline" width="${width}" height="${bottom + 8}">\n` +
    `${parts.join('\n')}\n</svg>`
  );
}

function rowsOf(events: readonly JournalLine[], top: number): Row[] {
  let y = top;
  return events.map(({ time }, index) => {
    const before = events[index - 1]?.time;
    const passed = before === undefined ? 0 : Date.parse(time) - Date.parse(before);
    y += passed >= GAP ? 2.5 * ROW : index === 0 ? ROW / 2 : ROW;
    return { y, gap: passed >= GAP ? `${duration(passed)} later` : undefined };
  });
}

/** Milliseconds for people. */
export function duration(milliseconds: number): string {
  const minutes = Math.round(milliseconds / 60_000);
  if (minutes < 60) {
    return `${minutes} min`;
  }
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

/** Where a guest went on: it began to run on another node than it was on before. */
function movesOf(periods: readonly Period[]): { from: Period; to: Period }[] {
  return periods.flatMap((to, index) => {
    const from = periods.slice(0, index).findLast(({ guest }) => guest === to.guest);
    return from !== undefined && from.node !== to.node && to.condition === 'running' ? [{ from, to }] : [];
  });
}

/** Told apart by their shapes, too. */
function marker(tone: Tone, x: number, y: number): string {
  switch (tone) {
    case 'good':
      return `<circle class="marker good" cx="${x}" cy="${y}" r="6" />`;
    case 'bad':
      return `<rect class="marker bad" x="${x - 6}" y="${y - 6}" width="12" height="12" />`;
    case 'warn':
      return `<path class="marker warn" d="M ${x} ${y - 7} L ${x + 7} ${y + 6} L ${x - 7} ${y + 6} Z" />`;
    case 'plain':
      return `<circle class="marker plain" cx="${x}" cy="${y}" r="4" />`;
  }
}

/** Fit for the text and the attributes of HTML and XML: a guest's name, and what QEMU says, may hold anything. */
function escaped(text: string): string {
  const entities: Readonly<Record<string, string>> = {
    '&': '&amp;',
    '<': '&lt;',
    '>': '&gt;',
    '"': '&quot;',
    "'": '&#39;',
  };
  return text
    .toWellFormed()
    .replace(/[^\P{Cc}\n]|[\uFFFE\uFFFF]/gu, ' ')
    .replace(/[&<>"']/g, (character) => entities[character] ?? character);
}

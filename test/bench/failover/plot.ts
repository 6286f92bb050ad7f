import { AGENTS, type AgentName, FAULTS } from './run.ts';
import { keptWords, type Summary, spread, timeWords } from './summary.ts';

/** Sizes in the units of the picture. */
const [LEFT, PLOT, RIGHT] = [190, 420, 400] as const;
const [TOP, ROW, GAP, BOTTOM] = [86, 22, 40, 46] as const;
const WIDTH = LEFT + PLOT + RIGHT;

/** What stands below the plot: the characters that fit into a line, and its height. */
const [NOTE_CHARACTERS, NOTE_HEIGHT] = [145, 16] as const;

/** The time axis, logarithmic, in seconds. */
const [FIRST, LAST] = [0.5, 200] as const;
const MARKS = [0.5, 1, 2, 5, 10, 20, 50, 100, 200] as const;

/** Told apart also without colour: every row is named. From the palette of Okabe and Ito. */
const COLOURS: { readonly [agent in AgentName]: string } = {
  polling: '#56b4e9',
  watcher: '#0072b2',
  virtualdomain: '#d55e00',
};

/**
 * Draws how long a guest did not write after a fault: for each fault and agent a point for each run, a line from the
 * least to the most, and a bar at the median; an arrow where it never wrote again.
 *
 * @param below what the reader has to know of the measurement
 * @returns a picture in SVG that needs nothing else
 */
export function plot(summaries: readonly Summary[], below: string): string {
  const groups = Map.groupBy(summaries, ({ fault }) => fault);
  const parts: string[] = [];
  let y = TOP;
  for (const [fault, rows] of groups) {
    parts.push(text(16, y + 4, FAULTS[fault].words, HEADING));
    for (const row of rows) {
      y += ROW;
      parts.push(drawRow(row, y));
    }
    y += GAP;
  }
  const end = y - GAP + ROW / 2 + 4;
  const notes = wrapped(below, NOTE_CHARACTERS);
  const height = end + BOTTOM + (notes.length - 1) * NOTE_HEIGHT;
  const columns = [
    ['time: median (range)', 0],
    ['fenced', 165],
    ['rebooted', 220],
    ['QEMU kept', 290],
  ] as const;
  return `\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" width="${WIDTH}" height="${height}" \
font-family="Helvetica, Arial, sans-serif" font-size="12" fill="#222" role="img">
<title>Time from a fault until the guest writes again</title>
<rect width="${WIDTH}" height="${height}" fill="#fff"/>
${text(16, 28, 'Time from a fault until the guest writes again', 'font-size="17" font-weight="bold"')}
${text(16, 48, 'seconds, logarithmic; a point for each run, a bar at the median; nodes fenced and healthy guests rebooted in all runs')}
${MARKS.map((mark) => axisMark(mark, end)).join('\n')}
${columns.map(([words, offset]) => text(LEFT + PLOT + 24 + offset, 72, words, 'fill="#555"')).join('\n')}
${parts.join('\n')}
${notes.map((note, index) => text(16, end + 34 + index * NOTE_HEIGHT, note, 'font-size="11" fill="#555"')).join('\n')}
</svg>
`;
}

function axisMark(mark: number, end: number): string {
  const x = xOf(mark * 1000).toFixed(1);
  return (
    `<line x1="${x}" y1="78" x2="${x}" y2="${end}" stroke="#ddd"/>` +
    text(Number(x), 72, String(mark), 'fill="#555" text-anchor="middle"')
  );
}

function drawRow(summary: Summary, y: number): string {
  const { agent, wrote, runs, limit, fenced, rebooted } = summary;
  const colour = COLOURS[agent];
  const right = LEFT + PLOT + 24;
  const kept = keptWords(summary);
  return [
    text(LEFT - 12, y + 4, AGENTS[agent].words, 'text-anchor="end"'),
    ...(wrote.length > 0 ? drawTimes(wrote, y, colour) : []),
    ...(wrote.length < runs ? [drawNever(limit, y, colour)] : []),
    text(right, y + 4, timeWords(summary)),
    text(right + 165, y + 4, String(fenced), fenced > 0 ? 'font-weight="bold"' : ''),
    text(right + 220, y + 4, String(rebooted), rebooted > 0 ? 'font-weight="bold"' : ''),
    text(right + 290, y + 4, kept),
  ].join('\n');
}

function drawTimes(wrote: readonly number[], y: number, colour: string): string[] {
  const { median, least, most } = spread(wrote);
  const [from, to, middle] = [least, most, median].map((time) => xOf(time).toFixed(1));
  return [
    `<line x1="${from}" y1="${y}" x2="${to}" y2="${y}" stroke="${colour}" stroke-width="3" stroke-opacity="0.4"/>`,
    `<line x1="${middle}" y1="${y - 8}" x2="${middle}" y2="${y + 8}" stroke="${colour}" stroke-width="3"/>`,
    ...wrote.map(
      (time) =>
        `<circle cx="${xOf(time).toFixed(1)}" cy="${y}" r="3.5" fill="${colour}" fill-opacity="0.7"/>`,
    ),
  ];
}

/** From the axis' beginning until somebody stopped waiting, and on. */
function drawNever(limit: number, y: number, colour: string): string {
  const [from, to] = [xOf(limit).toFixed(1), LEFT + PLOT];
  return (
    `<line x1="${LEFT}" y1="${y}" x2="${from}" y2="${y}" stroke="${colour}" stroke-width="3" stroke-dasharray="2 4"/>` +
    `<path d="M${from} ${y}H${to}M${to - 8} ${y - 5}L${to} ${y}L${to - 8} ${y + 5}" stroke="${colour}" stroke-width="2" fill="none" stroke-dasharray="none"/>`
  );
}

/** Where a number of milliseconds is on the axis; what is beyond its ends is drawn at them. */
function xOf(milliseconds: number): number {
  const value = Math.min(LAST, Math.max(FIRST, milliseconds / 1000));
  return LEFT + (PLOT * Math.log(value / FIRST)) / Math.log(LAST / FIRST);
}

function wrapped(words: string, characters: number): string[] {
  const lines: string[] = [];
  for (const word of words.split(' ')) {
    const line = lines.at(-1);
    if (line !== undefined && line.length + 1 + word.length <= characters) {
      lines[lines.length - 1] = `${line} ${word}`;
    } else {
      lines.push(word);
    }
  }
  return lines;
}

/** Of a heading: with a white edge, as lines of the scale run behind it. */
export const HEADING = 'font-weight="bold" stroke="#fff" stroke-width="4" paint-order="stroke"';

/** Text of a picture, escaped; `attributes` as SVG has them. */
export function text(x: number, y: number, words: string, attributes = ''): string {
  const escaped = words.replace(/[<>&]/g, (character) => `&#${character.charCodeAt(0)};`);
  return `<text x="${x}" y="${y}"${attributes === '' ? '' : ` ${attributes}`}>${escaped}</text>`;
}

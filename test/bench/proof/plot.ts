import { HEADING, text } from '../failover/plot.ts';
import { spread } from '../failover/summary.ts';
import { type Measured, type Row, rows, sizeWords, timeWords } from './summary.ts';

/** Sizes in the units of the picture. */
const [LEFT, PLOT, RIGHT, TOP, ROW, GAP] = [170, 520, 150, 86, 20, 34] as const;
const WIDTH = LEFT + PLOT + RIGHT;

/** Told apart also without colour: every row is named. From the palette of Okabe and Ito. */
const COLOURS = ['#0072b2', '#d55e00', '#009e73'] as const;

/** Milliseconds that a quiesce is to take at most. */
const GOAL = 50;

/**
 * Draws the time from event to proof: for each guest a point for each run, a line from the least to the most, and a bar at
 * the median.
 *
 * @param below what the reader has to know of the measurement
 * @returns a picture in SVG that needs nothing else
 */
export function plot(measured: readonly Measured[], below: string): string {
  const all = rows(measured);
  const most = Math.max(GOAL, ...all.flatMap(({ took }) => took));
  const end = Math.ceil(most / 20) * 20;
  const x = (time: number) => LEFT + (PLOT * time) / end;
  const names = [...new Set(all.map(({ qemu }) => qemu))];
  const parts: string[] = [];
  let y = TOP;
  for (const [series, group] of Map.groupBy(all, (row) => row.series)) {
    parts.push(
      text(16, y + 4, series === 'memory' ? 'By size of memory' : `By number of ${series}`, HEADING),
    );
    for (const row of [...group].sort((a, b) => a.size - b.size)) {
      y += ROW;
      parts.push(drawRow(row, y, COLOURS[names.indexOf(row.qemu) % COLOURS.length] ?? '#000', x));
    }
    y += GAP;
  }
  const bottom = y - GAP + ROW / 2 + 4;
  const marks = Array.from({ length: end / 20 + 1 }, (_, index) => index * 20);
  return `\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${bottom + 40}" width="${WIDTH}" height="${bottom + 40}" \
font-family="Helvetica, Arial, sans-serif" font-size="12" fill="#222" role="img">
<title>Time from the event of a fault to the proof</title>
<rect width="${WIDTH}" height="${bottom + 40}" fill="#fff"/>
${text(16, 28, 'Time from the event of a fault to the proof', 'font-size="17" font-weight="bold"')}
${text(16, 48, `milliseconds; a point for each run, a bar at the median; dashed: ${GOAL} ms`)}
${marks.map((mark) => `<line x1="${x(mark)}" y1="78" x2="${x(mark)}" y2="${bottom}" stroke="#ddd"/>${text(x(mark), 72, String(mark), 'fill="#555" text-anchor="middle"')}`).join('\n')}
<line x1="${x(GOAL)}" y1="78" x2="${x(GOAL)}" y2="${bottom}" stroke="#999" stroke-dasharray="4 3"/>
${parts.join('\n')}
${text(16, bottom + 28, below, 'font-size="11" fill="#555"')}
</svg>
`;
}

function drawRow(row: Row, y: number, colour: string, x: (time: number) => number): string {
  const { median, least, most } = spread(row.took);
  const [from, to, middle] = [least, most, median].map((time) => x(time).toFixed(1));
  return [
    text(LEFT - 10, y + 4, `${row.qemu}, ${sizeWords(row)}`, 'text-anchor="end"'),
    `<line x1="${from}" y1="${y}" x2="${to}" y2="${y}" stroke="${colour}" stroke-width="3" stroke-opacity="0.4"/>`,
    `<line x1="${middle}" y1="${y - 7}" x2="${middle}" y2="${y + 7}" stroke="${colour}" stroke-width="3"/>`,
    ...row.took.map(
      (time) => `<circle cx="${x(time).toFixed(1)}" cy="${y}" r="3" fill="${colour}" fill-opacity="0.7"/>`,
    ),
    text(LEFT + PLOT + 16, y + 4, timeWords(row.took)),
  ].join('\n');
}

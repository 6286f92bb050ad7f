import { spread } from '../failover/summary.ts';
import type { Measurement } from './measure.ts';

/** What is drawn and listed of one kind of call. */
export interface Called {
  /** What was called, as in "KvmGuest". */
  readonly who: string;
  /** In what situation, as in "monitor, guest runs". */
  readonly what: string;
  readonly measurements: readonly Measurement[];
}

/** Sizes in the units of the picture. */
const [LEFT, PLOT, RIGHT] = [250, 420, 110] as const;
const [TOP, ROW, GAP, BOTTOM] = [64, 18, 32, 40] as const;
const WIDTH = LEFT + PLOT + RIGHT;

/** From the palette of Okabe and Ito; every row is named as well. */
const COLOURS: readonly (readonly [RegExp, string])[] = [
  [/^KvmGuest/, '#0072b2'],
  [/^VirtualDomain/, '#d55e00'],
  [/^virsh/, '#999999'],
];

/**
 * Draws the processor time of each kind of call: a bar up to the median, a line from the least to the most.
 *
 * @param below what the reader has to know of the measurement
 * @returns a picture in SVG that needs nothing else
 */
export function plot(calls: readonly Called[], below: string): string {
  const spreads = new Map(
    calls.map((call) => [call, spread(call.measurements.map(({ user, system }) => user + system))]),
  );
  const longest = Math.max(...[...spreads.values()].map(({ most }) => most));
  const x = (milliseconds: number) => LEFT + (milliseconds / longest) * PLOT;
  const parts: string[] = [];
  let y = TOP;
  for (const [what, rows] of Map.groupBy(calls, (call) => call.what)) {
    parts.push(text(16, y, what, 'font-weight="bold"'));
    for (const row of rows) {
      y += ROW;
      const { least, median, most } = spreads.get(row) ?? spread([]);
      const colour = COLOURS.find(([pattern]) => pattern.test(row.who))?.[1] ?? '#009e73';
      parts.push(
        text(32, y, row.who),
        `<rect x="${LEFT}" y="${y - 11}" width="${(x(median) - LEFT).toFixed(1)}" height="12" fill="${colour}"/>`,
        `<path d="M${x(least).toFixed(1)} ${y - 5}H${x(most).toFixed(1)}" stroke="#222"/>`,
        text(x(most) + 6, y, `${median.toFixed(0)} ms`),
      );
    }
    y += GAP;
  }
  const height = y + BOTTOM;
  return `\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" width="${WIDTH}" height="${height}" \
font-family="Helvetica, Arial, sans-serif" font-size="12" fill="#222" role="img">
<title>Processor time of one call</title>
<rect width="${WIDTH}" height="${height}" fill="#fff"/>
${text(16, 28, 'Processor time of one call', 'font-size="17" font-weight="bold"')}
${parts.join('\n')}
${below
  .split('; ')
  .map((line, index) => text(16, y + index * 16, line, 'fill="#555" font-size="10"'))
  .join('\n')}
</svg>
`;
}

function text(x: number, y: number, words: string, attributes = ''): string {
  const escaped = words.replaceAll('&', '&amp;').replaceAll('<', '&lt;');
  return `<text x="${x.toFixed(1)}" y="${y.toFixed(1)}" ${attributes}>${escaped}</text>`;
}

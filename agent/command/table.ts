import { plain } from './console.ts';

/**
 * Rows of text in columns; the first row is the heading. A column in which no row says anything is left out.
 *
 * @param paint gives a cell below a heading its colour
 */
export function table(
  rows: readonly (readonly string[])[],
  paint: (cell: string, heading: string) => string = (cell) => cell,
): string {
  const [heading = [], ...body] = rows.map((row) => row.map(plain));
  const kept = heading.map((_, column) => body.some((row) => (row[column] ?? '') !== ''));
  const lines = [heading, ...body].map((row) => row.filter((_, column) => kept[column]));
  const headings = lines[0] ?? [];
  const widths = headings.map((_, column) => Math.max(...lines.map((row) => (row[column] ?? '').length)));
  return lines
    .map((row, index) => {
      const cells = row.map((cell, column) => {
        const padding = ' '.repeat((widths[column] ?? 0) - cell.length);
        return `${index === 0 ? cell : paint(cell, headings[column] ?? '')}${padding}`;
      });
      return `${cells.join('  ').trimEnd()}\n`;
    })
    .join('');
}

/** Bytes for people. */
export function size(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  const power = Math.min(units.length - 1, bytes < 1 ? 0 : Math.floor(Math.log2(bytes) / 10));
  const value = bytes / 1024 ** power;
  return `${value < 10 && power > 0 ? value.toFixed(1) : Math.round(value)} ${units[power]}`;
}

/** A moment without fractions of seconds: `2026-11-25T02:01:07Z`. */
export function moment(iso: string): string {
  return iso.replace(/\.\d+Z$/, 'Z');
}

/** Sheets of several pictures, as runtime/images.py lays them out: row by row, with lines between them. */

import type { Pixels } from "../engine/api";

const PADDING = 2; // pixels

/** About square, at least as wide as high. */
export const gridColumns = (count: number): number => Math.ceil(Math.sqrt(count));

/** The pictures of a sheet in their order; null where a sheet of so many has another size.
 * @param columns Of the recipe; null lets the grid be about square. */
export function cellsOf(
  sheet: Pixels, count: number, columns: number | null, width: number, height: number,
): Pixels[] | null {
  const across = Math.min(columns ?? gridColumns(count), count);
  const down = Math.ceil(count / across);
  const [stepX, stepY] = [width + PADDING, height + PADDING];
  if (sheet.width !== across * stepX - PADDING || sheet.height !== down * stepY - PADDING) return null;
  return Array.from({ length: count }, (_, i) =>
    cut(sheet, (i % across) * stepX, Math.floor(i / across) * stepY, width, height));
}

function cut({ width: stride, channels, data }: Pixels, left: number, top: number, width: number, height: number): Pixels {
  const found = new Uint8Array(width * height * channels);
  for (let y = 0; y < height; y++) {
    const start = ((top + y) * stride + left) * channels;
    found.set(data.subarray(start, start + width * channels), y * width * channels);
  }
  return { width, height, channels, data: found };
}

/**
 * Which pages of a buffer are all zero: most of a fresh guest's memory is, and such pages are sent as a number.
 *
 * A page that holds data almost always shows it within its first words, so the loop ends early; only real zero pages are
 * compared to the end, by memcmp.
 */
import { type PageRuns } from "./page-runs.ts";
import { PAGE_BYTES } from "./ram-blocks.ts";

const ZEROS = Buffer.alloc(PAGE_BYTES);

/** Whether the page at `offset` is all zero. */
export function isZeroPage(buffer: Buffer, offset: number): boolean {
  for (let at = offset; at < offset + 64; at++) {
    if (buffer[at] !== 0) {
      return false;
    }
  }
  return buffer.compare(ZEROS, 0, PAGE_BYTES, offset, offset + PAGE_BYTES) === 0;
}

/**
 * Splits the pages of `runs`, read into `buffer` from its start, into zero pages and the rest. The rest moves together at the
 * start of the buffer, in order, so that it can be sent as it is. Returns its bytes.
 */
export function compactZeroPages(buffer: Buffer, runs: PageRuns, zeros: PageRuns, rest: PageRuns): number {
  zeros.clear();
  rest.clear();
  let from = 0;
  let kept = 0;
  for (let run = 0; run < runs.length; run++) {
    const start = runs.start(run);
    for (let page = start; page < start + runs.count(run); page++, from += PAGE_BYTES) {
      if (isZeroPage(buffer, from)) {
        zeros.add(page, 1);
        continue;
      }
      if (kept !== from) {
        buffer.copyWithin(kept, from, from + PAGE_BYTES);
      }
      rest.add(page, 1);
      kept += PAGE_BYTES;
    }
  }
  return kept;
}

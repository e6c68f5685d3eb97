import { expect, test } from "@jest/globals";
import fc from "fast-check";
import { PageRuns } from "./page-runs.ts";
import { PAGE_BYTES } from "./ram-blocks.ts";
import { compactZeroPages, isZeroPage } from "./zero-pages.ts";

test("one byte anywhere makes a page count", () => {
  const buffer = Buffer.alloc(3 * PAGE_BYTES);
  expect(isZeroPage(buffer, PAGE_BYTES)).toBe(true);
  for (const at of [0, 63, 64, 2000, PAGE_BYTES - 1]) {
    buffer[PAGE_BYTES + at] = 1;
    expect(isZeroPage(buffer, PAGE_BYTES)).toBe(false);
    expect(isZeroPage(buffer, 0) && isZeroPage(buffer, 2 * PAGE_BYTES)).toBe(true);
    buffer[PAGE_BYTES + at] = 0;
  }
});

test("zero pages are taken out and the rest keeps its order", () => {
  fc.assert(
    fc.property(
      fc.array(fc.record({ gap: fc.integer({ min: 0, max: 3 }), zero: fc.boolean() }), { maxLength: 30 }),
      (pages) => {
        const runs = new PageRuns();
        const buffer = Buffer.alloc(pages.length * PAGE_BYTES);
        let next = 0;
        const numbers = pages.map(({ gap, zero }, index) => {
          next += gap;
          runs.add(next, 1);
          if (!zero) {
            buffer.writeUInt32LE(next + 1, index * PAGE_BYTES + 512);
          }
          return next++;
        });
        const zeros = new PageRuns();
        const rest = new PageRuns();
        const bytes = compactZeroPages(buffer, runs, zeros, rest);
        const kept = numbers.filter((_, index) => pages[index]?.zero === false);
        expect(zeros.pageCount + rest.pageCount).toBe(pages.length);
        expect(bytes).toBe(kept.length * PAGE_BYTES);
        expect(kept.map((_, index) => buffer.readUInt32LE(index * PAGE_BYTES + 512) - 1)).toEqual(kept);
        const listed: number[] = [];
        for (let run = 0; run < rest.length; run++) {
          listed.push(...Array.from({ length: rest.count(run) }, (_, page) => rest.start(run) + page));
        }
        expect(listed).toEqual(kept);
      },
    ),
    { numRuns: 100 },
  );
});

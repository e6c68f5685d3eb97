import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { PageRuns, PageSet, subtract, union } from "./page-runs.ts";

const PAGES = 300;
const anyPages = fc.uniqueArray(fc.integer({ min: 0, max: PAGES - 1 }), { maxLength: PAGES });

function runsOf(pages: readonly number[]): PageRuns {
  const runs = new PageRuns(1);
  for (const page of pages.toSorted((a, b) => a - b)) {
    runs.add(page, 1);
  }
  return runs;
}

function pagesOf(runs: PageRuns): number[] {
  const pages: number[] = [];
  for (let run = 0; run < runs.length; run++) {
    for (let page = runs.start(run); page < runs.start(run) + runs.count(run); page++) {
      pages.push(page);
    }
  }
  expect(runs.pageCount).toBe(pages.length);
  return pages;
}

function isCoalesced(runs: PageRuns): boolean {
  for (let run = 1; run < runs.length; run++) {
    if (runs.start(run) <= runs.start(run - 1) + runs.count(run - 1)) {
      return false;
    }
  }
  return true;
}

const sorted = (pages: Iterable<number>): number[] => [...pages].sort((a, b) => a - b);

describe("PageRuns", () => {
  test("merges touching runs and refuses to go back", () => {
    const runs = new PageRuns(1);
    runs.add(3, 2);
    runs.add(5, 1);
    runs.add(9, 0);
    runs.add(8, 4);
    expect([runs.length, runs.pageCount]).toEqual([2, 7]);
    expect(pagesOf(runs)).toEqual([3, 4, 5, 8, 9, 10, 11]);
    expect(() => {
      runs.add(11, 1);
    }).toThrow(/behind/);
  });

  test("union and subtract are those of sets, coalesced", () => {
    fc.assert(
      fc.property(anyPages, anyPages, (a, b) => {
        const target = new PageRuns(1);
        union(runsOf(a), runsOf(b), target);
        expect(pagesOf(target)).toEqual(sorted(new Set([...a, ...b])));
        expect(isCoalesced(target)).toBe(true);
        subtract(runsOf(a), runsOf(b), target);
        expect(pagesOf(target)).toEqual(sorted(a.filter((page) => !b.includes(page))));
        expect(isCoalesced(target)).toBe(true);
      }),
      { numRuns: 200 },
    );
  });
});

describe("PageSet", () => {
  test("adds, deletes and lists as a set of numbers does", () => {
    fc.assert(
      fc.property(anyPages, anyPages, anyPages, (a, b, c) => {
        const set = new PageSet(PAGES);
        set.add(runsOf(a));
        set.delete(runsOf(b));
        set.add(runsOf(c));
        const wanted = new Set([...a.filter((page) => !b.includes(page)), ...c]);
        const runs = new PageRuns();
        expect(set.toRuns(runs)).toBe(PAGES);
        expect(pagesOf(runs)).toEqual(sorted(wanted));
        expect(isCoalesced(runs)).toBe(true);
        expect(set.size()).toBe(wanted.size);
        expect([...Array(PAGES).keys()].filter((page) => set.has(page))).toEqual(sorted(wanted));
      }),
      { numRuns: 200 },
    );
  });

  test("is walked in portions without missing or repeating a page", () => {
    fc.assert(
      fc.property(anyPages, fc.integer({ min: 1, max: 40 }), (pages, limit) => {
        const set = new PageSet(PAGES);
        set.add(runsOf(pages));
        const runs = new PageRuns();
        const seen: number[] = [];
        for (let from = 0; from < PAGES;) {
          from = set.toRuns(runs, from, limit);
          expect(runs.pageCount).toBeLessThanOrEqual(limit);
          seen.push(...pagesOf(runs));
        }
        expect(seen).toEqual(sorted(pages));
      }),
      { numRuns: 200 },
    );
  });

  test("refuses pages outside of the guest", () => {
    expect(() => {
      new PageSet(PAGES).addRun(PAGES - 1, 2);
    }).toThrow(/outside/);
  });
});

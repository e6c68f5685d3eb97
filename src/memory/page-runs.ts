/**
 * Sets of guest pages in the two forms the engine needs: runs (what a scan returns, what is copied and sent) and a bitset (what
 * is still to be sent while many scans come in).
 *
 * Pages are global: all tracked RAM blocks laid end to end, page 0 first. Run lists are filled in ascending order and reused for
 * every epoch: the arrays only grow, so a running engine allocates nothing here.
 */
import { assert } from "../lib/assert.ts";
import { countSetBits } from "../lib/bits.ts";

/** Ascending, non-overlapping runs of pages; touching runs are merged when added. */
export class PageRuns {
  starts: Uint32Array;
  counts: Uint32Array;
  /** Runs in use. */
  length = 0;
  /** Pages in all runs. */
  pageCount = 0;

  constructor(capacity = 4096) {
    this.starts = new Uint32Array(capacity);
    this.counts = new Uint32Array(capacity);
  }

  clear(): void {
    this.length = 0;
    this.pageCount = 0;
  }

  /** Adds a run behind all others; one that touches the last run prolongs it. */
  add(start: number, count: number): void {
    if (count === 0) {
      return;
    }
    const last = this.length - 1;
    const end = last < 0 ? 0 : this.start(last) + this.count(last);
    assert(start >= end, `run at page ${start} was added behind page ${end}`);
    this.pageCount += count;
    if (last >= 0 && start === end) {
      this.counts[last] = this.count(last) + count;
      return;
    }
    if (this.length === this.starts.length) {
      this.#grow();
    }
    this.starts[this.length] = start;
    this.counts[this.length] = count;
    this.length++;
  }

  start(run: number): number {
    return this.starts[run] as number;
  }

  count(run: number): number {
    return this.counts[run] as number;
  }

  copyFrom(other: PageRuns): void {
    this.clear();
    for (let run = 0; run < other.length; run++) {
      this.add(other.start(run), other.count(run));
    }
  }

  #grow(): void {
    const starts = new Uint32Array(this.starts.length * 2);
    const counts = new Uint32Array(this.starts.length * 2);
    starts.set(this.starts);
    counts.set(this.counts);
    this.starts = starts;
    this.counts = counts;
  }
}

/** Fills `target` with the pages that are in `a` or in `b`. */
export function union(a: PageRuns, b: PageRuns, target: PageRuns): void {
  target.clear();
  let end = 0;
  let i = 0;
  let j = 0;
  while (i < a.length || j < b.length) {
    const fromA = j >= b.length || (i < a.length && a.start(i) <= b.start(j));
    const start = fromA ? a.start(i) : b.start(j);
    const runEnd = start + (fromA ? a.count(i++) : b.count(j++));
    const from = Math.max(start, end);
    if (runEnd > from) {
      target.add(from, runEnd - from);
      end = runEnd;
    }
  }
}

/** Fills `target` with the pages that are in `a` and not in `b`. */
export function subtract(a: PageRuns, b: PageRuns, target: PageRuns): void {
  target.clear();
  let j = 0;
  for (let i = 0; i < a.length; i++) {
    let from = a.start(i);
    const end = from + a.count(i);
    while (j < b.length && b.start(j) + b.count(j) <= from) {
      j++;
    }
    for (let k = j; k < b.length && b.start(k) < end; k++) {
      if (b.start(k) > from) {
        target.add(from, b.start(k) - from);
      }
      from = Math.max(from, b.start(k) + b.count(k));
    }
    if (from < end) {
      target.add(from, end - from);
    }
  }
}

/** A bitset over all pages of a guest. */
export class PageSet {
  readonly pageCount: number;
  readonly #words: Uint32Array;

  constructor(pageCount: number) {
    this.pageCount = pageCount;
    this.#words = new Uint32Array(Math.ceil(pageCount / 32));
  }

  has(page: number): boolean {
    return (((this.#words[page >>> 5] ?? 0) >>> (page & 31)) & 1) === 1;
  }

  addRun(start: number, count: number): void {
    this.#change(start, count, true);
  }

  deleteRun(start: number, count: number): void {
    this.#change(start, count, false);
  }

  add(runs: PageRuns): void {
    for (let run = 0; run < runs.length; run++) {
      this.addRun(runs.start(run), runs.count(run));
    }
  }

  delete(runs: PageRuns): void {
    for (let run = 0; run < runs.length; run++) {
      this.deleteRun(runs.start(run), runs.count(run));
    }
  }

  clear(): void {
    this.#words.fill(0);
  }

  /** Pages in the set. */
  size(): number {
    return countSetBits(this.#words);
  }

  /**
   * Fills `target` with the pages from `from` on, at most `limit` of them, and returns where to go on: `pageCount` at the end.
   * With these two a bulk copy walks the set in portions.
   */
  toRuns(target: PageRuns, from = 0, limit = Number.POSITIVE_INFINITY): number {
    target.clear();
    let page = from;
    while (page < this.pageCount && target.pageCount < limit) {
      const start = this.#next(page, true);
      if (start >= this.pageCount) {
        return this.pageCount;
      }
      const end = this.#next(start, false);
      const count = Math.min(end - start, limit - target.pageCount);
      target.add(start, count);
      page = start + count;
    }
    return page;
  }

  /** The first page at or behind `page` whose bit is `wanted`, or pageCount. */
  #next(page: number, wanted: boolean): number {
    const skip = wanted ? 0 : 0xffff_ffff;
    let at = page;
    while (at < this.pageCount) {
      if ((at & 31) === 0 && this.#words[at >>> 5] === skip) {
        at += 32;
      } else if (this.has(at) === wanted) {
        return at;
      } else {
        at++;
      }
    }
    return this.pageCount;
  }

  #change(start: number, count: number, on: boolean): void {
    const end = start + count;
    assert(start >= 0 && end <= this.pageCount, `pages ${start} to ${end} are outside of the guest`);
    let page = start;
    while (page < end) {
      const word = page >>> 5;
      const bits = Math.min(32 - (page & 31), end - page);
      const mask = bits === 32 ? 0xffff_ffff : ((1 << bits) - 1) << (page & 31);
      const before = this.#words[word] as number;
      this.#words[word] = on ? before | mask : before & ~mask;
      page += bits;
    }
  }
}

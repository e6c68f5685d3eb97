/**
 * Tracking by comparing the whole memory with a copy of it: works everywhere, costs the guest's memory once more and about
 * 1 ms per MiB and scan. The last resort.
 */
import { PageCopy } from "./page-copy.ts";
import { PageRuns } from "./page-runs.ts";
import { PAGE_BYTES, type RamBlock } from "./ram-blocks.ts";
import { type Tracker } from "./tracker.ts";

const CHUNK_PAGES = 256;

export class ComparisonTracker implements Tracker {
  readonly method = "comparison";
  readonly #copy: PageCopy;
  readonly #pageCount: number;
  readonly #kept: Buffer;
  readonly #chunk = Buffer.from(new ArrayBuffer(CHUNK_PAGES * PAGE_BYTES));
  readonly #portion = new PageRuns(1);

  constructor(pid: number, blocks: readonly RamBlock[]) {
    this.#copy = new PageCopy(pid, blocks);
    this.#pageCount = blocks.reduce((sum, block) => sum + block.pageCount, 0);
    this.#kept = Buffer.from(new ArrayBuffer(this.#pageCount * PAGE_BYTES));
  }

  start(): void {
    this.#compare(undefined);
  }

  scan(runs: PageRuns): void {
    this.#compare(runs);
  }

  readonly read = (runs: PageRuns, target: Uint8Array, offset: number): number => {
    let at = offset;
    for (let run = 0; run < runs.length; run++) {
      const from = runs.start(run) * PAGE_BYTES;
      const bytes = runs.count(run) * PAGE_BYTES;
      target.set(this.#kept.subarray(from, from + bytes), at);
      at += bytes;
    }
    return at - offset;
  };

  close(): void {
    // Nothing but memory is held.
  }

  #compare(runs: PageRuns | undefined): void {
    for (let first = 0; first < this.#pageCount; first += CHUNK_PAGES) {
      const count = Math.min(CHUNK_PAGES, this.#pageCount - first);
      this.#portion.clear();
      this.#portion.add(first, count);
      this.#copy.read(this.#portion, this.#chunk);
      for (let page = 0; page < count; page++) {
        this.#comparePage(page * PAGE_BYTES, (first + page) * PAGE_BYTES, runs);
      }
    }
  }

  #comparePage(at: number, keptAt: number, runs: PageRuns | undefined): void {
    if (this.#chunk.compare(this.#kept, keptAt, keptAt + PAGE_BYTES, at, at + PAGE_BYTES) !== 0) {
      this.#chunk.copy(this.#kept, keptAt, at, at + PAGE_BYTES);
      runs?.add(keptAt / PAGE_BYTES, 1);
    }
  }
}

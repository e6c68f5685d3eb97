/**
 * Copies the guest's memory to the standby while the guest runs, in rounds: what the standby lacks, then what was written
 * meanwhile, until little is left or the rounds no longer shrink. The rest goes with the first epoch, which is taken
 * while the guest stands still.
 *
 * A page read while the guest writes to it may be torn. That is harmless: the write is seen by the next scan, so the page
 * is sent again, at the latest with that first epoch.
 */
import { type PageRuns, type PageSet } from "../memory/page-runs.ts";
import { PAGE_BYTES } from "../memory/ram-blocks.ts";

/** The guest's memory as a copy needs it; implemented by memory/guest-memory.ts. */
export interface CopiedMemory {
  readonly pageCount: number;
  scan(runs: PageRuns, guest: "running" | "stopped"): void;
  read(runs: PageRuns, target: Uint8Array, offset?: number): number;
}

export interface PageStream {
  /** `data` belongs to the stream until it was sent. */
  sendPages(starts: Uint32Array, counts: Uint32Array, data: Uint8Array): void;
  sendZeroPages(starts: Uint32Array, counts: Uint32Array): void;
  room(): Promise<void> | undefined;
}

const CHUNK_PAGES = 256;
/** What an epoch can carry without a pause that hurts. */
const LEFT_PAGES_ENOUGH = 1024;
const ROUNDS_MAX = 12;

export class RamCopy {
  readonly #memory: CopiedMemory;
  readonly #stream: PageStream;
  readonly #lacking: PageSet;
  readonly #scanned: PageRuns;
  readonly #chunk: PageRuns;
  #stopped = false;

  /** `lacking` is taken over: pages leave it when they are sent, what is in it at the end belongs to the first epoch. */
  constructor(options: {
    readonly memory: CopiedMemory;
    readonly stream: PageStream;
    readonly lacking: PageSet;
    readonly runs: { readonly scanned: PageRuns; readonly chunk: PageRuns };
  }) {
    this.#memory = options.memory;
    this.#stream = options.stream;
    this.#lacking = options.lacking;
    this.#scanned = options.runs.scanned;
    this.#chunk = options.runs.chunk;
  }

  stop(): void {
    this.#stopped = true;
  }

  /** Runs rounds until `mayEnd` says that nothing else is being copied and few pages are left. */
  async run(mayEnd: () => boolean): Promise<void> {
    let before = Number.POSITIVE_INFINITY;
    for (let round = 1; await this.#sendAll(); round += 1) {
      this.#memory.scan(this.#scanned, "running");
      this.#lacking.add(this.#scanned);
      const left = this.#scanned.pageCount;
      const shrinksNoMore = round >= ROUNDS_MAX || left > before * 0.8;
      if (mayEnd() && (left <= LEFT_PAGES_ENOUGH || shrinksNoMore)) {
        return;
      }
      before = left;
      if (left <= LEFT_PAGES_ENOUGH) {
        await new Promise((resolve) => setTimeout(resolve, 20)); // Memory waits for the disks.
      }
    }
  }

  /** Sends everything that is lacking now; false when it was stopped meanwhile. */
  async #sendAll(): Promise<boolean> {
    let page = 0;
    while (!this.#stopped && page < this.#memory.pageCount) {
      const room = this.#stream.room();
      if (room !== undefined) {
        await room;
        continue;
      }
      page = this.#lacking.toRuns(this.#chunk, page, CHUNK_PAGES);
      if (this.#chunk.pageCount > 0) {
        this.#lacking.delete(this.#chunk);
        this.#sendChunk();
        await nextTurn();
      }
    }
    return !this.#stopped;
  }

  #sendChunk(): void {
    const data = Buffer.allocUnsafeSlow(this.#chunk.pageCount * PAGE_BYTES);
    this.#memory.read(this.#chunk, data);
    splitZeroPages(this.#chunk, data, this.#stream);
  }
}

/** Sends the pages of a chunk, those that are all zero as run lists without data. */
export function splitZeroPages(
  runs: PageRuns,
  data: Buffer,
  stream: Pick<PageStream, "sendPages" | "sendZeroPages">,
): void {
  const words = new BigUint64Array(data.buffer, data.byteOffset, data.length / 8);
  const zero: [number, number][] = [];
  const full: [number, number][] = [];
  let kept = 0;
  let at = 0;
  for (let run = 0; run < runs.length; run += 1) {
    const end = runs.start(run) + runs.count(run);
    for (let page = runs.start(run); page < end; page += 1, at += 1) {
      if (isZeroPage(words, at)) {
        extend(zero, page);
        continue;
      }
      if (kept !== at) {
        data.copyWithin(kept * PAGE_BYTES, at * PAGE_BYTES, (at + 1) * PAGE_BYTES);
      }
      kept += 1;
      extend(full, page);
    }
  }
  if (zero.length > 0) {
    stream.sendZeroPages(column(zero, 0), column(zero, 1));
  }
  if (full.length > 0) {
    stream.sendPages(column(full, 0), column(full, 1), data.subarray(0, kept * PAGE_BYTES));
  }
}

const WORDS_PER_PAGE = PAGE_BYTES / 8;

function isZeroPage(words: BigUint64Array, page: number): boolean {
  const from = page * WORDS_PER_PAGE;
  // Most pages with data show it in one of these, which spares the loop.
  if (words[from] !== 0n || words[from + 256] !== 0n || words[from + 511] !== 0n) {
    return false;
  }
  for (let word = from + 1; word < from + WORDS_PER_PAGE; word += 1) {
    if (words[word] !== 0n) {
      return false;
    }
  }
  return true;
}

function extend(runs: [number, number][], page: number): void {
  const last = runs.at(-1);
  if (last !== undefined && last[0] + last[1] === page) {
    last[1] += 1;
  } else {
    runs.push([page, 1]);
  }
}

function column(runs: readonly (readonly [number, number])[], index: 0 | 1): Uint32Array {
  return Uint32Array.from(runs, (run) => run[index]);
}

function nextTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

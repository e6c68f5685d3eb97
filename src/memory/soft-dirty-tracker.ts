/**
 * Tracking by soft-dirty bits, for kernels before 6.7 that were built with them (CONFIG_MEM_SOFT_DIRTY).
 *
 * Reading the bits and clearing them are two steps, and a write between them would be lost. So bits are cleared only while the
 * guest is stopped; a scan of a running guest returns all that was written since the last stop.
 *
 * A page of a shared mapping that the kernel takes out of the page table under memory pressure loses its bit. Guest memory has to
 * be locked or swap has to be off; userfaultfd has no such gap, which is why this is second choice.
 */
import { closeSync, openSync, readSync, writeFileSync } from "node:fs";
import { addressOf } from "./libc.ts";
import { type PageRuns } from "./page-runs.ts";
import { PAGE_BYTES, type RamBlock } from "./ram-blocks.ts";
import { type GuestActivity, type Tracker } from "./tracker.ts";

const CHUNK_PAGES = 65_536;
/** Bit 55 of an entry, seen in the upper half. */
const SOFT_DIRTY = 1 << 23;

export class SoftDirtyTracker implements Tracker {
  readonly method = "softDirty";
  readonly #directory: string;
  readonly #blocks: readonly RamBlock[];
  readonly #pagemap: number;
  readonly #entries = Buffer.from(new ArrayBuffer(CHUNK_PAGES * 8));
  readonly #halves = new Uint32Array(this.#entries.buffer);

  /** `directory` is where the kernel shows the process; tests show something else. */
  constructor(pid: number, blocks: readonly RamBlock[], directory = `/proc/${pid}`) {
    this.#directory = directory;
    this.#blocks = blocks;
    this.#pagemap = openSync(`${directory}/pagemap`, "r");
  }

  start(): void {
    this.#clear();
  }

  scan(runs: PageRuns, guest: GuestActivity): void {
    for (const block of this.#blocks) {
      for (let page = 0; page < block.pageCount; page += CHUNK_PAGES) {
        this.#scanChunk(runs, block, page);
      }
    }
    if (guest === "stopped") {
      this.#clear();
    }
  }

  close(): void {
    closeSync(this.#pagemap);
  }

  #scanChunk(runs: PageRuns, block: RamBlock, page: number): void {
    const count = Math.min(CHUNK_PAGES, block.pageCount - page);
    const position = (block.address / PAGE_BYTES + page) * 8;
    readSync(this.#pagemap, this.#entries, 0, count * 8, position);
    for (let at = 0; at < count; at++) {
      if (((this.#halves[at * 2 + 1] as number) & SOFT_DIRTY) !== 0) {
        runs.add(block.firstPage + page + at, 1);
      }
    }
  }

  #clear(): void {
    writeFileSync(`${this.#directory}/clear_refs`, "4");
  }
}

/** Whether this kernel has soft-dirty bits, found out on a page of this process: without them the bits are never set. */
export function hasSoftDirty(): boolean {
  const probe = Buffer.from(new ArrayBuffer(2 * PAGE_BYTES)).fill(1);
  const entry = Buffer.alloc(8);
  const pagemap = openSync("/proc/self/pagemap", "r");
  try {
    writeFileSync("/proc/self/clear_refs", "4");
    probe.fill(2);
    // SAFETY: the address is only looked up, and `probe` is used below, so it is alive until then.
    const page = Math.ceil(Number(addressOf(probe)) / PAGE_BYTES);
    readSync(pagemap, entry, 0, 8, page * 8);
    return probe.length > 0 && (entry.readUInt32LE(4) & SOFT_DIRTY) !== 0;
  } catch {
    return false;
  } finally {
    closeSync(pagemap);
  }
}

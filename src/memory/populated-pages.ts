/**
 * The pages of a guest that may hold something else than zeros, without touching the others: reading a page nobody has touched
 * makes the kernel allocate it, and a first copy must not turn a guest of 64 GiB that uses 2 into one that uses 64.
 */
import { closeSync, openSync, readSync } from "node:fs";
import { type Backing } from "./backing-file.ts";
import { type PageRuns } from "./page-runs.ts";
import { PAGE_BYTES, type RamBlock } from "./ram-blocks.ts";
import { listDataExtents } from "./sparse-file.ts";

const CHUNK_PAGES = 65_536;
/** Bits 63 and 62 of a pagemap entry, seen in the upper half. */
const PRESENT = 0x8000_0000;
const SWAPPED = 0x4000_0000;
/** Swap type (low 5 bits) of what is no swap at all but the mark of write protection on an untouched page. */
const MARKER_TYPE = 31;

/** Adds the possibly non-zero pages of `block` to `runs`. */
export function listPopulated(pid: number, block: RamBlock, backing: Backing, runs: PageRuns): void {
  switch (backing.tag) {
    case "shared": {
      // Not the page table: shared pages leave it under memory pressure while the file still has them.
      const { fd, offset } = backing.file;
      for (const { from, to } of listDataExtents(fd, offset, offset + block.bytes)) {
        const first = Math.floor((from - offset) / PAGE_BYTES);
        runs.add(block.firstPage + first, Math.ceil((to - offset) / PAGE_BYTES) - first);
      }
      return;
    }
    case "anonymous":
      listMapped(pid, block, runs);
      return;
    case "unknown":
      runs.add(block.firstPage, block.pageCount);
  }
}

function listMapped(pid: number, block: RamBlock, runs: PageRuns): void {
  const entries = new Uint32Array(new ArrayBuffer(Math.min(CHUNK_PAGES, block.pageCount) * 8));
  const pagemap = openSync(`/proc/${pid}/pagemap`, "r");
  try {
    for (let page = 0; page < block.pageCount; page += CHUNK_PAGES) {
      const count = Math.min(CHUNK_PAGES, block.pageCount - page);
      readSync(pagemap, entries, 0, count * 8, (block.address / PAGE_BYTES + page) * 8);
      addMapped(entries, count, block.firstPage + page, runs);
    }
  } finally {
    closeSync(pagemap);
  }
}

function addMapped(entries: Uint32Array, count: number, firstPage: number, runs: PageRuns): void {
  for (let at = 0; at < count; at++) {
    const low = entries[at * 2] as number;
    const high = entries[at * 2 + 1] as number;
    if ((high & PRESENT) !== 0 || ((high & SWAPPED) !== 0 && (low & 31) !== MARKER_TYPE)) {
      runs.add(firstPage + at, 1);
    }
  }
}

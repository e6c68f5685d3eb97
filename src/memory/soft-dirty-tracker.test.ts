/**
 * Few kernels have soft-dirty bits, so the tracker is shown a directory that looks like theirs; where the kernel has them,
 * guest-memory.test.ts runs against the real thing as well.
 */
import { afterEach, beforeEach, expect, test } from "@jest/globals";
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PageRuns } from "./page-runs.ts";
import { PAGE_BYTES, planLayout } from "./ram-blocks.ts";
import { SoftDirtyTracker } from "./soft-dirty-tracker.ts";

const FIRST = 0x40_0000;
const SECOND = 0x80_0000;
const BLOCKS = planLayout([
  { name: "ram", bytes: 64 * PAGE_BYTES, address: BigInt(FIRST) },
  { name: "vram", bytes: 16 * PAGE_BYTES, address: BigInt(SECOND) },
]);

let directory: string;
let tracker: SoftDirtyTracker;
const runs = new PageRuns();

function applyBits(pages: readonly number[]): void {
  const fd = openSync(join(directory, "pagemap"), "w");
  writeSync(fd, Buffer.alloc(8), 0, 8, (SECOND / PAGE_BYTES + 16) * 8);
  for (const address of pages) {
    const entry = Buffer.alloc(8);
    entry.writeBigUInt64LE((1n << 63n) | (1n << 55n) | 0x1234n);
    writeSync(fd, entry, 0, 8, (address / PAGE_BYTES) * 8);
  }
  closeSync(fd);
}

const readCleared = (): string => readFileSync(join(directory, "clear_refs"), "utf8");

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "twinrun-softdirty-"));
  writeFileSync(join(directory, "clear_refs"), "");
  applyBits([]);
  tracker = new SoftDirtyTracker(1, BLOCKS, directory);
});

afterEach(() => {
  tracker.close();
  rmSync(directory, { recursive: true });
});

test("lists the marked pages of all blocks and of nothing else", () => {
  applyBits([FIRST - PAGE_BYTES, FIRST, FIRST + PAGE_BYTES, FIRST + 63 * PAGE_BYTES, FIRST + 64 * PAGE_BYTES, SECOND]);
  tracker.scan(runs, "stopped");
  const found = Array.from({ length: runs.length }, (_, run) => [runs.start(run), runs.count(run)]);
  expect(found).toEqual([
    [0, 2],
    [63, 2],
  ]); // 63 ends the first block, 64 begins the second.
});

test("clears the marks only while no write can fall between reading and clearing", () => {
  runs.clear();
  tracker.start();
  expect(readCleared()).toBe("4");
  writeFileSync(join(directory, "clear_refs"), "");
  tracker.scan(runs, "running");
  expect(readCleared()).toBe("");
  tracker.scan(runs, "stopped");
  expect(readCleared()).toBe("4");
});

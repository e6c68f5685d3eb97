/**
 * The property that everything rests on: a copy kept up to date by scans and reads equals the memory itself.
 */
import { afterEach, beforeEach, describe, expect, test } from "@jest/globals";
import { countSetBits } from "../lib/bits.ts";
import { FakeGuest } from "./fake-guest.ts";
import { GuestMemory, type GuestMemoryOptions } from "./guest-memory.ts";
import { PageRuns } from "./page-runs.ts";
import { PAGE_BYTES, planRamBlocks } from "./ram-blocks.ts";
import { openShim, type Shim } from "./shim.ts";
import { hasSoftDirty } from "./soft-dirty-tracker.ts";

const MIB = 1 << 20;
const BLOCKS = [
  { name: "pc.ram", offset: 0, bytes: 8 * MIB, shared: true },
  { name: "vga.vram", offset: 8 * MIB, bytes: 4 * MIB, shared: false },
  { name: "pc.rom", offset: 12 * MIB, bytes: 128 << 10, shared: false },
  { name: "/rom@etc/acpi/tables", offset: 13 * MIB, bytes: 128 << 10, shared: false },
] as const;
const PAGES = (12 * MIB + (256 << 10)) / PAGE_BYTES;

let guest: FakeGuest;
let shim: Shim;
let memory: GuestMemory;
const runs = new PageRuns();

beforeEach(async () => {
  guest = await FakeGuest.start();
  for (const { bytes, shared } of BLOCKS) {
    await guest.ask({ tag: "map", bytes, shared }, "mapped");
  }
  shim = openShim(guest.pid);
});

afterEach(async () => {
  memory.close();
  shim.close();
  await guest.stop();
});

function open(method: GuestMemoryOptions["method"], withShim = true): GuestMemory {
  const blocks = planRamBlocks(BLOCKS, shim.mappings);
  memory = GuestMemory.open({ pid: guest.pid, blocks, method, ...(withShim ? { shim } : {}) });
  return memory;
}

function readAll(): Buffer {
  const everything = new PageRuns();
  everything.add(0, memory.pageCount);
  const copy = Buffer.alloc(memory.pageCount * PAGE_BYTES);
  // Around the tracker: the comparison tracker would answer from its own copy.
  const direct = GuestMemory.open({
    pid: guest.pid,
    blocks: planRamBlocks(BLOCKS, shim.mappings),
    method: "comparison",
  });
  direct.read(everything, copy);
  direct.close();
  return copy;
}

/** Brings `copy` up to date by one scan, as an engine does for its standby. Returns the pages scanned. */
function applyScan(copy: Buffer, activity: "stopped" | "running"): number {
  memory.scan(runs, activity);
  const pages = Buffer.alloc(runs.pageCount * PAGE_BYTES);
  expect(memory.read(runs, pages)).toBe(pages.length);
  let from = 0;
  for (let run = 0; run < runs.length; run++) {
    const bytes = runs.count(run) * PAGE_BYTES;
    pages.copy(copy, runs.start(run) * PAGE_BYTES, from, from + bytes);
    from += bytes;
  }
  return runs.pageCount;
}

test("writes single blocks, in every block of RAM, and nothing beside them", () => {
  open("auto");
  const count = 700; // More ranges than one system call takes.
  const pages = Uint32Array.from({ length: count }, (_, index) => (index * 7) % PAGES);
  const masks = Uint32Array.from({ length: 2 * count }, (_, index) =>
    index % 5 === 0 ? 0xffff_ffff : (0x8421_0f81 * (index + 1)) >>> 0,
  );
  const data = Buffer.alloc(64 * countSetBits(masks));
  for (let at = 0; at < data.length; at += 64) {
    data.fill(1 + ((at >>> 6) % 255), at, at + 64);
  }
  const expected = readAll();
  let from = 0;
  for (let index = 0; index < count; index += 1) {
    for (let block = 0; block < 64; block += 1) {
      if ((((masks[2 * index + (block >>> 5)] ?? 0) >>> (block & 31)) & 1) === 1) {
        data.copy(expected, (pages[index] ?? 0) * PAGE_BYTES + block * 64, from, from + 64);
        from += 64;
      }
    }
  }
  memory.writeBlocks(pages, masks, data);
  expect(readAll().equals(expected)).toBe(true);
  expect(() => {
    memory.writeBlocks(pages, masks, data.subarray(64));
  }).toThrow(RangeError);
  expect(() => {
    memory.writeBlocks(Uint32Array.of(PAGES), Uint32Array.of(1, 0), Buffer.alloc(64));
  }).toThrow(/outside of the guest/);
  expect(readAll().equals(expected)).toBe(true);
});

const methods = ["userfaultfd", "comparison", ...(hasSoftDirty() ? (["softDirty"] as const) : [])] as const;

describe.each(methods)("%s", (method) => {
  test("sees exactly the pages that were written, in every block", async () => {
    open(method).startTracking();
    expect(memory.method).toBe(method);
    expect(memory.pageCount).toBe(PAGES);
    memory.scan(runs);
    expect(runs.pageCount).toBe(0);
    await guest.ask(
      {
        tag: "write",
        writes: [
          [0, 5, 1],
          [0, 6, 2],
          [0, 2047, 3],
          [1, 0, 4],
          [1, 1023, 5],
          [2, 3, 6],
          [3, 31, 7],
        ],
      },
      "done",
    );
    memory.scan(runs);
    const found = Array.from({ length: runs.length }, (_, run) => [runs.start(run), runs.count(run)]);
    expect(found).toEqual([
      [5, 2],
      [2047, 2],
      [3071, 1],
      [3075, 1],
      [3135, 1],
    ]);
    memory.scan(runs);
    expect(runs.pageCount).toBe(0);
  });

  test("incremental copy equals full copy, with scans while the guest writes", async () => {
    open(method).startTracking();
    const copy = readAll();
    let scanned = 0;
    for (let round = 0; round < 4; round++) {
      const written = Promise.all(
        [0, 1].map((block) => guest.ask({ tag: "writeAlways", block, forMs: 60, seed: round * 7 + block }, "done")),
      );
      const state = { writing: true };
      void written.then(() => (state.writing = false));
      while (state.writing) {
        scanned += applyScan(copy, "running");
        await new Promise((resolve) => setTimeout(resolve, 3));
      }
      applyScan(copy, "stopped");
      expect(copy.equals(readAll())).toBe(true);
    }
    expect(scanned).toBeGreaterThan(100);
  });
});

describe("choice of the method", () => {
  test("auto takes userfaultfd where the shim offers it", () => {
    open("auto").startTracking();
    expect(memory.method).toBe("userfaultfd");
    expect(memory.passedOver).toEqual([]);
  });

  test("auto without a shim falls back and says why", () => {
    open("auto", false).startTracking();
    expect(memory.method).toBe(hasSoftDirty() ? "softDirty" : "comparison");
    expect(memory.passedOver[0]).toMatch(/^userfaultfd: .*shim/);
  });

  test("a demanded method that does not work is an error with the remedy", () => {
    open("userfaultfd", false);
    expect(() => {
      memory.startTracking();
    }).toThrow(/cannot be tracked .*set tracker to auto/);
  });
});

describe("untouched memory", () => {
  function touchedPages(): number[] {
    memory.listPopulated(runs);
    return Array.from({ length: runs.length }, (_, run) => [runs.start(run), runs.count(run)]).flat();
  }

  test("only touched pages are listed, and listing does not touch any", async () => {
    open("userfaultfd");
    expect(touchedPages()).toEqual([]);
    await guest.ask(
      {
        tag: "write",
        writes: [
          [0, 5, 1],
          [0, 6, 2],
          [1, 9, 0],
          [2, 0, 1],
        ],
      },
      "done",
    );
    expect(touchedPages()).toEqual([5, 2, 2048 + 9, 1, 3072, 1]);
    memory.startTracking(); // Protecting untouched pages must not make them count.
    memory.scan(runs);
    expect(touchedPages()).toEqual([5, 2, 2048 + 9, 1, 3072, 1]);
  });

  test("zeros: long runs give memory back, short ones and private blocks are written", async () => {
    open("auto");
    runs.clear();
    runs.add(0, 3000);
    memory.write(runs, Buffer.alloc(3000 * PAGE_BYTES, 0xaa));
    runs.clear();
    runs.add(10, 2);
    runs.add(100, 2000);
    memory.applyZeros(runs);
    const all = readAll();
    const isFilled = (page: number, value: number): boolean =>
      all.subarray(page * PAGE_BYTES, (page + 1) * PAGE_BYTES).every((byte) => byte === value);
    expect([9, 12, 99, 2100, 2999].every((page) => isFilled(page, 0xaa))).toBe(true);
    expect([10, 11, 100, 2047, 2048, 2099].every((page) => isFilled(page, 0))).toBe(true);
    // readAll() has touched the holes again, so they are made once more to be counted.
    memory.applyZeros(runs);
    expect(touchedPages()).toEqual([0, 100, 2048, 1088]); // The private blocks keep theirs.
    runs.clear();
    runs.add(PAGES, 1);
    expect(() => {
      memory.applyZeros(runs);
    }).toThrow(/outside of the guest/);
  });
});

describe("copying", () => {
  test("writes reach the guest, across blocks and for more ranges than one call takes", () => {
    open("auto");
    runs.clear();
    for (let page = 0; page < PAGES; page += 2) {
      runs.add(page, page % 512 === 0 ? 2 : 1);
    }
    expect(runs.length).toBeGreaterThan(1024);
    const source = Buffer.alloc(runs.pageCount * PAGE_BYTES + 100);
    for (let at = 0; at < source.length; at += 4) {
      source.writeInt32LE(at * 31, at);
    }
    memory.write(runs, source, 100);
    const target = Buffer.alloc(source.length);
    expect(memory.read(runs, target, 100)).toBe(runs.pageCount * PAGE_BYTES);
    expect(target.subarray(100).equals(source.subarray(100))).toBe(true);
    const all = readAll();
    expect(all.subarray(0, 2 * PAGE_BYTES).equals(source.subarray(100, 100 + 2 * PAGE_BYTES))).toBe(true);
    expect(all.subarray(3 * PAGE_BYTES, 4 * PAGE_BYTES).equals(Buffer.alloc(PAGE_BYTES))).toBe(true);
  });

  test("refuses what lies outside of guest or buffer", () => {
    open("auto");
    runs.clear();
    runs.add(PAGES - 1, 2);
    expect(() => memory.read(runs, Buffer.alloc(2 * PAGE_BYTES))).toThrow(/outside of the guest/);
    expect(() => memory.read(runs, Buffer.alloc(PAGE_BYTES))).toThrow(/do not fit/);
  });

  test("a block that went away is an error, not zeros", async () => {
    open("auto");
    await guest.ask({ tag: "unmap", block: 1 }, "done");
    runs.clear();
    runs.add(0, 3000);
    expect(() => memory.read(runs, Buffer.alloc(3000 * PAGE_BYTES))).toThrow(/a RAM block was unmapped/);
  });

  test("a guest that died is an error", async () => {
    open("auto");
    await guest.stop();
    runs.clear();
    runs.add(0, 1);
    expect(() => memory.read(runs, Buffer.alloc(PAGE_BYTES))).toThrow(/ESRCH.*alive/);
  });
});

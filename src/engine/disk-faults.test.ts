import { afterEach, beforeEach, expect, test } from "@jest/globals";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DiskFaults, isOfDisk, planFault, planRestMs, sayDiskFault } from "./disk-faults.ts";

let directory: string;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "twinrun-faults-"));
});

afterEach(() => {
  rmSync(directory, { recursive: true });
});

/** By the wall clock. */
function later(ms: number, act: () => void): void {
  const { now } = Date;
  try {
    Date.now = () => now() + ms;
    act();
  } finally {
    Date.now = now;
  }
}

test("a fault outlives the engine, and each more lets the disk rest longer, up to half a minute", () => {
  const first = new DiskFaults(directory);
  expect([first.list(), first.restMs]).toEqual([[], 0]);
  first.note("disk0", { message: "worn", isFull: false });
  const second = new DiskFaults(directory);
  later(1_000, () => {
    second.note("disk0", { message: "worn still", isFull: false });
  });
  expect(second.list()).toMatchObject([{ message: "worn still", count: 2, isHealed: false }]);
  later(1_000, () => {
    expect(second.restMs).toBeGreaterThan(1_500);
    expect(second.restMs).toBeLessThanOrEqual(2_000);
  });
  expect([1, 2, 5, 6, 100].map(planRestMs)).toEqual([1_000, 2_000, 16_000, 30_000, 30_000]);
});

test("requests that fail together are one failure: a disk with many under way is asked again as soon as one with few", () => {
  const faults = new DiskFaults(directory);
  for (let request = 0; request < 8; request += 1) {
    faults.note("disk0", { message: `request ${request}`, isFull: false });
  }
  expect(faults.list()).toMatchObject([{ message: "request 7", count: 1 }]);
  expect(faults.restMs).toBeLessThanOrEqual(1_000);
});

test("a healed one is not spoken of; if it comes back soon it counts on, if late from the beginning", () => {
  const faults = new DiskFaults(directory);
  faults.note("disk0", { message: "worn", isFull: false });
  faults.heal();
  expect([faults.list(), faults.restMs]).toEqual([[], 0]);
  faults.note("disk0", { message: "worn", isFull: false });
  expect(faults.list()).toMatchObject([{ count: 2 }]);
  const [fault] = faults.list();
  const late = planFault(fault, { message: "full", isFull: true }, Date.now() + 3_600_000);
  expect(late).toMatchObject({ message: "full", isFull: true, count: 1 });
});

test("a clock that was set back does not let a disk rest for ever", () => {
  const faults = new DiskFaults(directory);
  faults.note("disk0", { message: "worn", isFull: false });
  later(-3_600_000, () => {
    expect(faults.restMs).toBeLessThanOrEqual(1_000);
  });
});

test("both sides know a disk's fault from another reason", () => {
  expect(isOfDisk(sayDiskFault("disk0", "writing failed"))).toBe(true);
  expect(isOfDisk("epoch 4 is not whole")).toBe(false);
});

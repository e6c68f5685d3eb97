import { afterEach, beforeEach, expect, test } from "@jest/globals";
import { closeSync, mkdtempSync, openSync, rmSync, truncateSync, writeFileSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { compareDisks } from "./disk-comparison.ts";

const mebibyte = 1024 * 1024;
let directory = "";
let a = "";
let b = "";

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "twinrun-disks-"));
  [a, b] = [join(directory, "a"), join(directory, "b")];
  for (const path of [a, b]) {
    writeFileSync(path, "");
    truncateSync(path, 9 * mebibyte + 512);
  }
});
afterEach(() => {
  rmSync(directory, { recursive: true });
});

function write(path: string, offset: number, text: string): void {
  const file = openSync(path, "r+");
  writeSync(file, text, offset);
  closeSync(file);
}

test("equal disks are equal", async () => {
  write(a, 5 * mebibyte, "same");
  write(b, 5 * mebibyte, "same");
  expect(await compareDisks(a, b, 500)).toEqual({ bytes: 9 * mebibyte + 512, roundsCount: 1, differingOffsets: [] });
});

test("every block that stays different is found, the last short one too", async () => {
  write(a, 5 * mebibyte + 7, "x");
  write(b, 9 * mebibyte + 511, "y");
  expect((await compareDisks(a, b, 500)).differingOffsets).toEqual([5 * mebibyte, 9 * mebibyte]);
});

test("a write that is on its way to the other side is no difference", async () => {
  write(a, 3 * mebibyte, "new");
  setTimeout(() => {
    write(b, 3 * mebibyte, "new");
  }, 250);
  const { differingOffsets, roundsCount } = await compareDisks(a, b, 5000);
  expect(differingOffsets).toEqual([]);
  expect(roundsCount).toBeGreaterThan(1);
});

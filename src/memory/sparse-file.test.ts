import { afterEach, beforeEach, expect, test } from "@jest/globals";
import { closeSync, ftruncateSync, mkdtempSync, openSync, readSync, rmSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { applyHole, listDataExtents } from "./sparse-file.ts";

const MIB = 1 << 20;
let directory: string;
let fd: number;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "twinrun-sparse-"));
  fd = openSync(join(directory, "disk"), "w+");
  ftruncateSync(fd, 64 * MIB);
});

afterEach(() => {
  closeSync(fd);
  rmSync(directory, { recursive: true });
});

test("an empty disk has no data", () => {
  expect(listDataExtents(fd, 0, 64 * MIB)).toEqual([]);
});

test("data is found where it was written, and clipped to what was asked for", () => {
  writeSync(fd, Buffer.alloc(MIB, 1), 0, MIB, 8 * MIB);
  writeSync(fd, Buffer.alloc(MIB, 2), 0, MIB, 63 * MIB);
  expect(listDataExtents(fd, 0, 64 * MIB)).toEqual([
    { from: 8 * MIB, to: 9 * MIB },
    { from: 63 * MIB, to: 64 * MIB },
  ]);
  expect(listDataExtents(fd, 8 * MIB + 4096, 8 * MIB + 8192)).toEqual([{ from: 8 * MIB + 4096, to: 8 * MIB + 8192 }]);
  expect(listDataExtents(fd, 9 * MIB, 63 * MIB)).toEqual([]);
});

test("a hole reads as zeros and holds no data", () => {
  writeSync(fd, Buffer.alloc(4 * MIB, 7), 0, 4 * MIB, 0);
  applyHole(fd, MIB, 2 * MIB);
  expect(listDataExtents(fd, 0, 64 * MIB)).toEqual([
    { from: 0, to: MIB },
    { from: 3 * MIB, to: 4 * MIB },
  ]);
  const part = Buffer.alloc(2 * MIB, 9);
  readSync(fd, part, 0, part.length, MIB);
  expect(part.every((byte) => byte === 0)).toBe(true);
});

test("what cannot tell counts as data", () => {
  const tun = openSync("/dev/zero", "r");
  expect(listDataExtents(tun, 0, 4096)).toEqual([{ from: 0, to: 4096 }]);
  expect(() => {
    applyHole(tun, 0, 4096);
  }).toThrow(/fallocate failed with \w+: write zeros instead/);
  closeSync(tun);
});

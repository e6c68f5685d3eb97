import { afterEach, beforeEach, describe, expect, test } from "@jest/globals";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { allocateAligned, openForReading } from "../memory/block-device.ts";
import { applyHole } from "../memory/sparse-file.ts";
import { StandbyDisk } from "./standby-disk.ts";

const BYTES = 8 << 20;
let directory: string;
let file: string;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "twinrun-standby-"));
  file = join(directory, "disk.raw");
  writeFileSync(file, Buffer.alloc(BYTES, 7));
});

afterEach(() => {
  rmSync(directory, { recursive: true });
});

test("a file takes the size that it is told", async () => {
  const disk = await StandbyDisk.open(file, applyHole);
  disk.resize(BYTES / 2);
  expect([disk.bytes, statSync(file).size]).toEqual([BYTES / 2, BYTES / 2]);
  disk.resize(2 * BYTES);
  disk.write(2 * BYTES - 4, Buffer.from("tail"));
  await disk.settle();
  await disk.close();
  const content = readFileSync(file);
  expect(content.subarray(BYTES / 2, 2 * BYTES - 4).every((byte) => byte === 0)).toBe(true);
  expect(content.subarray(-4).toString()).toBe("tail");
});

describe("a block device", () => {
  let device = "";

  beforeEach(() => {
    device = execFileSync("losetup", ["--find", "--show", "--direct-io=on", file], { encoding: "utf8" }).trim();
  });

  afterEach(() => {
    execFileSync("losetup", ["--detach", device]);
  });

  test("is written, zeroed and read, whatever the page cache had of it", async () => {
    readFileSync(device); // All of it is in the page cache now.
    const disk = await StandbyDisk.open(device, applyHole);
    expect([disk.bytes, disk.isDevice]).toEqual([BYTES, true]);
    disk.write(4096, Buffer.from("written"));
    disk.zero(1 << 20, 2 << 20);
    disk.zero(5_000_000, 100); // Less than a sector.
    disk.zero(BYTES - 512, 512);
    await disk.settle();

    // QEMU would find it now, and so does who reads past the page cache.
    const { file: reading, bytes, isDevice } = await openForReading(device);
    expect([bytes, isDevice]).toEqual([BYTES, true]);
    const read = allocateAligned(BYTES);
    await reading.read(read, 0, BYTES, 0);
    await reading.close();
    const expected = Buffer.alloc(BYTES, 7);
    expected.write("written", 4096);
    expected.fill(0, 1 << 20, 3 << 20);
    expected.fill(0, 5_000_000, 5_000_100);
    expected.fill(0, BYTES - 512);
    expect(read.equals(expected)).toBe(true);
    await disk.sync();
    await disk.close();
  });
});

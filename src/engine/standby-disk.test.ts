import { afterEach, beforeEach, describe, expect, test } from "@jest/globals";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { allocateAligned, openForReading } from "../memory/block-device.ts";
import { applyHole } from "../memory/sparse-file.ts";
import { monotonicMs } from "../telemetry/clock.ts";
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
  const disk = await StandbyDisk.open({ id: "disk", path: file }, applyHole);
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

test.each(Array.from({ length: 16 }, (_, index) => index))(
  "a write that is given just as the one before is done, %i turns later, is written too",
  async (turns) => {
    const disk = await StandbyDisk.open({ id: "disk", path: file }, () => {
      let later = Promise.resolve();
      for (let turn = 0; turn < turns; turn += 1) {
        later = later.then(() => undefined);
      }
      void later.then(() => {
        disk.write(0, Buffer.from("late"));
      });
    });
    disk.zero(4096, 4096);
    await new Promise((resolve) => setImmediate(resolve));
    await disk.settle();
    expect(readFileSync(file).subarray(0, 4).toString()).toBe("late");
    await disk.close();
  },
);

test("a disk that fails says so once, by its name, and nothing is written after that", async () => {
  const disk = await StandbyDisk.open({ id: "disk0", path: file }, () => {
    throw new Error("EIO: i/o error");
  });
  const failures: string[] = [];
  disk.onFailed = ({ message }) => failures.push(message);
  disk.zero(0, 4096);
  disk.write(4096, Buffer.alloc(4096, 9));
  await expect(disk.settle()).rejects.toMatchObject({ detail: { code: "StandbyDiskFailed", disk: "disk0" } });
  await expect(disk.sync()).rejects.toThrow(/^disk disk0: writing .*disk.raw failed: EIO.*; free or replace/);
  expect(failures).toHaveLength(1);
  await disk.close();
  expect(readFileSync(file).every((byte) => byte === 7)).toBe(true);
});

test("a request that does not come back is a failure as well", async () => {
  const disk = await StandbyDisk.open({ id: "disk0", path: file }, applyHole);
  const failures: string[] = [];
  disk.onFailed = ({ message }) => failures.push(message);
  disk.write(0, Buffer.alloc(4096, 9));
  disk.checkStall(monotonicMs() + 4_000);
  expect(failures).toEqual([]);
  disk.checkStall(monotonicMs() + 6_000);
  expect(failures).toEqual([expect.stringContaining("no answer within 5000 ms")]);
  await disk.close();
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
    const disk = await StandbyDisk.open({ id: "disk", path: device }, applyHole);
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

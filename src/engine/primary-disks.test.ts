import { afterEach, beforeEach, expect, test } from "@jest/globals";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { GRANULE_BYTES } from "./dirty-map.ts";
import { type DiskStream, hashGranule, PrimaryDisks } from "./primary-disks.ts";

/** A stream as the standby takes it: what was sent, in order, laid over the copy that the standby has. */
class Stream implements DiskStream {
  readonly copy: Buffer;
  sentBytes = 0;

  constructor(copy: Buffer) {
    this.copy = copy;
  }

  sendDisk(_disk: number, offset: number, data: Buffer): void {
    data.copy(this.copy, offset);
    this.sentBytes += data.length;
  }

  sendDiskZero(_disk: number, offset: number, bytes: number): void {
    this.copy.fill(0, offset, offset + bytes);
  }

  sendDiskWrite(disk: number, offset: number, data: Buffer): void {
    this.sendDisk(disk, offset, data);
  }

  sendDiskWriteZero(disk: number, offset: number, bytes: number): void {
    this.sendDiskZero(disk, offset, bytes);
  }

  acknowledged(): Promise<void> | undefined {
    return undefined;
  }

  room(): Promise<void> | undefined {
    return undefined;
  }

  writeRoom(): Promise<void> | undefined {
    return undefined;
  }
}

/** What an ended session's stream does: it swallows what it is given. */
class EndedStream extends Stream {
  override sendDisk(): void {
    return;
  }
}

const diskLength = 8 * GRANULE_BYTES;
let directory: string;
let content: Buffer;
let disks: PrimaryDisks;

beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), "twinrun-disks-"));
  content = Buffer.alloc(diskLength, 7);
  writeFileSync(pathOf(), content);
  const rest = { isReadOnly: false, isElastic: false, bytesInQemu: undefined };
  disks = await PrimaryDisks.open([{ id: "disk", device: "disk", path: pathOf(), ...rest }]);
});

afterEach(async () => {
  await disks.close();
  rmSync(directory, { recursive: true });
});

const pathOf = (): string => join(directory, "disk");

/** The standby has old data in two granules, and says so by its hashes. */
function staleCopy(): Buffer {
  const copy = Buffer.from(content);
  copy.fill(1, 3 * GRANULE_BYTES, 5 * GRANULE_BYTES);
  return copy;
}

const hashesOf = (copy: Buffer): Buffer =>
  Buffer.concat(
    Array.from({ length: 8 }, (_, index) =>
      hashGranule(copy.subarray(index * GRANULE_BYTES, (index + 1) * GRANULE_BYTES)),
    ),
  );

test("a session that ended while disks were compared takes nothing from the next one", async () => {
  const ended = new EndedStream(Buffer.alloc(diskLength));
  disks.beginSession(ended, "hashes");
  disks.endSession();
  const copy = staleCopy();
  const stream = new Stream(copy);
  disks.beginSession(stream, "hashes");
  await disks.compare(0, 0, hashesOf(copy));
  await disks.copyLacking(ended); // Its comparison is over only now.
  await disks.copyLacking(stream);
  expect(copy.equals(content)).toBe(true);
});

test("a whole copy sends everything; one that was interrupted compares what had arrived and sends the rest", async () => {
  const copy = Buffer.from(content);
  const first = new Stream(copy);
  expect(disks.beginSession(first, "full")).toBe(false);
  expect(disks.leftBytes).toBe(diskLength);
  disks.endSession(); // Before anything was sent.

  const second = new Stream(copy);
  expect(disks.beginSession(second, "full")).toBe(true);
  await disks.compare(0, 0, hashesOf(copy));
  expect(disks.leftBytes).toBe(diskLength);
  await disks.copyLacking(second);
  expect(second.sentBytes).toBe(diskLength);
  expect(disks.leftBytes).toBe(0);
  disks.endSession();

  // The next one that is asked for begins anew.
  expect(disks.beginSession(new Stream(copy), "full")).toBe(false);
});

test("a disk that cannot be read says which one it is, and what to do", async () => {
  await disks.close();
  const stream = new Stream(Buffer.alloc(diskLength));
  disks.beginSession(stream, "full");
  await expect(disks.copyLacking(stream)).rejects.toThrow(/^disk disk: reading .* failed: .*; the standby cannot/);
  await expect(disks.compare(0, 0, Buffer.alloc(8 * 16, 1))).rejects.toMatchObject({ detail: { disk: "disk" } });
});

import { afterEach, beforeEach, expect, test } from "@jest/globals";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { GRANULE_BYTES } from "./dirty-map.ts";
import { type DiskStream, hashGranule, PrimaryDisks } from "./primary-disks.ts";

/** A stream as the standby takes it: what was sent, in order, laid over the copy that the standby has. */
class Stream implements DiskStream {
  readonly copy: Buffer;

  constructor(copy: Buffer) {
    this.copy = copy;
  }

  sendDisk(_disk: number, offset: number, data: Buffer): void {
    data.copy(this.copy, offset);
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

  room(): Promise<void> | undefined {
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
  disks.beginSession(ended, "all");
  disks.endSession();
  const copy = staleCopy();
  const stream = new Stream(copy);
  disks.beginSession(stream, "all");
  await disks.compare(0, 0, hashesOf(copy));
  await disks.copyLacking(ended); // Its comparison is over only now.
  await disks.copyLacking(stream);
  expect(copy.equals(content)).toBe(true);
});

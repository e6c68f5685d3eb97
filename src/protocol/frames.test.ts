import { describe, expect, test } from "@jest/globals";
import { AssertionFailed } from "../lib/assert.ts";
import * as frames from "./frames.ts";

const hex = (parts: frames.FrameParts): string => Buffer.concat(parts).toString("hex");
const bytes = (text: string): string => text.replaceAll(" ", "");
const runs = (starts: number[], counts: number[]): frames.RunTable => ({
  starts: Uint32Array.from(starts),
  counts: Uint32Array.from(counts),
});

/** The format byte by byte: whoever has to change a row has changed the protocol and raises PROTOCOL_VERSION. */
test.each<{ what: string; parts: frames.FrameParts; are: string }>([
  {
    what: "a message",
    parts: frames.encodeMessage({ tag: "guestShutDown" }),
    are: `5457 04 01 0000 0000 00000000 17000000 ${Buffer.from('{"tag":"guestShutDown"}').toString("hex")}`,
  },
  {
    what: "compressed pages",
    parts: frames.encodePages(0x060504030201, runs([1, 16], [2, 3]), Uint8Array.of(0xaa, 0xbb), 5 * 4096),
    are: "5457 04 02 0100 0506 01020304 1a000000  02000000 00500000 01000000 10000000 02000000 03000000 aabb",
  },
  {
    what: "zero pages",
    parts: frames.encodeZeroPages(0, runs([0xfffffffe], [2])),
    are: "5457 04 03 0000 0000 00000000 0c000000  01000000 feffffff 02000000",
  },
  {
    what: "a disk write",
    parts: frames.encodeDiskWrite(7, 2, 0x0102030405, Uint8Array.of(9)),
    are: "5457 04 04 0000 0000 07000000 11000000  02 00000000000000 0504030201000000 09",
  },
  {
    what: "zeros on a disk",
    parts: frames.encodeDiskZero(7, 0, 512, 2 ** 40),
    are: "5457 04 05 0000 0000 07000000 18000000  00 00000000000000 0002000000000000 0000000000010000",
  },
  {
    what: "device state",
    parts: frames.encodeDeviceState(1, Uint8Array.of(1, 2)),
    are: "5457 04 06 0000 0000 01000000 02000000  0102",
  },
  {
    what: "compressed device state",
    parts: frames.encodeDeviceState(1, Uint8Array.of(1, 2), 300),
    are: "5457 04 06 0100 0000 01000000 06000000  2c010000 0102",
  },
  {
    what: "the end of an epoch",
    parts: frames.encodeEpochEnd(1, { pageCount: 1, diskRecords: 2, bytes: 3, deviceStateBytes: 4 }),
    are: "5457 04 07 0000 0000 01000000 14000000  01000000 02000000 0300000000000000 04000000",
  },
  {
    what: "hashes",
    parts: frames.encodeDiskHashes(1, 5, new Uint8Array(32).fill(0xcc)),
    are: `5457 04 08 0000 0000 00000000 2c000000  01 000000 05000000 02000000 ${"cc".repeat(32)}`,
  },
  {
    what: "the wish for hashes",
    parts: frames.encodeDiskHashesWanted(1, 65536),
    are: "5457 04 09 0000 0000 00000000 08000000  01 000000 00000100",
  },
  {
    what: "the end of the hashes",
    parts: frames.encodeDiskHashesEnd(3),
    are: "5457 04 0a 0000 0000 00000000 04000000  03 000000",
  },
  {
    what: "changes of pages",
    parts: frames.encodePageDeltas(1, {
      pages: Uint32Array.of(3, 9),
      masks: Uint32Array.of(0x80000000, 0, 0, 1),
      data: new Uint8Array(128).fill(0xdd),
    }),
    are: `5457 04 0c 0000 0000 01000000 9c000000  02000000 03000000 09000000 00000080 00000000 00000000 01000000 ${"dd".repeat(128)}`,
  },
  {
    what: "changes of the device state",
    parts: frames.encodeStateDelta(1, { rawBytes: 2049, masks: Uint32Array.of(0, 1), data: new Uint8Array(64) }),
    are: `5457 04 0d 0000 0000 01000000 4c000000  01080000 00000000 01000000 ${"00".repeat(64)}`,
  },
  { what: "the end of the bulk", parts: frames.encodeBulkEnd(), are: "5457 04 0b 0000 0000 00000000 00000000" },
])("the bytes of $what", ({ parts, are }) => {
  expect(hex(parts)).toBe(bytes(are));
});

test("data is passed on and not copied", () => {
  const data = new Uint8Array(4096);
  expect(frames.encodePages(1, runs([0], [1]), data)[1]).toBe(data);
  expect(frames.encodeDiskWrite(1, 0, 0, data)[1]).toBe(data);
  expect(frames.encodeDeviceState(1, data)[1]).toBe(data);
});

test("a run table may be part of larger arrays", () => {
  const large = runs([9, 4, 9], [9, 2, 9]);
  const table = { starts: large.starts.subarray(1, 2), counts: large.counts.subarray(1, 2) };
  expect(hex(frames.encodeZeroPages(1, table))).toBe(hex(frames.encodeZeroPages(1, runs([4], [2]))));
});

test("bytes of an epoch are counted without headers", () => {
  expect(frames.payloadBytesOf(frames.encodeDiskWrite(1, 0, 0, new Uint8Array(100)))).toBe(116);
});

describe("a sender that would be refused dies instead", () => {
  const page = new Uint8Array(4096);
  const many = frames.PAGES_PER_FRAME_MAX + 1;
  test.each<[string, () => unknown]>([
    ["pages without their bytes", () => frames.encodePages(1, runs([0], [2]), page)],
    ["too many pages", () => frames.encodePages(1, runs([0], [many]), page, many * 4096)],
    ["starts without counts", () => frames.encodeZeroPages(1, runs([0, 1], [1]))],
    ["no runs", () => frames.encodeZeroPages(1, runs([], []))],
    ["an empty run", () => frames.encodeZeroPages(1, runs([5], [0]))],
    ["a run past the last page", () => frames.encodeZeroPages(1, runs([2 ** 32 - 1], [2]))],
    ["an empty write", () => frames.encodeDiskWrite(1, 0, 0, new Uint8Array(0))],
    ["a disk too many", () => frames.encodeDiskWrite(1, 256, 0, page)],
    ["a write past all disks", () => frames.encodeDiskWrite(1, 0, Number.MAX_SAFE_INTEGER, page)],
    ["an offset of half a byte", () => frames.encodeDiskWrite(1, 0, 0.5, page)],
    ["zeros of no length", () => frames.encodeDiskZero(1, 0, 0, 0)],
    ["zeros past all disks", () => frames.encodeDiskZero(1, 0, Number.MAX_SAFE_INTEGER, 1)],
    ["device state of no epoch", () => frames.encodeDeviceState(0, page)],
    ["no device state", () => frames.encodeDeviceState(1, new Uint8Array(0))],
    ["an epoch past the last", () => frames.encodeDeviceState(2 ** 48, page)],
    [
      "changes without their blocks",
      () => frames.encodePageDeltas(1, { pages: Uint32Array.of(0), masks: Uint32Array.of(3, 0), data: page }),
    ],
    [
      "device state with a mask too few",
      () => frames.encodeStateDelta(1, { rawBytes: 2049, masks: Uint32Array.of(0), data: new Uint8Array(0) }),
    ],
    ["half a hash", () => frames.encodeDiskHashes(0, 0, new Uint8Array(24))],
    ["hashes past the last granule", () => frames.encodeDiskHashes(0, 2 ** 32 - 1, new Uint8Array(32))],
    ["a message that is too long", () => frames.encodeMessage(longHello())],
  ])("%s", (_, encode) => {
    expect(encode).toThrow(AssertionFailed);
  });
});

function longHello(): Parameters<typeof frames.encodeMessage>[0] {
  const blocks = Array.from({ length: 1000 }, (_, index) => ({ name: `block ${index}`.repeat(20), bytes: 1 }));
  const shape = { qemuVersion: "7.2", machine: "pc", ramBlocks: blocks, disks: [], devices: [] };
  return { tag: "hello", version: 1, guest: "web", node: "a", term: 1, shape };
}

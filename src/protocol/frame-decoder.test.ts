import { expect, test } from "@jest/globals";
import fc from "fast-check";
import { anyEncodedFrame, cutChunks, joinParts } from "../../test/build/wire-frames.ts";
import { FrameDecoder } from "./frame-decoder.ts";
import * as frames from "./frames.ts";

const page = (count: number): frames.RunTable => ({ starts: Uint32Array.of(3), counts: Uint32Array.of(count) });

function decodeOne(chunks: readonly Uint8Array[]): frames.Frame {
  const decoder = new FrameDecoder();
  const found = chunks.flatMap((chunk) => decoder.push(chunk));
  expect(found).toHaveLength(1);
  return found[0] as frames.Frame;
}

test("what was encoded comes out again, however the stream is cut", () => {
  const sizes = fc.array(fc.oneof(fc.integer({ min: 1, max: 40 }), fc.integer({ min: 1, max: 70_000 })), {
    minLength: 1,
  });
  const property = fc.property(fc.array(anyEncodedFrame, { minLength: 1, maxLength: 12 }), sizes, (encoded, cuts) => {
    const decoder = new FrameDecoder();
    const chunks = cutChunks(joinParts(encoded.flatMap(({ parts }) => parts)), cuts);
    const found = chunks.flatMap((chunk) => decoder.push(chunk));
    expect(found).toStrictEqual(encoded.map(({ frame }) => frame));
  });
  fc.assert(property, { numRuns: 300 });
});

test("a frame is there with its last byte and not before", () => {
  for (const parts of [frames.encodeBulkEnd(), frames.encodeDiskWrite(1, 0, 0, new Uint8Array(50))]) {
    const bytes = joinParts(parts);
    const decoder = new FrameDecoder();
    const found = cutChunks(bytes, [1]).map((chunk) => decoder.push(chunk).length);
    expect(found).toEqual([...new Array<number>(bytes.length - 1).fill(0), 1]);
  }
});

test("frames stay as they are when later chunks come", () => {
  const writes = [1, 2, 3].map((value) => frames.encodeDiskWrite(1, 0, 0, new Uint8Array(3000).fill(value)));
  const decoder = new FrameDecoder();
  const found = cutChunks(joinParts(writes.flat()), [1000]).flatMap((chunk) => decoder.push(chunk));
  expect(found.map((frame) => frame.tag === "diskWrite" && [...new Set(frame.data)])).toEqual([[1], [2], [3]]);
});

test("a payload that makes up most of its chunk is not copied", () => {
  const chunk = joinParts(frames.encodePages(1, page(4), new Uint8Array(4 * 4096)));
  const frame = decodeOne([chunk]);
  expect(frame.tag === "pages" && frame.data.buffer).toBe(chunk.buffer);
  expect(frame.tag === "pages" && frame.starts.buffer).toBe(chunk.buffer);
});

test("a small payload does not keep a large chunk in memory", () => {
  const memory = new Uint8Array(64 * 1024);
  const bytes = joinParts(frames.encodeDiskWrite(1, 0, 0, new Uint8Array(512).fill(5)));
  memory.set(bytes, 7);
  const frame = decodeOne([memory.subarray(7, 7 + bytes.length)]);
  expect(frame.tag === "diskWrite" && frame.data.buffer.byteLength).toBe(512);
  memory.fill(0);
  expect(frame.tag === "diskWrite" && frame.data).toEqual(new Uint8Array(512).fill(5));
});

test("a payload in pieces gets memory for itself, once", () => {
  const bytes = joinParts(frames.encodePages(1, page(8), new Uint8Array(8 * 4096).fill(6)));
  const frame = decodeOne(cutChunks(bytes, [16384]));
  expect(frame.tag === "pages" && frame.data.buffer.byteLength).toBe(bytes.length - frames.HEADER_BYTES);
  expect(frame.tag === "pages" && frame.starts.buffer === frame.data.buffer).toBe(true);
});

test("run tables at odd addresses are read", () => {
  const bytes = joinParts(frames.encodePages(1, page(1), new Uint8Array(4096).fill(4)));
  const chunk = new Uint8Array(bytes.length + 1);
  chunk.set(bytes, 1);
  const frame = decodeOne([chunk.subarray(1)]);
  expect(frame).toMatchObject({ starts: Uint32Array.of(3), counts: Uint32Array.of(1) });
});

test("a Buffer goes in, plain arrays come out", () => {
  const frame = decodeOne([Buffer.concat(frames.encodeDiskWrite(1, 0, 0, new Uint8Array(4096)))]);
  expect(frame.tag === "diskWrite" && Buffer.isBuffer(frame.data)).toBe(false);
});

test("after the first bad byte nothing is decoded any more", () => {
  const decoder = new FrameDecoder();
  expect(() => decoder.push(new Uint8Array(16))).toThrow(expect.objectContaining({ name: "BadMagic" }));
  expect(() => decoder.push(joinParts(frames.encodeBulkEnd()))).toThrow(expect.objectContaining({ name: "BadMagic" }));
});

test("another version is named beside our own", () => {
  const bytes = joinParts(frames.encodeBulkEnd());
  bytes[2] = 9;
  const detail = { code: "UnsupportedVersion", theirs: 9, ours: 4 };
  expect(() => new FrameDecoder().push(bytes)).toThrow(expect.objectContaining({ detail }));
  expect(() => new FrameDecoder().push(bytes)).toThrow(/version 9, this side 4: run the same release/);
});

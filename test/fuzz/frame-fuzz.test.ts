/**
 * Bytes that no engine of ours sends: each is refused with a Failure of the right code, and none makes the decoder
 * reserve more than the limit of a frame. The corpus is a table rather than files: a row says what is wrong with it.
 */
import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { Failure } from "../../src/lib/failure.ts";
import { FrameDecoder } from "../../src/protocol/frame-decoder.ts";
import { PROTOCOL_VERSION } from "../../src/protocol/messages.ts";
import { anyEncodedFrame, cutChunks, joinParts } from "../build/wire-frames.ts";

const MIB = 1024 * 1024;

type Header = { magic?: string; version?: number; flags?: number; epoch?: number; epochHigh?: number; length?: number };

/** A frame by hand, for the encoders refuse to make these. `length` is that of the payload unless it is given. */
function frame(type: number, payload: readonly Uint8Array[], header: Header = {}): Uint8Array {
  const body = Buffer.concat(payload);
  const {
    magic = "TW",
    version = PROTOCOL_VERSION,
    flags = 0,
    epoch = 0,
    epochHigh = 0,
    length = body.length,
  } = header;
  const head = [Buffer.from(magic), u8(version), u8(type), u16(flags), u16(epochHigh), u32(epoch), u32(length)];
  return new Uint8Array(Buffer.concat([...head, body]));
}

const u8 = (...values: number[]): Buffer => Buffer.from(values);
const u16 = (value: number): Buffer => Buffer.from(Uint16Array.of(value).buffer);
const u32 = (...values: number[]): Buffer => Buffer.from(Uint32Array.from(values).buffer);
const u64 = (...values: bigint[]): Buffer => Buffer.from(BigUint64Array.from(values).buffer);
const some = (count: number): Uint8Array => new Uint8Array(count).fill(1);
const disk = (number: number): Buffer => u8(number, 0, 0, 0, 0, 0, 0, 0);
const json = (text: string): Buffer => Buffer.from(text);

test("what is just within bounds is no failure", () => {
  const good = [
    frame(3, [u32(1, 1, 0xffffffff)]),
    frame(4, [disk(255), u64(2n ** 52n), some(1)], { epoch: 0xffffffff, epochHigh: 0xffff }),
    frame(8, [u32(0, 0xffffffff, 1), some(16)]),
    frame(1, [json(`{"tag":"guestShutDown"}${" ".repeat(65536 - 23)}`)]),
    frame(6, [u32(64 * MIB), some(1)], { flags: 1, epoch: 1 }),
  ];
  expect(findFailure(good)).toBeUndefined();
});

describe("corpus", () => {
  test.each<{ wrong: string; bytes: Uint8Array; code: string; says?: RegExp }>([
    { wrong: "zeros", bytes: new Uint8Array(16), code: "BadMagic" },
    { wrong: "letters the wrong way round", bytes: frame(11, [], { magic: "WT" }), code: "BadMagic" },
    { wrong: "an HTTP request", bytes: Buffer.from("GET / HTTP/1.1\r\n\r\n"), code: "BadMagic" },
    { wrong: "a TLS hello", bytes: Buffer.from("16030100c8010000c403030000000000", "hex"), code: "BadMagic" },
    { wrong: "version 0", bytes: frame(11, [], { version: 0 }), code: "UnsupportedVersion" },
    { wrong: "version 255 of an unknown frame", bytes: frame(99, [], { version: 255 }), code: "UnsupportedVersion" },
    { wrong: "type 0", bytes: frame(0, []), code: "UnknownFrame" },
    { wrong: "type 14", bytes: frame(14, []), code: "UnknownFrame" },
    { wrong: "type 255", bytes: frame(255, []), code: "UnknownFrame" },
    { wrong: "an unknown flag", bytes: frame(2, [], { flags: 2, length: 100 }), code: "BadFrame", says: /flags 2/ },
    { wrong: "a compressed message", bytes: frame(1, [json("{}")], { flags: 1 }), code: "BadFrame", says: /flags/ },
    { wrong: "a compressed disk write", bytes: frame(4, [disk(0), some(9)], { flags: 1 }), code: "BadFrame" },
    { wrong: "all flags", bytes: frame(6, [some(9)], { flags: 0xffff, epoch: 1 }), code: "BadFrame" },

    { wrong: "a message of 4 GiB", bytes: frame(1, [], { length: 0xffffffff }), code: "FrameTooLong" },
    { wrong: "a message of 64 KiB and a byte", bytes: frame(1, [], { length: 65537 }), code: "FrameTooLong" },
    { wrong: "pages of 65 MiB", bytes: frame(2, [], { length: 65 * MIB }), code: "FrameTooLong" },
    { wrong: "runs of 2 MiB", bytes: frame(3, [], { length: 2 * MIB }), code: "FrameTooLong" },
    { wrong: "a disk write of 41 MiB", bytes: frame(4, [], { length: 41 * MIB }), code: "FrameTooLong" },
    { wrong: "disk zeros with more", bytes: frame(5, [], { length: 25 }), code: "FrameTooLong" },
    { wrong: "device state of 65 MiB", bytes: frame(6, [], { length: 65 * MIB, epoch: 1 }), code: "FrameTooLong" },
    { wrong: "an epoch's end with more", bytes: frame(7, [], { length: 21, epoch: 1 }), code: "FrameTooLong" },
    { wrong: "hashes of 2 MiB", bytes: frame(8, [], { length: 2 * MIB }), code: "FrameTooLong" },
    { wrong: "the bulk's end with more", bytes: frame(11, [some(1)]), code: "FrameTooLong" },
    { wrong: "an empty message", bytes: frame(1, []), code: "BadFrame", says: /too few/ },
    { wrong: "no device state", bytes: frame(6, [], { epoch: 1 }), code: "BadFrame", says: /too few/ },
    { wrong: "half an epoch's end", bytes: frame(7, [some(10)], { epoch: 1 }), code: "BadFrame", says: /too few/ },
    { wrong: "a disk write without data", bytes: frame(4, [disk(0), u64(0n)]), code: "BadFrame", says: /too few/ },

    { wrong: "a message in an epoch", bytes: frame(1, [json("{}")], { epoch: 1 }), code: "BadFrame", says: /epoch 1/ },
    { wrong: "device state before epoch 1", bytes: frame(6, [some(9)]), code: "BadFrame", says: /epoch 0/ },
    { wrong: "the end of epoch 0", bytes: frame(7, [some(20)]), code: "BadFrame", says: /epoch 0/ },
    { wrong: "the bulk's end in an epoch", bytes: frame(11, [], { epochHigh: 1 }), code: "BadFrame", says: /epoch/ },

    { wrong: "no runs", bytes: frame(2, [u32(0), some(4096)]), code: "BadFrame", says: /0 runs/ },
    { wrong: "more runs than bytes", bytes: frame(2, [u32(600), some(4096)]), code: "BadFrame", says: /600 runs/ },
    { wrong: "4 billion runs", bytes: frame(2, [u32(0xffffffff), some(4096)]), code: "BadFrame", says: /runs/ },
    { wrong: "runs and no bytes", bytes: frame(2, [u32(1, 0, 1, 0).subarray(0, 12)]), code: "BadFrame" },
    { wrong: "half a page", bytes: frame(2, [u32(1, 0, 1), some(2048)]), code: "BadFrame", says: /1 pages with 2048/ },
    { wrong: "a page too many", bytes: frame(2, [u32(1, 0, 1), some(8192)]), code: "BadFrame", says: /1 pages/ },
    {
      wrong: "a run of no pages",
      bytes: frame(2, [u32(2, 0, 5, 1, 0), some(4096)]),
      code: "BadFrame",
      says: /0 pages/,
    },
    {
      wrong: "a run past the last page",
      bytes: frame(2, [u32(1, 0xffffffff, 2), some(8192)]),
      code: "BadFrame",
      says: /2 pages from 4294967295/,
    },
    {
      wrong: "counts that overflow 32 bits to the right sum",
      bytes: frame(2, [u32(2, 0, 0, 0xffffffff, 2), some(4096)]),
      code: "BadFrame",
    },
    {
      wrong: "few bytes that unpack to 16 TiB",
      bytes: frame(2, [u32(1, 4096, 0, 0xffffffff), some(9)], { flags: 1 }),
      code: "BadFrame",
      says: /4294967295 pages/,
    },
    {
      wrong: "a raw length that is not that of the runs",
      bytes: frame(2, [u32(1, 8192, 0, 1), some(9)], { flags: 1 }),
      code: "BadFrame",
      says: /1 pages with 8192/,
    },
    { wrong: "zero pages without runs", bytes: frame(3, [u32(0), some(8)]), code: "BadFrame" },
    {
      wrong: "zero pages with bytes",
      bytes: frame(3, [u32(1, 0, 1), some(4)]),
      code: "BadFrame",
      says: /1 runs in 16/,
    },
    { wrong: "a zero run of no pages", bytes: frame(3, [u32(1, 7, 0)]), code: "BadFrame", says: /0 pages from 7/ },
    { wrong: "a zero run past the last page", bytes: frame(3, [u32(1, 2, 0xffffffff)]), code: "BadFrame" },

    { wrong: "filling", bytes: frame(4, [u8(0, 1, 0, 0, 0, 0, 0, 0), u64(0n), some(1)]), code: "BadFrame" },
    { wrong: "filling at its end", bytes: frame(4, [u8(0, 0, 0, 0, 0, 0, 0, 1), u64(0n), some(1)]), code: "BadFrame" },
    { wrong: "a write at 2^53", bytes: frame(4, [disk(0), u64(2n ** 53n - 1n), some(9)]), code: "BadFrame" },
    { wrong: "a write at 2^64 - 1", bytes: frame(4, [disk(0), u64(2n ** 64n - 1n), some(9)]), code: "BadFrame" },
    { wrong: "zeros of no length", bytes: frame(5, [disk(0), u64(0n, 0n)]), code: "BadFrame", says: /0 bytes/ },
    { wrong: "zeros past 2^53", bytes: frame(5, [disk(0), u64(4096n, 2n ** 53n - 1n)]), code: "BadFrame" },
    {
      wrong: "compressed nothing",
      bytes: frame(6, [u32(9)], { flags: 1, epoch: 1 }),
      code: "BadFrame",
      says: /nothing/,
    },
    {
      wrong: "state that unpacks to 4 GiB",
      bytes: frame(6, [u32(0xffffffff), some(9)], { flags: 1, epoch: 1 }),
      code: "BadFrame",
    },
    {
      wrong: "state that unpacks to nothing",
      bytes: frame(6, [u32(0), some(9)], { flags: 1, epoch: 1 }),
      code: "BadFrame",
    },
    {
      wrong: "more bytes than 2^53",
      bytes: frame(7, [u32(1, 1), u64(2n ** 63n), u32(1)], { epoch: 1 }),
      code: "BadFrame",
    },
    { wrong: "a hash too few", bytes: frame(8, [u32(0, 0, 2), some(16)]), code: "BadFrame", says: /2 hashes/ },
    { wrong: "hashes past the last", bytes: frame(8, [u32(0, 0xffffffff, 2), some(32)]), code: "BadFrame" },
    { wrong: "granules of no size", bytes: frame(9, [u32(0, 0)]), code: "BadFrame", says: /without a size/ },
    { wrong: "disk 256", bytes: frame(10, [u32(256)]), code: "BadFrame", says: /filling/ },

    {
      wrong: "page deltas outside of an epoch",
      bytes: frame(12, [u32(1, 5, 1, 0), some(64)]),
      code: "BadFrame",
      says: /epoch 0/,
    },
    {
      wrong: "deltas of no page",
      bytes: frame(12, [u32(0, 5, 1, 0), some(64)], { epoch: 1 }),
      code: "BadFrame",
      says: /deltas of 0/,
    },
    { wrong: "4 billion deltas", bytes: frame(12, [u32(0xffffffff), some(96)], { epoch: 1 }), code: "BadFrame" },
    {
      wrong: "a block too few",
      bytes: frame(12, [u32(1, 5, 3, 0), some(64)], { epoch: 1 }),
      code: "BadFrame",
      says: /2 blocks with 64/,
    },
    {
      wrong: "a block too many",
      bytes: frame(12, [u32(1, 5, 0, 4), some(128)], { epoch: 1 }),
      code: "BadFrame",
      says: /1 blocks with 128/,
    },
    {
      wrong: "a state change without masks",
      bytes: frame(13, [u32(4096, 0)], { epoch: 1 }),
      code: "BadFrame",
      says: /4096 raw/,
    },
    {
      wrong: "a change behind the state",
      bytes: frame(13, [u32(100, 4), some(64)], { epoch: 1 }),
      code: "BadFrame",
      says: /behind the end/,
    },
    { wrong: "state of 4 GiB", bytes: frame(13, [u32(0xffffffff, 0)], { epoch: 1 }), code: "BadFrame", says: /raw/ },
    { wrong: "state of no length", bytes: frame(13, [u32(0, 0)], { epoch: 1 }), code: "BadFrame", says: /0 raw/ },

    { wrong: "no JSON", bytes: frame(1, [json("{tag}")]), code: "BadMessage" },
    { wrong: "JSON of 21000 brackets", bytes: frame(1, [json("[".repeat(21000))]), code: "BadMessage" },
    { wrong: "no message", bytes: frame(1, [json("{}")]), code: "BadMessage", says: /message.tag/ },
    { wrong: "no UTF-8", bytes: frame(1, [u8(0x22, 0xff, 0x22)]), code: "BadMessage" },
  ])("$wrong is $code", ({ bytes, code, says = /./ }) => {
    for (const size of [bytes.length, 1, 7]) {
      const failure = findFailure(cutChunks(bytes, [size]));
      expect(failure?.detail.code).toBe(code);
      expect(failure?.message).toMatch(says);
    }
  });
});

/** What the decoder refuses in these chunks; anything else that is thrown comes through and fails the test. */
function findFailure(chunks: readonly Uint8Array[]): Failure<{ code: string }> | undefined {
  const decoder = new FrameDecoder();
  try {
    for (const chunk of chunks) {
      decoder.push(chunk);
    }
  } catch (error) {
    if (error instanceof Failure) {
      return error as Failure<{ code: string }>;
    }
    throw error;
  }
  return undefined;
}

describe("random bytes", () => {
  test("never throw anything but a Failure", () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 16, maxLength: 300 }), fc.integer({ min: 1, max: 99 }), (bytes, size) => {
        findFailure(cutChunks(bytes, [size]));
      }),
      { numRuns: 2000 },
    );
  });

  test("behind a good header never throw anything but a Failure", () => {
    const header = fc.record({ flags: fc.nat(1), epoch: fc.nat(2) });
    const property = fc.property(
      fc.integer({ min: 1, max: 13 }),
      header,
      fc.uint8Array({ maxLength: 99 }),
      (type, head, body) => {
        findFailure([frame(type, [body], head)]);
      },
    );
    fc.assert(property, { numRuns: 5000 });
  });

  test("in a good frame never throw anything but a Failure", () => {
    const changes = fc.array(fc.tuple(fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }), fc.nat(255)), {
      minLength: 1,
      maxLength: 6,
    });
    const property = fc.property(anyEncodedFrame, changes, fc.boolean(), ({ parts }, places, nearHead) => {
      const bytes = joinParts(parts);
      for (const [place, value] of places) {
        bytes[Math.floor(place * (nearHead ? Math.min(bytes.length, 40) : bytes.length))] = value;
      }
      findFailure(cutChunks(bytes, [bytes.length, 13]));
    });
    fc.assert(property, { numRuns: 3000 });
  });

  test("never make the decoder reserve more than one frame may have", () => {
    const length = fc.oneof(fc.nat(2 ** 32 - 1), fc.nat(70 * MIB));
    const property = fc.property(fc.integer({ min: 1, max: 13 }), length, fc.nat(1), (type, length, epoch) => {
      const before = process.memoryUsage().arrayBuffers;
      findFailure([frame(type, [], { length, epoch })]);
      expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(65 * MIB);
    });
    fc.assert(property, { numRuns: 500 });
  });
});

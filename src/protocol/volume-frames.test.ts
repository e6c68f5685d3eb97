import { expect, test } from "@jest/globals";
import fc from "fast-check";
import {
  decodeNumber,
  encodeNumbers,
  encodeVolumeHeader,
  VOLUME_BLOCK_BYTES,
  VOLUME_FRAME_TYPES,
  type VolumeFrame,
  VolumeFrameDecoder,
  type VolumeFrameType,
  VolumeProtocolFailure,
} from "./volume-frames.ts";

const anyFrame = fc.record({
  type: fc.constantFrom(...(Object.keys(VOLUME_FRAME_TYPES) as VolumeFrameType[])),
  offset: fc.maxSafeNat(),
  payload: fc.uint8Array({ maxLength: 300 }),
});

const encode = (frame: VolumeFrame): Buffer => Buffer.concat([encodeVolumeHeader(frame), frame.payload]);

test("what is encoded is decoded, however it is cut", () => {
  fc.assert(
    fc.property(
      fc.array(anyFrame, { maxLength: 10 }),
      fc.array(fc.integer({ min: 1, max: 50 }), { minLength: 1 }),
      (frames, cuts) => {
        const decoder = new VolumeFrameDecoder();
        const bytes = Buffer.concat(frames.map(encode));
        const found: VolumeFrame[] = [];
        for (let [at, cut] = [0, 0]; at < bytes.length; cut += 1) {
          const length = cuts[cut % cuts.length] ?? 1;
          found.push(...decoder.push(bytes.subarray(at, at + length)));
          at += length;
        }
        expect(found.map(({ payload, ...rest }) => ({ ...rest, payload: [...payload] }))).toEqual(
          frames.map(({ payload, ...rest }) => ({ ...rest, payload: [...payload] })),
        );
      },
    ),
  );
});

test("anything else is refused and nothing is waited for in vain", () => {
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 16, maxLength: 64 }), (bytes) => {
      try {
        new VolumeFrameDecoder().push(bytes);
      } catch (error) {
        expect(error).toBeInstanceOf(VolumeProtocolFailure);
      }
    }),
  );
  const tooLong = Buffer.from(encodeVolumeHeader({ type: "write", offset: 0, payload: new Uint8Array(0) }));
  tooLong.writeUInt32LE(VOLUME_BLOCK_BYTES + 1, 4);
  expect(() => new VolumeFrameDecoder().push(tooLong)).toThrow(/more than a block/);
  tooLong[0] = 2;
  expect(() => new VolumeFrameDecoder().push(tooLong)).toThrow(/version 2; is its image of the same release/);
});

test("numbers", () => {
  const frame: VolumeFrame = { type: "open", offset: 0, payload: encodeNumbers(1, 2 ** 52) };
  expect([decodeNumber(frame, 0), decodeNumber(frame, 1)]).toEqual([1, 2 ** 52]);
  expect(() => decodeNumber(frame, 2)).toThrow(VolumeProtocolFailure);
});

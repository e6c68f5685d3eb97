/**
 * What `kubectl twinrun import` and `export` say to src/volume in a pod that holds the volume, over its standard input and output.
 *
 * The program asks, the pod answers, in the order of the questions; there may be several questions under way. All numbers are
 * unsigned and little-endian. A frame is a header and its payload:
 *
 *   offset  size  header
 *        0     1  VOLUME_PROTOCOL_VERSION; any other number ends the conversation
 *        1     1  type, see below; an answer has that of its question, or 255
 *        2     2  zeros
 *        4     4  length of the payload in bytes, at most a block
 *        8     8  offset in the volume, a multiple of a block where the payload is about content
 *
 *   type        question's payload   answer's payload
 *     1 open    u64 bytes            u64 bytes of the volume, u64 bytes that are allocated in it
 *     2 hash    u64 blocks           sha256 of each block (the last one may be short), 32 bytes each
 *     3 read    u64 bytes            the content
 *     4 write   content              nothing
 *     5 flush   nothing              nothing; everything written before is on the disk
 *   255 failed  –                    a sentence in UTF-8; nothing follows
 *
 * `open` comes first and once. It makes the volume at least so long where it is a file; 0 leaves it as it is. Everything may be
 * repeated: a conversation that broke off is taken up by comparing hashes, from whatever is there.
 */
import { Failure } from "../lib/failure.ts";

export const VOLUME_PROTOCOL_VERSION = 1;
/** Large enough that a round trip costs little, small enough to be repeated without regret. */
export const VOLUME_BLOCK_BYTES = 4 * 2 ** 20;
export const VOLUME_HASH_BYTES = 32;
/** Of one question about hashes. */
export const HASHED_BLOCKS_MAX = 64;
export const VOLUME_HEADER_BYTES = 16;

export const VOLUME_FRAME_TYPES = { open: 1, hash: 2, read: 3, write: 4, flush: 5, failed: 255 } as const;
export type VolumeFrameType = keyof typeof VOLUME_FRAME_TYPES;

export type VolumeFrame = {
  readonly type: VolumeFrameType;
  readonly offset: number;
  readonly payload: Uint8Array;
};

export class VolumeProtocolFailure extends Failure<{ readonly code: "VolumeProtocolBroken" }> {
  constructor(message: string) {
    super({ code: "VolumeProtocolBroken" }, message);
  }
}

/** The header alone; the payload follows it as it is. */
export function encodeVolumeHeader({ type, offset, payload }: VolumeFrame): Uint8Array {
  const header = new Uint8Array(VOLUME_HEADER_BYTES);
  const view = new DataView(header.buffer);
  view.setUint8(0, VOLUME_PROTOCOL_VERSION);
  view.setUint8(1, VOLUME_FRAME_TYPES[type]);
  view.setUint32(4, payload.length, true);
  view.setBigUint64(8, BigInt(offset), true);
  return header;
}

export function encodeNumbers(...numbers: readonly number[]): Uint8Array {
  const bytes = new Uint8Array(8 * numbers.length);
  const view = new DataView(bytes.buffer);
  for (const [index, number] of numbers.entries()) {
    view.setBigUint64(8 * index, BigInt(number), true);
  }
  return bytes;
}

export function decodeNumber({ payload }: VolumeFrame, index: number): number {
  if (payload.length < 8 * (index + 1)) {
    throw new VolumeProtocolFailure("a number is missing in the conversation with the pod");
  }
  return Number(new DataView(payload.buffer, payload.byteOffset).getBigUint64(8 * index, true));
}

const NAMES: ReadonlyMap<number, VolumeFrameType> = new Map(
  Object.entries(VOLUME_FRAME_TYPES).map(([name, type]) => [type, name as VolumeFrameType]),
);

/** Takes a stream apart into frames; throws {@link VolumeProtocolFailure} at the first byte that cannot be one's. */
export class VolumeFrameDecoder {
  #parts: Uint8Array[] = [];
  #bytes = 0;

  push(part: Uint8Array): readonly VolumeFrame[] {
    this.#parts.push(part);
    this.#bytes += part.length;
    const frames: VolumeFrame[] = [];
    for (let frame = this.#take(); frame !== undefined; frame = this.#take()) {
      frames.push(frame);
    }
    return frames;
  }

  #take(): VolumeFrame | undefined {
    if (this.#bytes < VOLUME_HEADER_BYTES) {
      return undefined;
    }
    const head = this.#join(VOLUME_HEADER_BYTES);
    const view = new DataView(head.buffer, head.byteOffset);
    const [version, type, length] = [view.getUint8(0), NAMES.get(view.getUint8(1)), view.getUint32(4, true)];
    if (version !== VOLUME_PROTOCOL_VERSION || type === undefined || view.getUint16(2) !== 0) {
      const says = version === VOLUME_PROTOCOL_VERSION ? "unknown words" : `version ${version}`;
      throw new VolumeProtocolFailure(
        `the other end speaks ${says}; is its image of the same release as kubectl-twinrun?`,
      );
    }
    const offset = view.getBigUint64(8, true);
    if (length > VOLUME_BLOCK_BYTES || offset > BigInt(Number.MAX_SAFE_INTEGER)) {
      throw new VolumeProtocolFailure("the other end sends more than a block at once");
    }
    if (this.#bytes < VOLUME_HEADER_BYTES + length) {
      return undefined;
    }
    const whole = this.#join(VOLUME_HEADER_BYTES + length);
    this.#parts = [whole.subarray(VOLUME_HEADER_BYTES + length), ...this.#parts.slice(1)].filter(isFull);
    this.#bytes -= VOLUME_HEADER_BYTES + length;
    return { type, offset: Number(offset), payload: whole.subarray(VOLUME_HEADER_BYTES, VOLUME_HEADER_BYTES + length) };
  }

  /** The first part, made at least so long; there are so many bytes. */
  #join(bytes: number): Uint8Array {
    const [first = new Uint8Array(0)] = this.#parts;
    if (first.length >= bytes) {
      return first;
    }
    const parts: Uint8Array[] = [];
    let length = 0;
    for (const part of this.#parts) {
      if (length >= bytes) {
        break;
      }
      parts.push(part);
      length += part.length;
    }
    const joined = new Uint8Array(length);
    let at = 0;
    for (const part of parts) {
      joined.set(part, at);
      at += part.length;
    }
    this.#parts = [joined, ...this.#parts.slice(parts.length)];
    return joined;
  }
}

const isFull = ({ length }: Uint8Array): boolean => length > 0;

/**
 * Cuts a stream of bytes into the frames of frames.ts.
 *
 * Every length is checked against the limit of its type before anything is allocated for it. The first bytes that are no
 * frame throw a Failure, and every later push throws the same one: a stream that lost its place never finds it again. The
 * frames before them in the same chunk are lost as well, as a sender must expect of whatever has not been answered.
 *
 * Payloads of frames that were returned are valid for ever, for the standby keeps them until their epoch is applied. So
 * the decoder takes over the chunks: a payload that lies whole in a chunk and makes up most of its memory is a view of
 * it, any other is copied, once, into memory of its own. Views of less would pin it: a disk write of 512 bytes would cost
 * the 64 KiB of the read it came with.
 */
import { present } from "../lib/assert.ts";
import { countSetBits } from "../lib/bits.ts";
import {
  DEVICE_STATE_BYTES_MAX,
  DISK_HASH_BYTES,
  FLAG_COMPRESSED,
  type Frame,
  FRAME_TYPES,
  FrameFailure,
  type FrameTag,
  HEADER_BYTES,
  isEpochAllowed,
  MAGIC,
  PAGES_PER_FRAME_MAX,
  PAYLOAD_LIMITS,
  type RunTable,
  STATE_MASK_BYTES,
  WIRE_BLOCK_BYTES,
  WIRE_PAGE_BYTES,
} from "./frames.ts";
import { parseMessageText } from "./message-codec.ts";
import { PROTOCOL_VERSION } from "./messages.ts";

type Header = {
  readonly tag: FrameTag;
  readonly compressed: boolean;
  readonly epoch: number;
  readonly length: number;
};

/** A payload with its place in memory; `owned` when the memory is the payload's alone. */
type Payload = {
  readonly header: Header;
  readonly bytes: Uint8Array;
  readonly view: DataView;
  readonly owned: boolean;
};

export class FrameDecoder {
  /** A header that came in pieces. */
  readonly #head = new Uint8Array(HEADER_BYTES);
  #headFilled = 0;
  /** A payload that comes in pieces. */
  #header: Header | undefined;
  #payload = NOTHING;
  #payloadFilled = 0;
  #failure: unknown;
  readonly #allocate: (bytes: number) => Uint8Array<ArrayBuffer>;

  /** `allocate` gives the memory of payloads that come in pieces; it need not be zeroed, every byte of it is written. */
  constructor(allocate: (bytes: number) => Uint8Array<ArrayBuffer> = (bytes) => new Uint8Array(bytes)) {
    this.#allocate = allocate;
  }

  /** The frames that end in `chunk`, in order. The chunk belongs to the decoder from now on and must not change. */
  push(chunk: Uint8Array): readonly Frame[] {
    if (this.#failure !== undefined) {
      throw this.#failure as Error;
    }
    const frames: Frame[] = [];
    try {
      this.#cut(chunk, frames);
    } catch (error) {
      this.#failure = error;
      this.#payload = NOTHING;
      throw error;
    }
    return frames;
  }

  #cut(chunk: Uint8Array, frames: Frame[]): void {
    const view = new DataView(chunk.buffer, chunk.byteOffset, chunk.byteLength);
    let at = 0;
    for (;;) {
      if (this.#header !== undefined) {
        at = this.#fillPayload(chunk, at, frames);
      }
      if (at === chunk.length) {
        return;
      }
      let header: Header;
      if (this.#headFilled === 0 && chunk.length - at >= HEADER_BYTES) {
        header = decodeHeader(view, at);
        at += HEADER_BYTES;
      } else {
        at = this.#fillHead(chunk, at);
        if (this.#headFilled < HEADER_BYTES) {
          return;
        }
        this.#headFilled = 0;
        header = decodeHeader(new DataView(this.#head.buffer), 0);
      }
      if (chunk.length - at >= header.length) {
        frames.push(decodePayload(cutPayload(header, chunk, at)));
        at += header.length;
      } else {
        this.#header = header;
        this.#payload = this.#allocate(header.length);
        this.#payloadFilled = 0;
      }
    }
  }

  /** Copies what belongs into the header and returns where the rest begins. */
  #fillHead(chunk: Uint8Array, at: number): number {
    const end = Math.min(chunk.length, at + HEADER_BYTES - this.#headFilled);
    this.#head.set(chunk.subarray(at, end), this.#headFilled);
    this.#headFilled += end - at;
    return end;
  }

  /** Copies what belongs into the payload, adds the frame once it is whole, and returns where the rest begins. */
  #fillPayload(chunk: Uint8Array, at: number, frames: Frame[]): number {
    const payload = this.#payload;
    const end = Math.min(chunk.length, at + payload.length - this.#payloadFilled);
    payload.set(at === 0 && end === chunk.length ? chunk : chunk.subarray(at, end), this.#payloadFilled);
    this.#payloadFilled += end - at;
    if (this.#payloadFilled === payload.length) {
      const header = present(this.#header, "a payload has a header");
      this.#header = undefined;
      this.#payload = NOTHING;
      frames.push(decodePayload({ header, bytes: payload, view: new DataView(payload.buffer), owned: true }));
    }
    return end;
  }
}

const NOTHING = new Uint8Array(0);

const TAG_OF = new Map<number, FrameTag>(
  (Object.keys(FRAME_TYPES) as FrameTag[]).map((tag) => [FRAME_TYPES[tag], tag]),
);
const MAY_BE_COMPRESSED: ReadonlySet<FrameTag> = new Set<FrameTag>(["pages", "deviceState"]);

function decodeHeader(view: DataView, at: number): Header {
  const magic = view.getUint16(at, true);
  if (magic !== MAGIC) {
    const says = "the peer does not speak Twinrun's protocol here: check that the port is a Twinrun engine's";
    throw new FrameFailure({ code: "BadMagic", found: magic }, says);
  }
  const theirs = view.getUint8(at + 2);
  if (theirs !== PROTOCOL_VERSION) {
    const says = `the peer speaks protocol version ${theirs}, this side ${PROTOCOL_VERSION}: run the same release of Twinrun on both nodes`;
    throw new FrameFailure({ code: "UnsupportedVersion", theirs, ours: PROTOCOL_VERSION }, says);
  }
  const type = view.getUint8(at + 3);
  const tag = TAG_OF.get(type);
  if (tag === undefined) {
    const says = `the peer sent a frame of the unknown type ${type}: run the same release of Twinrun on both nodes`;
    throw new FrameFailure({ code: "UnknownFrame", type }, says);
  }
  const flags = view.getUint16(at + 4, true);
  const epoch = view.getUint16(at + 6, true) * 2 ** 32 + view.getUint32(at + 8, true);
  const header = { tag, compressed: flags === FLAG_COMPRESSED, epoch, length: view.getUint32(at + 12, true) };
  checkLength(header);
  if (flags !== 0 && !(header.compressed && MAY_BE_COMPRESSED.has(tag))) {
    throw bad(tag, `flags ${flags}`);
  }
  if (!isEpochAllowed(tag, epoch)) {
    throw bad(tag, `epoch ${epoch}`);
  }
  return header;
}

function checkLength({ tag, length }: Header): void {
  const { minBytes, maxBytes } = PAYLOAD_LIMITS[tag];
  if (length > maxBytes) {
    const says = `the peer sent a ${tag} frame of ${length} bytes, more than ${maxBytes}: run the same release of Twinrun on both nodes`;
    throw new FrameFailure({ code: "FrameTooLong", frame: tag, bytes: length, limitBytes: maxBytes }, says);
  }
  if (length < minBytes) {
    throw bad(tag, `${length} bytes are too few`);
  }
}

function bad(frame: FrameTag, problem: string): FrameFailure {
  const says = `the peer sent a ${frame} frame that is malformed (${problem}): this is a bug, please report it`;
  return new FrameFailure({ code: "BadFrame", frame, problem }, says);
}

function cutPayload(header: Header, chunk: Uint8Array, at: number): Payload {
  const { length } = header;
  // Not subarray: a Buffer's would be a Buffer again, with other semantics of slice.
  const bytes = new Uint8Array(chunk.buffer, chunk.byteOffset + at, length);
  const view = new DataView(chunk.buffer, bytes.byteOffset, length);
  return { header, bytes, view, owned: 2 * length >= chunk.buffer.byteLength };
}

const DECODERS: Readonly<Record<FrameTag, (payload: Payload) => Frame>> = {
  message: ({ bytes }) => ({ tag: "message", message: parseMessageText(bytes) }),
  pages: decodePages,
  zeroPages: decodeZeroPages,
  diskWrite: decodeDiskWrite,
  diskZero: decodeDiskZero,
  deviceState: decodeDeviceState,
  epochEnd: decodeEpochEnd,
  diskHashes: decodeDiskHashes,
  diskHashesWanted: decodeDiskHashesWanted,
  diskHashesEnd: (payload) => ({ tag: "diskHashesEnd", disk: readDisk(payload, 4) }),
  bulkEnd: () => ({ tag: "bulkEnd" }),
  pageDeltas: decodePageDeltas,
  stateDelta: decodeStateDelta,
};

function decodePayload(payload: Payload): Frame {
  return DECODERS[payload.header.tag](payload);
}

function decodePages(payload: Payload): Frame {
  const { header, view } = payload;
  const { tag, compressed, epoch, length } = header;
  const runCount = view.getUint32(0, true);
  const tableAt = compressed ? 8 : 4;
  const dataAt = tableAt + 8 * runCount;
  if (runCount === 0 || dataAt >= length) {
    throw bad(tag, `${runCount} runs`);
  }
  const rawBytes = compressed ? view.getUint32(4, true) : length - dataAt;
  const runs = readRuns(payload, tableAt, runCount);
  const pages = countPages(runs, tag);
  if (pages > PAGES_PER_FRAME_MAX) {
    throw bad(tag, `${pages} pages`);
  }
  if (pages * WIRE_PAGE_BYTES !== rawBytes) {
    throw bad(tag, `${pages} pages with ${rawBytes} bytes`);
  }
  return { tag: "pages", epoch, payloadBytes: length, ...runs, data: keep(payload, dataAt), compressed, rawBytes };
}

function decodeZeroPages(payload: Payload): Frame {
  const { header, view } = payload;
  const { epoch, length } = header;
  const runCount = view.getUint32(0, true);
  if (length !== 4 + 8 * runCount) {
    throw bad("zeroPages", `${runCount} runs in ${length} bytes`);
  }
  const runs = readRuns(payload, 4, runCount);
  countPages(runs, "zeroPages");
  return { tag: "zeroPages", epoch, payloadBytes: length, ...runs };
}

function decodeDiskWrite(payload: Payload): Frame {
  const { header, view } = payload;
  const { tag, epoch, length } = header;
  const disk = readDisk(payload, 8);
  const offset = readUint64(view, 8);
  if (!Number.isSafeInteger(offset + length)) {
    throw bad(tag, `offset ${offset}`);
  }
  return { tag: "diskWrite", epoch, payloadBytes: length, disk, offset, data: keep(payload, 16) };
}

function decodeDiskZero(payload: Payload): Frame {
  const { header, view } = payload;
  const { tag, epoch, length } = header;
  const disk = readDisk(payload, 8);
  const offset = readUint64(view, 8);
  const bytes = readUint64(view, 16);
  if (bytes === 0 || !Number.isSafeInteger(offset + bytes)) {
    throw bad(tag, `offset ${offset}, ${bytes} bytes`);
  }
  return { tag: "diskZero", epoch, payloadBytes: length, disk, offset, bytes };
}

function decodeDeviceState(payload: Payload): Frame {
  const { header, view } = payload;
  const { tag, compressed, epoch, length } = header;
  if (compressed && length <= 4) {
    throw bad(tag, "nothing is compressed");
  }
  const rawBytes = compressed ? view.getUint32(0, true) : length;
  if (rawBytes === 0 || rawBytes > DEVICE_STATE_BYTES_MAX) {
    throw bad(tag, `${rawBytes} raw bytes`);
  }
  const data = keep(payload, compressed ? 4 : 0);
  return { tag: "deviceState", epoch, payloadBytes: length, data, compressed, rawBytes };
}

function decodeEpochEnd({ header, view }: Payload): Frame {
  const bytes = readUint64(view, 8);
  if (!Number.isSafeInteger(bytes)) {
    throw bad(header.tag, `${bytes} bytes`);
  }
  return {
    tag: "epochEnd",
    epoch: header.epoch,
    pageCount: view.getUint32(0, true),
    diskRecords: view.getUint32(4, true),
    bytes,
    deviceStateBytes: view.getUint32(16, true),
  };
}

function decodeDiskHashes(payload: Payload): Frame {
  const { header, view } = payload;
  const disk = readDisk(payload, 4);
  const firstGranule = view.getUint32(4, true);
  const count = view.getUint32(8, true);
  if (header.length !== 12 + count * DISK_HASH_BYTES) {
    throw bad(header.tag, `${count} hashes in ${header.length} bytes`);
  }
  if (firstGranule + count > 2 ** 32) {
    throw bad(header.tag, `${count} granules from ${firstGranule}`);
  }
  return { tag: "diskHashes", disk, firstGranule, count, hashes: keep(payload, 12) };
}

function decodeDiskHashesWanted(payload: Payload): Frame {
  const disk = readDisk(payload, 4);
  const granuleBytes = payload.view.getUint32(4, true);
  if (granuleBytes === 0) {
    throw bad(payload.header.tag, "granules without a size");
  }
  return { tag: "diskHashesWanted", disk, granuleBytes };
}

function decodePageDeltas(payload: Payload): Frame {
  const { header, view } = payload;
  const { tag, epoch, length } = header;
  const count = view.getUint32(0, true);
  const dataAt = 4 + 12 * count;
  if (count === 0 || count > PAGES_PER_FRAME_MAX || dataAt >= length) {
    throw bad(tag, `deltas of ${count} pages`);
  }
  const table = readTable(payload, 4, 3 * count);
  const masks = table.subarray(count);
  checkBlocks(tag, masks, length - dataAt);
  const data = keep(payload, dataAt);
  return { tag: "pageDeltas", epoch, payloadBytes: length, pages: table.subarray(0, count), masks, data };
}

function decodeStateDelta(payload: Payload): Frame {
  const { header, view } = payload;
  const { tag, epoch, length } = header;
  const rawBytes = view.getUint32(0, true);
  const maskCount = Math.ceil(rawBytes / STATE_MASK_BYTES);
  const dataAt = 4 + 4 * maskCount;
  if (rawBytes === 0 || rawBytes > DEVICE_STATE_BYTES_MAX || dataAt > length) {
    throw bad(tag, `${rawBytes} raw bytes`);
  }
  const masks = readTable(payload, 4, maskCount);
  const blocksOfLast = Math.ceil(rawBytes / WIRE_BLOCK_BYTES) - 32 * (maskCount - 1);
  if (blocksOfLast < 32 && (masks[maskCount - 1] ?? 0) >>> blocksOfLast !== 0) {
    throw bad(tag, "a block behind the end");
  }
  checkBlocks(tag, masks, length - dataAt);
  return { tag: "stateDelta", epoch, payloadBytes: length, rawBytes, masks, data: keep(payload, dataAt) };
}

function checkBlocks(tag: FrameTag, masks: Uint32Array, bytes: number): void {
  const blocks = countSetBits(masks);
  if (blocks * WIRE_BLOCK_BYTES !== bytes) {
    throw bad(tag, `${blocks} blocks with ${bytes} bytes`);
  }
}

/** The payload from `from` on, in memory that nothing else needs. */
function keep({ bytes, owned }: Payload, from: number): Uint8Array {
  return owned ? bytes.subarray(from) : bytes.slice(from);
}

function readRuns(payload: Payload, tableAt: number, runCount: number): RunTable {
  const table = readTable(payload, tableAt, 2 * runCount);
  return { starts: table.subarray(0, runCount), counts: table.subarray(runCount) };
}

/** `count` numbers of 32 bits, in memory that nothing else needs. */
function readTable({ bytes, owned }: Payload, tableAt: number, count: number): Uint32Array {
  const at = bytes.byteOffset + tableAt;
  return owned && at % 4 === 0
    ? new Uint32Array(bytes.buffer, at, count)
    : new Uint32Array(bytes.slice(tableAt, tableAt + 4 * count).buffer);
}

function countPages({ starts, counts }: RunTable, tag: FrameTag): number {
  let pages = 0;
  for (let run = 0; run < starts.length; run += 1) {
    const start = starts[run] ?? 0;
    const count = counts[run] ?? 0;
    if (count === 0 || start + count > 2 ** 32) {
      throw bad(tag, `${count} pages from ${start}`);
    }
    pages += count;
  }
  return pages;
}

/** The disk's number, with the zero bytes that fill the field up to `bytes`. */
function readDisk({ header, view }: Payload, bytes: 4 | 8): number {
  const filled = view.getUint32(0, true);
  const rest = bytes === 8 ? view.getUint32(4, true) : 0;
  if (filled > 0xff || rest !== 0) {
    throw bad(header.tag, "filling that is not zero");
  }
  return filled;
}

function readUint64(view: DataView, at: number): number {
  return view.getUint32(at, true) + view.getUint32(at + 4, true) * 2 ** 32;
}

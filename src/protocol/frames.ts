/**
 * The bytes between the engines of a guest: format, limits and encoders. frame-decoder.ts reads them.
 *
 * A connection carries frames one after another in both directions; a frame is a header and its payload. All numbers
 * are unsigned and little-endian.
 *
 *   offset  size  header
 *        0     2  magic, the letters "TW"
 *        2     1  PROTOCOL_VERSION; any other number ends the connection
 *        3     1  type, see below
 *        4     2  flags; bit 0: the data is one zstd frame and `rawBytes` is there; all others 0
 *        6     2  bits 32..47 of the epoch
 *        8     4  bits 0..31 of the epoch
 *       12     4  length of the payload in bytes
 *
 *   type                epoch  payload
 *    1 message              0  JSON of a {@link Message}, UTF-8, as message-codec.ts has it
 *    2 pages             >= 0  u32 runCount, [u32 rawBytes,] u32 starts[runCount], u32 counts[runCount], page bytes
 *    3 zeroPages         >= 0  u32 runCount, u32 starts[runCount], u32 counts[runCount]
 *    4 diskWrite         >= 0  u8 disk, 7 zero bytes, u64 offset, data
 *    5 diskZero          >= 0  u8 disk, 7 zero bytes, u64 offset, u64 bytes
 *    6 deviceState        > 0  [u32 rawBytes,] data
 *    7 epochEnd           > 0  u32 pageCount, u32 diskRecords, u64 bytes, u32 deviceStateBytes
 *    8 diskHashes           0  u8 disk, 3 zero bytes, u32 firstGranule, u32 count, 16 bytes a granule   (from the standby)
 *    9 diskHashesWanted     0  u8 disk, 3 zero bytes, u32 granuleBytes
 *   10 diskHashesEnd        0  u8 disk, 3 zero bytes                                                    (from the standby)
 *   11 bulkEnd              0  nothing
 *   12 pageDeltas         > 0  u32 pageCount, u32 pages[pageCount], u64 masks[pageCount], 64 bytes a bit that is set
 *   13 stateDelta         > 0  u32 rawBytes, u32 masks[ceil(rawBytes / 2048)], 64 bytes a bit that is set
 *
 * The epoch is the one whose state the frame is part of; 0 is the bulk copy before the first. 32 bits would be used up
 * within a year at 200 checkpoints a second. A run is `counts[i]` guest pages from global page number `starts[i]`; page
 * bytes stand in the order of the runs, 4096 each. Runs may overlap: what stands later in the stream wins. A delta is
 * against what the stream held of the same page, or of the device state, before it: bit i of a mask (the lowest is 0) says
 * that the i-th block of 64 bytes is there anew; blocks stand in the order of their bits. Device state has `rawBytes` as
 * before; its last block is filled up with anything. `bytes` of
 * epochEnd is the sum of the payload lengths of the epoch's other frames, so that a standby notices a frame that its
 * primary never sent. What is not described here is an error; there is no skipping of what is unknown.
 */
import { assert } from "../lib/assert.ts";
import { countSetBits } from "../lib/bits.ts";
import { encodeMessageText } from "./message-codec.ts";
import { type Message, PROTOCOL_VERSION } from "./messages.ts";
import { Failure } from "../lib/failure.ts";

export const HEADER_BYTES = 16;
export const MAGIC = 0x5754;
export const FLAG_COMPRESSED = 1;
/** The unit of guest memory on the wire, whatever pages the host or the guest use. */
export const WIRE_PAGE_BYTES = 4096;
/** The unit of a delta: a cache line. */
export const WIRE_BLOCK_BYTES = 64;
/** Bytes that one 32-bit mask of a stateDelta speaks of. */
export const STATE_MASK_BYTES = 32 * WIRE_BLOCK_BYTES;
export const DISK_HASH_BYTES = 16;

export const FRAME_TYPES = {
  message: 1,
  pages: 2,
  zeroPages: 3,
  diskWrite: 4,
  diskZero: 5,
  deviceState: 6,
  epochEnd: 7,
  diskHashes: 8,
  diskHashesWanted: 9,
  diskHashesEnd: 10,
  bulkEnd: 11,
  pageDeltas: 12,
  stateDelta: 13,
} as const;
export type FrameTag = keyof typeof FRAME_TYPES;

// Who sends more at once splits it. A peer can make the other side reserve one of these and not more.
export const MESSAGE_BYTES_MAX = 64 * 1024;
export const PAGES_PER_FRAME_MAX = 16 * 1024;
export const ZERO_RUNS_PER_FRAME_MAX = 128 * 1024;
export const DISK_WRITE_BYTES_MAX = 40 * 1024 * 1024;
export const DEVICE_STATE_BYTES_MAX = 64 * 1024 * 1024;
export const DISK_HASHES_PER_FRAME_MAX = 64 * 1024;

/** Shortest and longest payload of each type. */
export const PAYLOAD_LIMITS: Readonly<Record<FrameTag, { readonly minBytes: number; readonly maxBytes: number }>> = {
  message: { minBytes: 2, maxBytes: MESSAGE_BYTES_MAX },
  pages: { minBytes: 4 + 8 + 1, maxBytes: 8 + PAGES_PER_FRAME_MAX * (8 + WIRE_PAGE_BYTES) },
  zeroPages: { minBytes: 4 + 8, maxBytes: 4 + 8 * ZERO_RUNS_PER_FRAME_MAX },
  diskWrite: { minBytes: 16 + 1, maxBytes: 16 + DISK_WRITE_BYTES_MAX },
  diskZero: { minBytes: 24, maxBytes: 24 },
  deviceState: { minBytes: 1, maxBytes: 4 + DEVICE_STATE_BYTES_MAX },
  epochEnd: { minBytes: 20, maxBytes: 20 },
  diskHashes: { minBytes: 12 + DISK_HASH_BYTES, maxBytes: 12 + DISK_HASHES_PER_FRAME_MAX * DISK_HASH_BYTES },
  diskHashesWanted: { minBytes: 8, maxBytes: 8 },
  diskHashesEnd: { minBytes: 4, maxBytes: 4 },
  bulkEnd: { minBytes: 0, maxBytes: 0 },
  pageDeltas: {
    minBytes: 4 + 12 + WIRE_BLOCK_BYTES,
    maxBytes: 4 + PAGES_PER_FRAME_MAX * (12 + WIRE_PAGE_BYTES),
  },
  stateDelta: {
    minBytes: 4 + 4,
    maxBytes: 4 + (DEVICE_STATE_BYTES_MAX / STATE_MASK_BYTES) * 4 + DEVICE_STATE_BYTES_MAX,
  },
};

const IN_ANY_EPOCH: ReadonlySet<FrameTag> = new Set<FrameTag>(["pages", "zeroPages", "diskWrite", "diskZero"]);
const IN_NUMBERED_EPOCH: ReadonlySet<FrameTag> = new Set<FrameTag>([
  "deviceState",
  "epochEnd",
  "pageDeltas",
  "stateDelta",
]);

export function isEpochAllowed(tag: FrameTag, epoch: number): boolean {
  return IN_ANY_EPOCH.has(tag) || epoch > 0 === IN_NUMBERED_EPOCH.has(tag);
}

/** Runs of pages: `counts[i]` pages from `starts[i]`. Both have the same length. */
export type RunTable = { readonly starts: Uint32Array; readonly counts: Uint32Array };

export type EpochTotals = {
  /** Pages in pages, zeroPages and pageDeltas frames. */
  readonly pageCount: number;
  /** Number of diskWrite and diskZero frames. */
  readonly diskRecords: number;
  /** Sum of `payloadBytes` of the epoch's frames without epochEnd. */
  readonly bytes: number;
  /** Uncompressed. */
  readonly deviceStateBytes: number;
};

/** Changed blocks of pages; a page has two masks, the lower 32 blocks first. */
export type PageDeltas = { readonly pages: Uint32Array; readonly masks: Uint32Array; readonly data: Uint8Array };

/** Changed blocks of a device state of `rawBytes` bytes. */
export type StateDelta = { readonly rawBytes: number; readonly masks: Uint32Array; readonly data: Uint8Array };

/** Bytes that may be compressed; `rawBytes` is their length without compression. */
export type WireData = { readonly data: Uint8Array; readonly compressed: boolean; readonly rawBytes: number };

export type Frame =
  | { readonly tag: "message"; readonly message: Message }
  | ({ readonly tag: "pages"; readonly epoch: number; readonly payloadBytes: number } & RunTable & WireData)
  | ({ readonly tag: "zeroPages"; readonly epoch: number; readonly payloadBytes: number } & RunTable)
  | {
      readonly tag: "diskWrite";
      readonly epoch: number;
      readonly payloadBytes: number;
      readonly disk: number;
      readonly offset: number;
      readonly data: Uint8Array;
    }
  | {
      readonly tag: "diskZero";
      readonly epoch: number;
      readonly payloadBytes: number;
      readonly disk: number;
      readonly offset: number;
      readonly bytes: number;
    }
  | ({ readonly tag: "deviceState"; readonly epoch: number; readonly payloadBytes: number } & WireData)
  | ({ readonly tag: "epochEnd"; readonly epoch: number } & EpochTotals)
  | {
      readonly tag: "diskHashes";
      readonly disk: number;
      readonly firstGranule: number;
      readonly count: number;
      /** DISK_HASH_BYTES a granule. */
      readonly hashes: Uint8Array;
    }
  | { readonly tag: "diskHashesWanted"; readonly disk: number; readonly granuleBytes: number }
  | { readonly tag: "diskHashesEnd"; readonly disk: number }
  | { readonly tag: "bulkEnd" }
  | ({ readonly tag: "pageDeltas"; readonly epoch: number; readonly payloadBytes: number } & PageDeltas)
  | ({ readonly tag: "stateDelta"; readonly epoch: number; readonly payloadBytes: number } & StateDelta);

export type FrameFailureDetail =
  /** Not our protocol at all, or a stream that lost its place. */
  | { readonly code: "BadMagic"; readonly found: number }
  | { readonly code: "UnsupportedVersion"; readonly theirs: number; readonly ours: number }
  | { readonly code: "UnknownFrame"; readonly type: number }
  | { readonly code: "FrameTooLong"; readonly frame: FrameTag; readonly bytes: number; readonly limitBytes: number }
  | { readonly code: "BadFrame"; readonly frame: FrameTag; readonly problem: string };

/** Bytes that are no frame. (A message frame whose JSON is wrong is a MessageFailure.) */
export class FrameFailure extends Failure<FrameFailureDetail> {}

/** Arrays to be sent one after another. Data of the caller is in them uncopied: it must not change until it was sent. */
export type FrameParts = readonly Uint8Array[];

export const EPOCH_MAX = 2 ** 48 - 1;

/** What epochEnd counts as bytes of a frame: its length without the header. */
export function payloadBytesOf(parts: FrameParts): number {
  let bytes = -HEADER_BYTES;
  for (const part of parts) {
    bytes += part.byteLength;
  }
  return bytes;
}

export function encodeMessage(message: Message): FrameParts {
  const text = encodeMessageText(message);
  // One array: a small frame in two parts costs more in the send queue than the copy does here.
  const head = encodeHead({ tag: "message", epoch: 0, bodyBytes: text.byteLength });
  head.set(text, HEADER_BYTES);
  return [head];
}

/** `rawBytes` is given when `data` is compressed. */
export function encodePages(epoch: number, runs: RunTable, data: Uint8Array, rawBytes?: number): FrameParts {
  const tableAt = rawBytes === undefined ? 4 : 8;
  const bodyBytes = tableAt + 8 * runs.starts.length;
  const head = encodeHead({ tag: "pages", epoch, bodyBytes, data, compressed: rawBytes !== undefined });
  if (rawBytes !== undefined) {
    viewOf(head).setUint32(HEADER_BYTES + 4, rawBytes, true);
  }
  assert(runs.starts.length <= PAGES_PER_FRAME_MAX, `${runs.starts.length} runs in one pages frame`);
  const pages = writeRuns(head, tableAt, runs);
  assert(pages * WIRE_PAGE_BYTES === (rawBytes ?? data.byteLength), "page bytes fit their runs");
  assert(pages <= PAGES_PER_FRAME_MAX, `${pages} pages in one frame`);
  return [head, data];
}

export function encodeZeroPages(epoch: number, runs: RunTable): FrameParts {
  const head = encodeHead({ tag: "zeroPages", epoch, bodyBytes: 4 + 8 * runs.starts.length });
  writeRuns(head, 4, runs);
  return [head];
}

export function encodeDiskWrite(epoch: number, disk: number, offset: number, data: Uint8Array): FrameParts {
  assert(Number.isSafeInteger(offset + 16 + data.byteLength), `a disk write at ${offset}`);
  const head = encodeHead({ tag: "diskWrite", epoch, bodyBytes: 16, data });
  const view = viewOf(head);
  writeDisk(view, disk);
  writeUint64(view, HEADER_BYTES + 8, offset);
  return [head, data];
}

export function encodeDiskZero(epoch: number, disk: number, offset: number, bytes: number): FrameParts {
  assert(bytes > 0 && Number.isSafeInteger(offset + bytes), `${bytes} bytes of zeros at ${offset}`);
  const head = encodeHead({ tag: "diskZero", epoch, bodyBytes: 24 });
  const view = viewOf(head);
  writeDisk(view, disk);
  writeUint64(view, HEADER_BYTES + 8, offset);
  writeUint64(view, HEADER_BYTES + 16, bytes);
  return [head];
}

/** `rawBytes` is given when `data` is compressed. */
export function encodeDeviceState(epoch: number, data: Uint8Array, rawBytes?: number): FrameParts {
  if (rawBytes === undefined) {
    assert(data.byteLength <= DEVICE_STATE_BYTES_MAX, `${data.byteLength} bytes of device state`);
    return [encodeHead({ tag: "deviceState", epoch, bodyBytes: 0, data }), data];
  }
  assert(rawBytes > 0 && rawBytes <= DEVICE_STATE_BYTES_MAX, `${rawBytes} bytes of device state`);
  const head = encodeHead({ tag: "deviceState", epoch, bodyBytes: 4, data, compressed: true });
  viewOf(head).setUint32(HEADER_BYTES, rawBytes, true);
  return [head, data];
}

export function encodeEpochEnd(epoch: number, totals: EpochTotals): FrameParts {
  const head = encodeHead({ tag: "epochEnd", epoch, bodyBytes: 20 });
  const view = viewOf(head);
  writeUint32(view, HEADER_BYTES, totals.pageCount);
  writeUint32(view, HEADER_BYTES + 4, totals.diskRecords);
  writeUint64(view, HEADER_BYTES + 8, totals.bytes);
  writeUint32(view, HEADER_BYTES + 16, totals.deviceStateBytes);
  return [head];
}

/** `hashes` has DISK_HASH_BYTES for each granule from `firstGranule` on. */
export function encodeDiskHashes(disk: number, firstGranule: number, hashes: Uint8Array): FrameParts {
  assert(hashes.byteLength % DISK_HASH_BYTES === 0, "whole hashes");
  const head = encodeHead({ tag: "diskHashes", epoch: 0, bodyBytes: 12, data: hashes });
  const view = viewOf(head);
  const count = hashes.byteLength / DISK_HASH_BYTES;
  assert(firstGranule + count <= 2 ** 32, `${count} hashes from granule ${firstGranule}`);
  writeDisk(view, disk);
  writeUint32(view, HEADER_BYTES + 4, firstGranule);
  writeUint32(view, HEADER_BYTES + 8, count);
  return [head, hashes];
}

export function encodeDiskHashesWanted(disk: number, granuleBytes: number): FrameParts {
  assert(granuleBytes > 0, "a granule has a size");
  const head = encodeHead({ tag: "diskHashesWanted", epoch: 0, bodyBytes: 8 });
  const view = viewOf(head);
  writeDisk(view, disk);
  writeUint32(view, HEADER_BYTES + 4, granuleBytes);
  return [head];
}

export function encodeDiskHashesEnd(disk: number): FrameParts {
  const head = encodeHead({ tag: "diskHashesEnd", epoch: 0, bodyBytes: 4 });
  writeDisk(viewOf(head), disk);
  return [head];
}

export function encodeBulkEnd(): FrameParts {
  return [encodeHead({ tag: "bulkEnd", epoch: 0, bodyBytes: 0 })];
}

export function encodePageDeltas(epoch: number, { pages, masks, data }: PageDeltas): FrameParts {
  const count = pages.length;
  assert(count > 0 && count <= PAGES_PER_FRAME_MAX && masks.length === 2 * count, `deltas of ${count} pages`);
  assert(data.byteLength === WIRE_BLOCK_BYTES * countSetBits(masks), "the blocks are those of the masks");
  const head = encodeHead({ tag: "pageDeltas", epoch, bodyBytes: 4 + 12 * count, data });
  viewOf(head).setUint32(HEADER_BYTES, count, true);
  const table = new Uint32Array(head.buffer, HEADER_BYTES + 4, 3 * count);
  table.set(pages);
  table.set(masks, count);
  return [head, data];
}

export function encodeStateDelta(epoch: number, { rawBytes, masks, data }: StateDelta): FrameParts {
  assert(rawBytes > 0 && rawBytes <= DEVICE_STATE_BYTES_MAX, `${rawBytes} bytes of device state`);
  assert(masks.length === Math.ceil(rawBytes / STATE_MASK_BYTES), `${masks.length} masks for ${rawBytes} bytes`);
  assert(data.byteLength === WIRE_BLOCK_BYTES * countSetBits(masks), "the blocks are those of the masks");
  const head = encodeHead({ tag: "stateDelta", epoch, bodyBytes: 4 + 4 * masks.length, data });
  viewOf(head).setUint32(HEADER_BYTES, rawBytes, true);
  new Uint32Array(head.buffer, HEADER_BYTES + 4, masks.length).set(masks);
  return [head, data];
}

type Head = {
  readonly tag: FrameTag;
  readonly epoch: number;
  /** Payload bytes that go into the head's own array. */
  readonly bodyBytes: number;
  /** Payload that follows it uncopied. */
  readonly data?: Uint8Array;
  readonly compressed?: boolean;
};

/** An array with the header written and room for the body. A length over the limit is a bug of the caller. */
function encodeHead({ tag, epoch, bodyBytes, data, compressed = false }: Head): Uint8Array {
  const length = bodyBytes + (data?.byteLength ?? 0);
  const { minBytes, maxBytes } = PAYLOAD_LIMITS[tag];
  assert(length >= minBytes && length <= maxBytes, `a ${tag} frame of ${length} bytes`);
  assert(Number.isInteger(epoch) && epoch >= 0 && epoch <= EPOCH_MAX, `epoch ${epoch}`);
  assert(isEpochAllowed(tag, epoch), `a ${tag} frame of epoch ${epoch}`);
  const head = new Uint8Array(HEADER_BYTES + bodyBytes);
  const view = viewOf(head);
  view.setUint16(0, MAGIC, true);
  view.setUint8(2, PROTOCOL_VERSION);
  view.setUint8(3, FRAME_TYPES[tag]);
  view.setUint16(4, compressed ? FLAG_COMPRESSED : 0, true);
  view.setUint16(6, Math.floor(epoch / 2 ** 32), true);
  view.setUint32(8, epoch % 2 ** 32, true);
  view.setUint32(12, length, true);
  return head;
}

/** Writes the count and the table, and returns how many pages it names. */
function writeRuns(head: Uint8Array, tableAt: number, { starts, counts }: RunTable): number {
  const runCount = starts.length;
  assert(counts.length === runCount, "starts and counts belong together");
  viewOf(head).setUint32(HEADER_BYTES, runCount, true);
  // Typed arrays have the byte order of the processor; Node runs on little-endian ones only.
  const table = new Uint32Array(head.buffer, HEADER_BYTES + tableAt, 2 * runCount);
  table.set(starts);
  table.set(counts, runCount);
  let pages = 0;
  for (let run = 0; run < runCount; run += 1) {
    const count = counts[run] ?? 0;
    assert(count > 0 && (starts[run] ?? 0) + count <= 2 ** 32, "a run has pages, and none past the last number");
    pages += count;
  }
  return pages;
}

function writeDisk(view: DataView, disk: number): void {
  assert(Number.isInteger(disk) && disk >= 0 && disk <= 0xff, `disk number ${disk}`);
  view.setUint8(HEADER_BYTES, disk);
}

function writeUint32(view: DataView, at: number, value: number): void {
  assert(Number.isInteger(value) && value >= 0 && value < 2 ** 32, `${value} in 32 bits`);
  view.setUint32(at, value, true);
}

function writeUint64(view: DataView, at: number, value: number): void {
  assert(Number.isSafeInteger(value) && value >= 0, `${value} is a safe integer`);
  view.setUint32(at, value % 2 ** 32, true);
  view.setUint32(at + 4, Math.floor(value / 2 ** 32), true);
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** Any frame there can be, for property tests: the encoded parts beside the frame they have to be decoded to. */
import fc from "fast-check";
import { countSetBits } from "../../src/lib/bits.ts";
import * as frames from "../../src/protocol/frames.ts";
import { type MachineShape, type Message, type SyncBasis } from "../../src/protocol/messages.ts";

export type EncodedFrame = { readonly frame: frames.Frame; readonly parts: frames.FrameParts };

/** Records as JSON.parse makes them. */
function record<Value>(fields: { readonly [Key in keyof Value]: fc.Arbitrary<Value[Key]> }): fc.Arbitrary<Value> {
  return fc.record<Value>(fields, { noNullPrototype: true });
}

const count = fc.nat(1_000_000);
const wide = fc.maxSafeNat();
const name = fc.string({ minLength: 1, maxLength: 256, unit: "binary" }).filter((text) => text.length <= 256);
const text = fc.string({ maxLength: 256 });
const epoch = fc.oneof(fc.constant(0), fc.integer({ min: 1, max: 2 ** 48 - 1 }));
const laterEpoch = fc.integer({ min: 1, max: 2 ** 48 - 1 });
const disk = fc.nat(255);
const uint32 = fc.nat(2 ** 32 - 1);
const data = fc.uint8Array({ minLength: 1, maxLength: 9000 });

const shape: fc.Arbitrary<MachineShape> = record({
  qemuVersion: name,
  machine: name,
  ramBlocks: fc.array(record({ name, bytes: wide }), { maxLength: 6 }),
  disks: fc.array(record({ id: name, bytes: wide }), { maxLength: 6 }),
  devices: fc.array(record({ model: name, count: wide }), { maxLength: 6 }),
});

const basis: fc.Arbitrary<SyncBasis> = fc.oneof(
  record({ tag: fc.constant("delta" as const), session: name, epoch: wide }),
  record({ tag: fc.constantFrom("hashes" as const, "full" as const) }),
);

const refusal = fc.constantFrom(
  ...(["ProtocolVersion", "WrongGuest", "StaleTerm", "MachineMismatch", "RamMismatch"] as const),
  ...(["DiskTooSmall", "NotStandby", "TakeoverPending"] as const),
);

/** One arbitrary per tag: a message that is added without one does not type-check. */
export const messagesByTag: {
  readonly [Tag in Message["tag"]]: fc.Arbitrary<Extract<Message, { readonly tag: Tag }>>;
} = {
  hello: record({ tag: fc.constant("hello"), version: wide, guest: name, node: name, term: wide, shape }),
  welcome: record({
    tag: fc.constant("welcome"),
    version: wide,
    node: name,
    term: wide,
    holds: fc.option(record({ session: name, epoch: wide })),
    disksKnown: fc.boolean(),
  }),
  refuse: record({ tag: fc.constant("refuse"), code: refusal, message: text, term: wide }),
  heartbeat: record({ tag: fc.constant("heartbeat"), sequence: wide, echo: wide }),
  syncBegin: record({ tag: fc.constant("syncBegin"), session: name, ram: basis, disks: basis }),
  ack: record({ tag: fc.constant("ack"), session: name, epoch: wide }),
  inSync: record({ tag: fc.constant("inSync"), session: name, epoch: wide, version: wide }),
  resume: record({ tag: fc.constant("resume"), session: name }),
  resumed: record({ tag: fc.constant("resumed"), session: name, epoch: wide }),
  stale: record({ tag: fc.constant("stale"), session: name, reason: text }),
  expectGuest: record({ tag: fc.constant("expectGuest"), session: name }),
  handOver: record({ tag: fc.constant("handOver"), session: name, epoch: wide, term: wide }),
  guestDied: record({ tag: fc.constant("guestDied"), epoch: wide }),
  guestShutDown: record({ tag: fc.constant("guestShutDown") }),
};
export const anyMessage: fc.Arbitrary<Message> = fc.oneof(...Object.values(messagesByTag));

const encodedMessage: fc.Arbitrary<EncodedFrame> = anyMessage.map((message) => ({
  frame: { tag: "message", message },
  parts: frames.encodeMessage(message),
}));

/** Up to 12 runs of 1 to 4 pages, anywhere, overlapping or not. */
const anyRuns = fc
  .array(fc.tuple(fc.nat(2 ** 32 - 5), fc.integer({ min: 1, max: 4 })), { minLength: 1, maxLength: 12 })
  .map((runs) => ({ starts: Uint32Array.from(runs, ([s]) => s), counts: Uint32Array.from(runs, ([, c]) => c) }));

const encodedPages: fc.Arbitrary<EncodedFrame> = record({
  epoch,
  runs: anyRuns,
  fill: fc.nat(255),
  compressed: fc.option(data),
}).map(({ epoch, runs, fill, compressed }) => {
  const rawBytes = 4096 * runs.counts.reduce((sum, pages) => sum + pages, 0);
  const bytes = compressed ?? new Uint8Array(rawBytes).fill(fill);
  const parts = frames.encodePages(epoch, runs, bytes, compressed === null ? undefined : rawBytes);
  const payloadBytes = frames.payloadBytesOf(parts);
  const wire = { data: bytes, compressed: compressed !== null, rawBytes };
  return { frame: { tag: "pages", epoch, payloadBytes, ...runs, ...wire }, parts };
});

const encodedZeroPages: fc.Arbitrary<EncodedFrame> = record({ epoch, runs: anyRuns }).map(({ epoch, runs }) => {
  const parts = frames.encodeZeroPages(epoch, runs);
  return { frame: { tag: "zeroPages", epoch, payloadBytes: frames.payloadBytesOf(parts), ...runs }, parts };
});

const encodedDiskWrite: fc.Arbitrary<EncodedFrame> = record({ epoch, disk, offset: fc.nat(2 ** 52), data }).map(
  ({ epoch, disk, offset, data }) => {
    const parts = frames.encodeDiskWrite(epoch, disk, offset, data);
    const payloadBytes = frames.payloadBytesOf(parts);
    return { frame: { tag: "diskWrite", epoch, payloadBytes, disk, offset, data }, parts };
  },
);

const encodedDiskZero: fc.Arbitrary<EncodedFrame> = record({
  epoch,
  disk,
  offset: fc.nat(2 ** 52),
  bytes: fc.integer({ min: 1, max: 2 ** 52 - 1 }),
}).map(({ epoch, disk, offset, bytes }) => ({
  frame: { tag: "diskZero", epoch, payloadBytes: 24, disk, offset, bytes },
  parts: frames.encodeDiskZero(epoch, disk, offset, bytes),
}));

const encodedDeviceState: fc.Arbitrary<EncodedFrame> = record({
  epoch: laterEpoch,
  data,
  rawBytes: fc.option(fc.integer({ min: 1, max: 64 * 2 ** 20 })),
}).map(({ epoch, data, rawBytes }) => {
  const parts = frames.encodeDeviceState(epoch, data, rawBytes ?? undefined);
  const payloadBytes = frames.payloadBytesOf(parts);
  const wire = { data, compressed: rawBytes !== null, rawBytes: rawBytes ?? data.length };
  return { frame: { tag: "deviceState", epoch, payloadBytes, ...wire }, parts };
});

const encodedEpochEnd: fc.Arbitrary<EncodedFrame> = record({
  epoch: laterEpoch,
  pageCount: uint32,
  diskRecords: uint32,
  bytes: wide,
  deviceStateBytes: uint32,
}).map(({ epoch, ...totals }) => ({
  frame: { tag: "epochEnd", epoch, ...totals },
  parts: frames.encodeEpochEnd(epoch, totals),
}));

const encodedDiskHashes: fc.Arbitrary<EncodedFrame> = record({
  disk,
  firstGranule: count,
  hashes: fc.array(fc.uint8Array({ minLength: 16, maxLength: 16 }), { minLength: 1 }),
}).map(({ disk, firstGranule, hashes: list }) => {
  const hashes = Uint8Array.from(list.flatMap((hash) => [...hash]));
  const parts = frames.encodeDiskHashes(disk, firstGranule, hashes);
  return { frame: { tag: "diskHashes", disk, firstGranule, count: list.length, hashes }, parts };
});

const mask = fc.nat(2 ** 32 - 1);

/** The blocks that `masks` name, each filled with its place. */
function fillBlocks(masks: Uint32Array): Uint8Array {
  return Uint8Array.from({ length: 64 * countSetBits(masks) }, (_, at) => at >>> 6);
}

const encodedPageDeltas: fc.Arbitrary<EncodedFrame> = record({
  epoch: laterEpoch,
  deltas: fc.array(
    fc.tuple(
      uint32,
      mask,
      mask.map((high) => (high | 1) >>> 0),
    ),
    { minLength: 1, maxLength: 6 },
  ),
}).map(({ epoch, deltas }) => {
  const pages = Uint32Array.from(deltas, ([page]) => page);
  const masks = Uint32Array.from(deltas.flatMap(([, low, high]) => [low, high]));
  const changed = { pages, masks, data: fillBlocks(masks) };
  const parts = frames.encodePageDeltas(epoch, changed);
  return { frame: { tag: "pageDeltas", epoch, payloadBytes: frames.payloadBytesOf(parts), ...changed }, parts };
});

const encodedStateDelta: fc.Arbitrary<EncodedFrame> = record({
  epoch: laterEpoch,
  rawBytes: fc.integer({ min: 1, max: 9000 }),
  seed: mask,
}).map(({ epoch, rawBytes, seed }) => {
  const blocks = Math.ceil(rawBytes / 64);
  const masks = Uint32Array.from({ length: Math.ceil(rawBytes / 2048) }, (_, index) => {
    const here = Math.min(32, blocks - 32 * index);
    return here === 32 ? seed : seed & (2 ** here - 1);
  });
  const changed = { rawBytes, masks, data: fillBlocks(masks) };
  const parts = frames.encodeStateDelta(epoch, changed);
  return { frame: { tag: "stateDelta", epoch, payloadBytes: frames.payloadBytesOf(parts), ...changed }, parts };
});

/** One arbitrary per tag: a frame that is added without one does not type-check. */
const encodedByTag: Readonly<Record<frames.FrameTag, fc.Arbitrary<EncodedFrame>>> = {
  message: encodedMessage,
  pages: encodedPages,
  zeroPages: encodedZeroPages,
  diskWrite: encodedDiskWrite,
  diskZero: encodedDiskZero,
  deviceState: encodedDeviceState,
  epochEnd: encodedEpochEnd,
  diskHashes: encodedDiskHashes,
  diskHashesWanted: record({ disk, granuleBytes: fc.integer({ min: 1, max: 2 ** 32 - 1 }) }).map((wanted) => ({
    frame: { tag: "diskHashesWanted", ...wanted },
    parts: frames.encodeDiskHashesWanted(wanted.disk, wanted.granuleBytes),
  })),
  diskHashesEnd: disk.map((number) => ({
    frame: { tag: "diskHashesEnd", disk: number },
    parts: frames.encodeDiskHashesEnd(number),
  })),
  pageDeltas: encodedPageDeltas,
  stateDelta: encodedStateDelta,
  bulkEnd: fc.constant({ frame: { tag: "bulkEnd" }, parts: frames.encodeBulkEnd() }),
};
export const anyEncodedFrame: fc.Arbitrary<EncodedFrame> = fc.oneof(...Object.values(encodedByTag));

export function joinParts(parts: readonly Uint8Array[]): Uint8Array {
  return new Uint8Array(Buffer.concat(parts));
}

/** Cuts `bytes` into chunks with memory of their own, as a socket gives them; `sizes` are used again and again. */
export function cutChunks(bytes: Uint8Array, sizes: readonly number[]): Uint8Array[] {
  const chunks: Uint8Array[] = [];
  for (let at = 0; at < bytes.length;) {
    const size = Math.max(1, sizes[chunks.length % sizes.length] ?? bytes.length);
    chunks.push(bytes.slice(at, at + size));
    at += size;
  }
  return chunks;
}

/** What a standby makes of deltas equals what the primary had, whatever was written in between. */
import { expect, test } from "@jest/globals";
import { Random } from "../lib/random.ts";
import { PageRuns } from "../memory/page-runs.ts";
import { PAGE_BYTES } from "../memory/ram-blocks.ts";
import { encodeDeviceState, encodeStateDelta, type FrameParts, WIRE_BLOCK_BYTES } from "../protocol/frames.ts";
import { FrameDecoder } from "../protocol/frame-decoder.ts";
import { DeviceStates } from "./device-states.ts";
import { DeltaBuffer, SentPages, SentState } from "./sent-pages.ts";

/** More than there are places, so that pages push one another out. */
const PAGES = 5000;

function writeSomewhere(random: Random, memory: Buffer, page: number): void {
  for (let writes = random.below(4); writes > 0; writes -= 1) {
    const bytes = 1 + random.below(200);
    const at = page * PAGE_BYTES + random.below(PAGE_BYTES - bytes);
    memory.fill(random.below(256), at, at + bytes);
  }
}

function applyWhole(runs: PageRuns, pages: Buffer, standby: Buffer): void {
  let at = 0;
  for (let run = 0; run < runs.length; run += 1) {
    const bytes = runs.count(run) * PAGE_BYTES;
    pages.copy(standby, runs.start(run) * PAGE_BYTES, at, at + bytes);
    at += bytes;
  }
}

function applyDeltas(deltas: DeltaBuffer, standby: Buffer): void {
  let from = 0;
  for (let index = 0; index < deltas.pageCount; index += 1) {
    for (let block = 0; block < 64; block += 1) {
      if ((((deltas.masks[2 * index + (block >>> 5)] ?? 0) >>> (block & 31)) & 1) === 1) {
        const at = (deltas.pages[index] ?? 0) * PAGE_BYTES + block * WIRE_BLOCK_BYTES;
        deltas.data.copy(standby, at, from, from + WIRE_BLOCK_BYTES);
        from += WIRE_BLOCK_BYTES;
      }
    }
  }
  expect(from).toBe(deltas.blockCount * WIRE_BLOCK_BYTES);
}

test.each([1, 2, 3])("pages of two hundred epochs, seed %i", (seed) => {
  const random = new Random(seed);
  const memory = Buffer.alloc(PAGES * PAGE_BYTES);
  const standby = Buffer.alloc(PAGES * PAGE_BYTES);
  const sent = new SentPages();
  const deltas = new DeltaBuffer();
  const whole = new PageRuns(4);
  let deltaPages = 0;
  for (let epoch = 0; epoch < 200; epoch += 1) {
    const runs = new PageRuns();
    const pages: Buffer[] = [];
    // A hot region that is written to in each epoch, and pages anywhere.
    for (let page = 0; page < PAGES; page += page < 60 ? 1 : 1 + random.below(200)) {
      writeSomewhere(random, memory, page);
      runs.add(page, 1);
      pages.push(memory.subarray(page * PAGE_BYTES, (page + 1) * PAGE_BYTES));
    }
    const copied = Buffer.concat(pages);
    sent.sort(runs, copied, deltas, whole);
    deltaPages += deltas.pageCount;
    applyWhole(whole, copied, standby);
    applyDeltas(deltas, standby);
    if (random.below(50) === 0) {
      sent.forget();
    }
  }
  expect(standby.equals(memory)).toBe(true);
  expect(deltaPages).toBeGreaterThan(200 * 30);
});

test("a page that was written with what it held is not sent", () => {
  const sent = new SentPages();
  const deltas = new DeltaBuffer();
  const whole = new PageRuns(4);
  const runs = new PageRuns(4);
  runs.add(7, 1);
  const page = Buffer.alloc(PAGE_BYTES, 5);
  sent.sort(runs, page, deltas, whole);
  expect([whole.pageCount, deltas.pageCount]).toEqual([1, 0]);
  sent.sort(runs, page, deltas, whole);
  expect([whole.pageCount, deltas.pageCount]).toEqual([0, 0]);
});

test.each([4, 5])("device states of changing length, seed %i", (seed) => {
  const random = new Random(seed);
  const sent = new SentState();
  const states = new DeviceStates();
  const decoder = new FrameDecoder();
  const slot = Buffer.alloc(300_000, 0xee);
  let bytes = 100_001;
  let held: Uint8Array | undefined;
  let deltasCount = 0;
  for (let epoch = 1; epoch < 300; epoch += 1) {
    if (random.below(40) === 0) {
      bytes = 1 + random.below(200_000);
    }
    const at = random.below(bytes);
    slot.fill(random.below(256), at, Math.min(bytes, at + random.below(500)));
    const expected = Buffer.from(slot.subarray(0, bytes));
    let parts: FrameParts;
    if (sent.compare(slot, bytes)) {
      deltasCount += 1;
      const data = sent.changes.data.subarray(0, sent.changes.blockCount * WIRE_BLOCK_BYTES);
      parts = encodeStateDelta(epoch, { rawBytes: bytes, masks: sent.masks, data });
    } else {
      parts = encodeDeviceState(epoch, expected);
    }
    const [frame] = decoder.push(new Uint8Array(Buffer.concat(parts)));
    const state =
      frame?.tag === "stateDelta"
        ? states.derive(frame)
        : frame?.tag === "deviceState"
          ? states.take(bytes, frame.data)
          : undefined;
    states.giveBack(held);
    held = state;
    expect(Buffer.compare(Buffer.from(state ?? []), expected)).toBe(0);
  }
  expect(deltasCount).toBeGreaterThan(250);
});

test("a change of a state that is not here is refused", () => {
  const states = new DeviceStates();
  const delta = { rawBytes: 64, masks: Uint32Array.of(1), data: new Uint8Array(64) };
  expect(() => states.derive(delta)).toThrow(/here is none/);
  states.take(65, new Uint8Array(65));
  expect(() => states.derive(delta)).toThrow(/here is 65 bytes/);
});

import { describe, expect, test } from "@jest/globals";
import { type CompressionState, observeCompressed, observeSent, planPages, startCompression } from "./compression.ts";

const MIB = 1024 * 1024;
const slowLink = (state: CompressionState): CompressionState => observeSent(state, MIB, 100);
const goodCompressor = { rawBytes: MIB, bytes: MIB / 4, ms: 3 };

describe("compression of pages", () => {
  test("a link that was not measured => as they are", () => {
    expect(planPages(startCompression(), MIB).compress).toBe(false);
  });

  test("a fast link => as they are, and not even a trial", () => {
    const fast = observeSent(startCompression(), MIB, 1);
    expect(planPages(fast, MIB).compress).toBe(false);
  });

  test("a slow link => a trial, and on when it saves", () => {
    const first = planPages(slowLink(startCompression()), MIB);
    expect(first.compress).toBe(true);
    let { state } = first;
    for (let epoch = 0; epoch < 8; epoch += 1) {
      state = observeCompressed(state, goodCompressor);
    }
    expect(planPages(state, MIB).compress).toBe(true);
  });

  test("pages that do not shrink => off again until the next trial", () => {
    let state = slowLink(startCompression());
    for (let epoch = 0; epoch < 8; epoch += 1) {
      state = observeCompressed(state, goodCompressor);
    }
    for (let epoch = 0; epoch < 40; epoch += 1) {
      state = observeCompressed(state, { rawBytes: MIB, bytes: MIB, ms: 10 });
    }
    expect(planPages(state, MIB).compress).toBe(false);
  });

  test("a link that became fast => off", () => {
    let state = slowLink(startCompression());
    for (let epoch = 0; epoch < 8; epoch += 1) {
      state = observeCompressed(state, goodCompressor);
    }
    for (let epoch = 0; epoch < 60; epoch += 1) {
      state = observeSent(state, MIB, 0.5);
    }
    expect(planPages(state, MIB).compress).toBe(false);
  });
});

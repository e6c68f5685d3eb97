import { expect, test } from "@jest/globals";
import fc from "fast-check";
import { SampleWindow } from "./sample-window.ts";

test("quantiles are nearest-rank over the samples still in the ring", () => {
  fc.assert(
    fc.property(fc.array(fc.double({ noNaN: true })), fc.integer({ min: 1, max: 40 }), (values, capacity) => {
      const window = new SampleWindow(capacity);
      for (const value of values) {
        window.add(value);
      }
      const kept = values.slice(-capacity).sort((a, b) => a - b);
      const { p50, p99, max, count } = window.figures();
      expect(p50).toBe(kept[Math.ceil(kept.length * 0.5) - 1] ?? 0);
      expect(p99).toBe(kept[Math.ceil(kept.length * 0.99) - 1] ?? 0);
      expect(max).toBe(kept.at(-1) ?? 0);
      expect(count).toBe(values.length);
    }),
  );
});

test("sum and count outlive the ring and a clear", () => {
  const window = new SampleWindow(2);
  for (const value of [1, 2, 4]) {
    window.add(value);
  }
  window.clear();
  expect(window.figures()).toEqual({ p50: 0, p99: 0, max: 0, sum: 7, count: 3 });
});

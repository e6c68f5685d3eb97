import { expect, test } from "@jest/globals";
import { LinkMeter } from "./link-meter.ts";

const MIB = 2 ** 20;

test("a rate is that of the last ten seconds, and the peak that of a moment of all guests together", () => {
  const meter = new LinkMeter();
  meter.note("web", 0, 0);
  expect(meter.read("web")).toBeUndefined();
  // A first copy, and quiet after it; a neighbour sends along.
  meter.note("db", 0, 200);
  meter.note("web", 500 * MIB, 1_000);
  meter.note("db", 100 * MIB, 1_200);
  for (let second = 2; second <= 20; second += 1) {
    meter.note("web", (500 + 2 * (second - 1)) * MIB, second * 1_000);
  }
  expect(meter.read("web")).toEqual({ bytesPerSecond: 2 * MIB, nodePeakBytesPerSecond: 600 * MIB });
  expect(meter.read("db")?.bytesPerSecond).toBe(100 * MIB);
});

test("a new engine counts from its start, one without news reports rarely, and one that ended is forgotten", () => {
  const meter = new LinkMeter();
  meter.note("web", 90 * MIB, 0);
  meter.note("web", 1 * MIB, 1_000);
  expect(meter.read("web")).toBeUndefined();
  meter.note("web", 13 * MIB, 13_000);
  expect(meter.read("web")?.bytesPerSecond).toBe(MIB);
  meter.note("web", 14 * MIB, 13_100); // Too soon to say anything.
  expect(meter.read("web")?.bytesPerSecond).toBe(MIB);
  meter.forget("web");
  expect(meter.read("web")).toBeUndefined();
});

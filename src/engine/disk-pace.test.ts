import { expect, test } from "@jest/globals";
import { type DiskPace, freshDiskPace, observePace, usualMsOf } from "./disk-pace.ts";

const observe = (pace: DiskPace, ...means: readonly number[]): DiskPace =>
  means.reduce((now, meanMs) => observePace(now, { count: 10, totalMs: 10 * meanMs }), pace);
const usual = observe(freshDiskPace, ...Array.from({ length: 20 }, () => 2));

test("a disk that takes far longer than usual is slow, but not for one hiccup", () => {
  expect(observe(usual, 100).isSlow).toBe(false);
  expect(observe(usual, 100, 2, 100, 2).isSlow).toBe(false);
  const slow = observe(usual, 100, 120);
  expect(slow).toMatchObject({ isSlow: true, meanMs: 120 });
  expect(usualMsOf(slow)).toBeCloseTo(2);
});

test("it is well again when requests are as fast as before, and a slow hour does not become usual", () => {
  const slow = observe(usual, ...Array.from({ length: 720 }, () => 100));
  expect(slow.isSlow).toBe(true);
  expect(observe(slow, 3).isSlow).toBe(true);
  expect(observe(slow, 3, 3).isSlow).toBe(false);
});

test("a fast disk may take ten times as long without holding anybody up", () => {
  const fast = observe(freshDiskPace, ...Array.from({ length: 20 }, () => 0.05));
  expect(observe(fast, 5, 5, 5).isSlow).toBe(false);
});

test("a disk that was slow from the start is slow as well", () => {
  expect(observe(freshDiskPace, 900, 900).isSlow).toBe(true);
});

test("a disk that has always been so is not, and slow growth is followed", () => {
  const archive = observe(freshDiskPace, ...Array.from({ length: 20 }, () => 80));
  expect(observe(archive, 200, 200, 200).isSlow).toBe(false);
  const growing = observe(usual, ...Array.from({ length: 400 }, (_, index) => 2 + index / 20));
  expect(growing.isSlow).toBe(false);
});

test("too few requests say nothing", () => {
  expect(observePace(usual, { count: 1, totalMs: 10_000 })).toBe(usual);
});
